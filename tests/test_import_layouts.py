"""Layouts as authors publish them, each against a network written out here: tensors arrive bit for bit, and compute the same."""

import argparse
import collections
import pathlib
import re

import pytest
import torch
from foreign_networks import ResNet, ViT, pixels, randomised
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel

from sslzoo.encoders import build_encoder, convert_weights, features, load_pretrained
from sslzoo.encoders.resnet_layouts import convert_resnet
from sslzoo.encoders.vit_layouts import convert_vit
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import import_weights, write_card
from sslzoo.hub.weights_file import read_tensors
from sslzoo.run import Run


def basic(seed=0, **how):
    return randomised(ResNet(8, (8, 16), (1, 2), bottleneck=False, **how), seed)


def bottleneck(seed=0, stem=8, **how):
    return randomised(ResNet(stem, (stem, 2 * stem), (2, 1), bottleneck=True, **how), seed)


def vit(seed=0, width=128, layers=2, heads=2, size=32, patch=8, **how):
    return randomised(ViT(size, patch, width, layers, heads, **how), seed)


def named(network, prefix="", head=None):
    """The state under a prefix. head: what the layer for classes on top is called, if not as it is."""
    state = network.state_dict()
    return {prefix + (re.sub(r"^(fc|head)\.", f"{head}.", name) if head else name): value for name, value in state.items()}


def bare(network, prefix=""):
    """Without the layer for classes."""
    return {prefix + name: value for name, value in network.state_dict().items() if not name.startswith(("fc.", "head."))}


def mlp(prefix, layers=2):
    """Weights of a head, each with a batch norm."""
    head = nn.Sequential(*[part for _ in range(layers) for part in (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())])
    return {prefix + name: value for name, value in head.state_dict().items()}


def renamed(state, *changes):
    """With parts of the names replaced, in turn."""
    for old, by in changes:
        state = {name.replace(old, by): value for name, value in state.items()}
    return state


def numbered(network, places, prefix=""):
    """As in an nn.Sequential of the network's parts."""
    places = dict(zip(("conv1", "bn1", "layer1", "layer2"), places, strict=True))
    state = bare(network)
    return {f"{prefix}{places[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in state.items()}


SGD = {"state": {0: {"momentum_buffer": torch.zeros(4)}, 1: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
ARGS = argparse.Namespace(arch="resnet50", lr=0.03, output_dir=pathlib.PurePosixPath("/out"), nested=argparse.Namespace(a=[1]))


def without_counters(state):
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def of_transformers(kind, network):
    """What transformers writes of a network."""
    state = {}
    for name, value in network.state_dict().items():
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            state |= {name.replace("attn.qkv", f"attention.attention.{part}"): third.clone() for part, third in parts}
        else:
            state[re.sub(r"^norm\.", "layernorm.", re.sub(r"^head\.", "classifier.", name))] = value
    of_kind = {
        "vit": [
            ("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")
        ],
        "dinov2": [("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1")],
    }  # fmt: skip
    return renamed(
        state, ("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"),
        ("register_tokens", "embeddings.register_tokens"), ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks.", "encoder.layer."), ("attn.proj", "attention.output.dense"), *of_kind[kind],
    )  # fmt: skip


def behind(prefix, state, but=("classifier.",)):
    return {(name if name.startswith(but) else prefix + name): value for name, value in state.items()}


def v5(state):
    """As transformers 5 calls the same in memory."""
    parts = [(f"attention.attention.{part}", f"attention.{part[0]}_proj") for part in ("query", "key", "value")]
    return renamed(
        state, *parts, ("encoder.layer.", "layers."), ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
    )  # fmt: skip


def resnet_of_transformers(network):
    state = {}
    for name, value in named(network, head="classifier.1").items():
        parts = name.split(".")
        kind = {"conv": "convolution", "bn": "normalization"}
        if parts[0] in ("conv1", "bn1"):
            name = f"resnet.embedder.embedder.{kind[parts[0][:-1]]}.{parts[1]}"
        elif parts[0].startswith("layer"):
            block = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                name = f"{block}.shortcut.{('convolution', 'normalization')[int(parts[3])]}.{parts[4]}"
            else:
                name = f"{block}.layer.{int(parts[2][-1]) - 1}.{kind[parts[2][:-1]]}.{parts[3]}"
        state[name] = value
    return state


A, B = 0, 1  # seeds: of the branch that the authors evaluate, and of the other
SMALL = {"small": True}
DINOV2 = {"scaled": True, "size": 28, "patch": 14}
MASK = {"mask_token": torch.ones(1, 128)}

# By layout: what the file holds, the network that must come out, and the branch that it is in.
RESNETS = {
    "torchvision, basic": (lambda: named(basic()), basic, ""),
    "torchvision, bottlenecks": (lambda: named(bottleneck()), bottleneck, ""),
    "torchvision before torch 0.4.1": (lambda: without_counters(named(bottleneck())), bottleneck, ""),
    "MoCo v2": (
        lambda: {
            "epoch": 200, "arch": "resnet50", "optimizer": SGD,
            "state_dict": named(bottleneck(A), "module.encoder_q.", "fc.0") | mlp("module.encoder_q.fc.2.")
            | named(bottleneck(B), "module.encoder_k.", "fc.0")
            | {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1).long()},
        },
        bottleneck, "module.encoder_q",
    ),
    "MoCo v1, query alone": (lambda: {"state_dict": named(basic(), "module.encoder_q.")}, basic, "module.encoder_q"),
    "MoCo v3": (
        lambda: {
            "state_dict": named(bottleneck(A), "module.base_encoder.", "fc.0") | named(bottleneck(B), "module.momentum_encoder.", "fc.0")
            | mlp("module.predictor.")
        },
        bottleneck, "module.base_encoder",
    ),
    "SimSiam": (
        lambda: {"state_dict": named(bottleneck(), "module.encoder.", "fc.0") | mlp("module.predictor."), "optimizer": SGD},
        bottleneck, "module.encoder",
    ),
    "Barlow Twins in training": (
        lambda: {"epoch": 1, "model": bare(bottleneck(), "module.backbone.") | mlp("module.projector.", 3), "optimizer": SGD},
        bottleneck, "module.backbone",
    ),
    "Barlow Twins": (lambda: bare(bottleneck()), bottleneck, ""),
    "VICReg in training": (
        lambda: {"model": bare(bottleneck(), "module.backbone.") | mlp("module.projector.", 3)}, bottleneck, "module.backbone"
    ),
    "SwAV": (
        lambda: bare(bottleneck(), "module.") | mlp("module.projection_head.") | {"module.prototypes.weight": torch.zeros(9, 4)},
        bottleneck, "module",
    ),
    "SwAV, twice as wide": (lambda: bare(bottleneck(stem=16), "module."), lambda: bottleneck(stem=16), "module"),
    "DINO": (
        lambda: {
            "student": bare(bottleneck(B), "module.backbone.") | mlp("module.head.mlp."), "optimizer": SGD, "epoch": 100,
            "teacher": bare(bottleneck(A), "backbone.") | mlp("head.mlp."), "args": ARGS,
            "dino_loss": {"center": torch.zeros(1, 9)}, "fp16_scaler": {"scale": 1.0},
        },
        bottleneck, "teacher.backbone",
    ),
    "BYOL (lucidrains)": (
        lambda: named(bottleneck(A), "online_encoder.net.") | mlp("online_encoder.projector.") | named(bottleneck(B), "target_encoder.net.")
        | mlp("online_predictor."),
        bottleneck, "online_encoder.net",
    ),
    "BYOL (sthalles)": (
        lambda: {
            "online_network_state_dict": numbered(basic(A), (0, 1, 4, 5), "encoder.") | mlp("projetion.net."), "optimizer_state_dict": SGD,
            "target_network_state_dict": numbered(basic(B), (0, 1, 4, 5), "encoder.") | mlp("projetion.net."),
        },
        basic, "online_network_state_dict.encoder",
    ),
    "SimCLR (sthalles)": (
        lambda: {"arch": "resnet18", "state_dict": named(basic(), "backbone.", "fc.0") | mlp("backbone.fc.2."), "optimizer": SGD},
        basic, "backbone",
    ),
    "SupContrast": (
        lambda: {
            "opt": ARGS, "epoch": 1,
            "model": renamed(bare(bottleneck(**SMALL), "encoder.module."), ("downsample", "shortcut")) | mlp("head."),
        },
        lambda: bottleneck(**SMALL), "encoder.module",
    ),
    "kuangliu's CIFAR": (
        lambda: {"net": renamed(named(basic(**SMALL), "module.", "linear"), ("downsample", "shortcut")), "acc": 95.1, "epoch": 9},
        lambda: basic(**SMALL), "net.module",
    ),
    "solo-learn": (
        lambda: {
            "state_dict": bare(basic(A), "backbone.") | bare(basic(B), "momentum_backbone.")
            | mlp("projector.") | mlp("momentum_projector.") | mlp("classifier."),
            "hyper_parameters": collections.defaultdict(dict, optimizer=collections.defaultdict(list, lr=1)),
        },
        basic, "backbone",
    ),
    "an nn.Sequential": (lambda: {"state_dict": numbered(basic(), (0, 1, 4, 5), "backbone.") | mlp("projection_head.")}, basic, "backbone"),
    "an nn.Sequential for CIFAR, without its ReLU": (
        lambda: {"state_dict": numbered(basic(relu=False, **SMALL), (0, 1, 2, 3), "backbone.")},
        lambda: basic(relu=False, **SMALL), "backbone",
    ),
    "an nn.Sequential for CIFAR, with its ReLU": (lambda: numbered(basic(**SMALL), (0, 1, 3, 4), "f."), lambda: basic(**SMALL), "f"),
    "VISSL": (
        lambda: {"classy_state_dict": {"base_model": {"model": {"trunk": bare(basic(), "_feature_blocks."), "heads": mlp("0.")}}}},
        basic, "classy_state_dict.base_model.model.trunk._feature_blocks",
    ),
    "MMSelfSup": (
        lambda: {"meta": {"epoch": 1}, "state_dict": bare(basic(), "backbone.") | mlp("neck.fc.") | mlp("head.")},
        basic, "backbone",
    ),
    "a detector": (lambda: {"model": bare(basic(), "model.backbone.body.") | mlp("model.rpn.")}, basic, "backbone.body"),
    "timm with EMA": (
        lambda: {"state_dict": named(basic(B)), "state_dict_ema": named(basic(A)), "args": ARGS, "optimizer": SGD}, basic, "state_dict_ema"
    ),
    "lightly's TiCo": (
        lambda: {
            "state_dict": bare(basic(A), "backbone.") | bare(basic(B), "backbone_momentum.")
            | mlp("projection_head.layers.") | mlp("projection_head_momentum.layers.") | mlp("online_classifier.linear.")
        },
        basic, "backbone",
    ),
    "torch.compile": (lambda: named(basic(), "_orig_mod."), basic, ""),
    "FSDP": (lambda: {"model": renamed(named(basic()), ("layer1.", "layer1._fsdp_wrapped_module."))}, basic, ""),
    "transformers, with classes": (lambda: resnet_of_transformers(bottleneck()), bottleneck, "resnet"),
}  # fmt: skip

VITS = {
    "timm": (lambda: named(vit()), vit, ""),
    "timm, without a bias of queries, keys and values": (lambda: named(vit(bias=False)), lambda: vit(bias=False), ""),
    "timm, without a class token": (lambda: named(vit(class_token=False)), lambda: vit(class_token=False), ""),
    "MAE": (lambda: {"model": bare(vit())}, vit, ""),
    "MAE with its decoder": (
        lambda: {
            "model": bare(vit()) | {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 17, 64)}
            | mlp("decoder_embed.") | mlp("decoder_blocks.0.norm1.") | mlp("decoder_norm.") | mlp("decoder_pred."),
            "optimizer": SGD, "epoch": 1, "scaler": {}, "args": ARGS,
        },
        vit, "",
    ),
    "DINO": (lambda: bare(vit()), vit, ""),
    "DINO in training": (
        lambda: {
            "student": bare(vit(B), "module.backbone.") | mlp("module.head.mlp."), "optimizer": SGD, "args": ARGS,
            "teacher": bare(vit(A), "backbone.") | mlp("head.mlp."),
        },
        vit, "teacher.backbone",
    ),
    "iBOT": (
        lambda: {
            "student": bare(vit(B), "module.backbone.") | {"module.backbone.masked_embed": torch.zeros(1, 128)},
            "teacher": bare(vit(A), "backbone.") | {"backbone.masked_embed": torch.zeros(1, 128)} | mlp("head.mlp."),
            "ibot_loss": {"center": torch.zeros(1, 9), "center2": torch.zeros(1, 1, 9)}, "args": ARGS,
        },
        vit, "teacher.backbone",
    ),
    "iBOT, teacher alone": (lambda: {"state_dict": bare(vit())}, vit, ""),
    "MSN": (
        lambda: {
            "encoder": bare(vit(B), "module.") | mlp("module.fc."), "prototypes": torch.zeros(9, 4), "opt": SGD,
            "target_encoder": bare(vit(A), "module.") | mlp("module.fc."), "epoch": 1, "scaler": {"scale": 1.0},
        },
        vit, "target_encoder.module",
    ),
    "MoCo v3": (
        lambda: {
            "state_dict": named(vit(A, 384, 1, 12), "module.base_encoder.", "head.0") | mlp("module.base_encoder.head.1.")
            | named(vit(B, 384, 1, 12), "module.momentum_encoder.", "head.0") | mlp("module.predictor.")
        },
        lambda: vit(A, 384, 1, 12), "module.base_encoder",
    ),
    "I-JEPA": (
        lambda: {
            "encoder": bare(vit(B, class_token=False), "module."), "opt": SGD, "scaler": None, "epoch": 1, "loss": 0.1,
            "predictor": bare(vit(B, 256), "module.predictor_"),
            "target_encoder": bare(vit(A, class_token=False), "module."),
        },
        lambda: vit(class_token=False), "target_encoder.module",
    ),
    "DINOv2": (lambda: bare(vit(**DINOV2)) | MASK, lambda: vit(**DINOV2), ""),
    "DINOv2 with registers": (
        lambda: bare(vit(registers=4, **DINOV2)) | MASK, lambda: vit(registers=4, **DINOV2), ""
    ),
    "DINOv2, the largest": (lambda: named(vit(gated=("w12", "w3"), **DINOV2)) | MASK, lambda: vit(gated=("w12", "w3"), **DINOV2), ""),
    "DINOv2 in training": (
        lambda: {
            "teacher": renamed(bare(vit(**DINOV2), "backbone."), ("blocks.1.", "blocks.1.1."), ("blocks.0.", "blocks.0.0."))
            | {"backbone.mask_token": torch.ones(1, 128)} | mlp("dino_head.mlp.")
        },
        lambda: vit(**DINOV2), "teacher.backbone",
    ),
    "DINOv2 with registers in timm": (
        lambda: renamed(named(vit(registers=4, class_position=False, **DINOV2)), ("register_tokens", "reg_token")),
        lambda: vit(registers=4, class_position=False, **DINOV2), "",
    ),
    "DINOv2, the largest, in timm": (lambda: named(vit(gated=("fc1", "fc2"), **DINOV2)), lambda: vit(gated=("fc1", "fc2"), **DINOV2), ""),
    "DeiT III": (
        lambda: renamed(named(vit(scaled=True, class_position=False)), ("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")),
        lambda: vit(scaled=True, class_position=False), "",
    ),
    "data2vec": (lambda: {"model": named(vit(B)) | {"_ema": named(vit(A))}}, vit, "_ema"),
    "lightly's MAE": (
        lambda: {
            "state_dict": named(vit(), "backbone.vit.") | {"backbone.mask_token": torch.zeros(1, 1, 128)} | mlp("decoder.decoder_embed.")
        },
        vit, "backbone",
    ),
    "transformers' ViT, with classes": (lambda: behind("vit.", of_transformers("vit", vit())), vit, ""),
    "transformers' ViT as version 5 calls it": (lambda: behind("model.", v5(of_transformers("vit", vit()))), vit, ""),
    "transformers' MAE, with its decoder": (
        lambda: behind("vit.", of_transformers("vit", vit())) | mlp("decoder.decoder_layers.0.layernorm_before."), vit, ""
    ),
    "transformers' I-JEPA": (lambda: of_transformers("vit", vit(class_token=False)), lambda: vit(class_token=False), ""),
    "transformers' DINOv2": (
        lambda: of_transformers("dinov2", vit(**DINOV2)) | {"embeddings.mask_token": torch.ones(1, 128)}, lambda: vit(**DINOV2), ""
    ),
    "transformers' DINOv2 with registers": (
        lambda: behind("dinov2_with_registers.", of_transformers("dinov2", vit(registers=4, **DINOV2))),
        lambda: vit(registers=4, **DINOV2), "dinov2_with_registers",
    ),
}  # fmt: skip

LAYOUTS = {f"ResNet: {name}": one for name, one in RESNETS.items()} | {f"ViT: {name}": one for name, one in VITS.items()}


def numbers(state):
    """All numbers but counters, and zeros and ones that stand for what the file has not: sorted, whatever they are called, however cut."""
    found = torch.cat([value.flatten().float() for value in state.values()])
    return found[(found != 0) & (found != 1) & (found != 7)].sort().values


def size_of(network):
    """px of the images that the network is for."""
    if isinstance(network, ResNet):
        return 96 if isinstance(network.maxpool, nn.MaxPool2d) else 32
    return 28 if network.patch_embed.proj.kernel_size[0] == 14 else 32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrives_bit_for_bit_and_computes_the_same(layout, tmp_path):
    held, network, branch = LAYOUTS[layout]
    held, network = held(), network()
    if all(isinstance(value, torch.Tensor) for value in held.values()):
        save_file({name: value.contiguous() for name, value in held.items()}, tmp_path / "a")
    else:
        torch.save(held, tmp_path / "a")
    found = convert_weights(read_tensors(tmp_path / "a"))
    assert found.branch == branch
    assert torch.equal(numbers(found.encoder.state_dict()), numbers(bare(network)))
    images = pixels(size_of(network))
    with torch.no_grad():
        expected = network(images)
        assert expected.std(dim=0).max() > 1e-2 and expected.abs().max() < 1e3, "the test itself: images tell themselves apart"
        torch.testing.assert_close(features(found.encoder, images), expected, rtol=1e-5, atol=1e-5)


PUBLISHED = {  # name: patch in px, px of its positions, width, blocks, what it is called, px of evaluation
    "ViT-T/8": (8, 224, 192, 12, {}, "ViT 192x12, patch 8", 224),
    "DINO ViT-S/8": (8, 224, 384, 12, {}, "ViT 384x12, patch 8", 224),
    "DINO ViT-S/16": (16, 224, 384, 12, {}, "vit-s16", 224),
    "MAE ViT-L/16": (16, 224, 1024, 24, {}, "ViT 1024x24, patch 16", 224),
    "MAE ViT-H/14": (14, 224, 1280, 32, {}, "ViT 1280x32, patch 14", 224),
    "MSN ViT-L/7": (7, 224, 1024, 24, {}, "ViT 1024x24, patch 7", 224),
    "ViT-B/16 of 384 px": (16, 384, 768, 12, {}, "vit-b16", 384),
    "I-JEPA ViT-H/14": (14, 224, 1280, 32, {"class_token": False}, "ViT 1280x32, patch 14, no class token", 224),
    "DINOv2 ViT-S/14": (14, 518, 384, 12, {"scaled": True}, "ViT 384x12, patch 14", 224),
    "DINOv2 ViT-L/14": (14, 518, 1024, 24, {"scaled": True, "registers": 4}, "ViT 1024x24, patch 14, 4 registers", 224),
    "DINOv2 ViT-g/14": (14, 518, 1536, 40, {"scaled": True, "gated": ("w12", "w3")}, "ViT 1536x40, patch 14", 224),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_vits_are_told_by_their_shapes(name):
    patch, size, width, layers, how, called, evaluated = PUBLISHED[name]
    with torch.device("meta"):
        state = ViT(size, patch, width, layers, 1, **how).state_dict()
    found = convert_vit("timm", state, "", None)
    assert (found.name, found.image_size, found.config.image_size) == (called, evaluated, size)
    with torch.device("meta"):
        wanted = build_encoder(found.config).state_dict()
    mask_token = {"embeddings.mask_token"} if how.get("registers") else set()
    assert {name: found.tensors[name][1].shape for name in wanted.keys() - mask_token} == {
        name: value.shape for name, value in wanted.items() if name not in mask_token
    }


@pytest.mark.parametrize(
    ("stem", "widths", "depths", "is_bottleneck", "called"),
    [
        (64, (64, 128, 256, 512), (3, 4, 6, 3), False, "res34"),
        (64, (64, 128, 256, 512), (3, 4, 6, 3), True, "res50"),
        (64, (64, 128, 256, 512), (3, 4, 23, 3), True, "ResNet-101"),
        (64, (64, 128, 256, 512), (3, 8, 36, 3), True, "ResNet-152"),
        (128, (128, 256, 512, 1024), (3, 4, 6, 3), True, "ResNet-50, 2 times as wide"),
        (256, (256, 512, 1024, 2048), (3, 4, 6, 3), True, "ResNet-50, 4 times as wide"),
        (16, (16, 32, 64), (3, 3, 3), False, "ResNet of basic blocks [3, 3, 3], [16, 32, 64] wide"),
    ],
)
def test_published_resnets_are_told_by_their_shapes(stem, widths, depths, is_bottleneck, called):
    with torch.device("meta"):
        state = ResNet(stem, widths, depths, is_bottleneck).state_dict()
    found = convert_resnet("torchvision", state)
    assert (found.name, found.image_size) == (called, 224)
    with torch.device("meta"):
        wanted = build_encoder(found.config).state_dict()
    assert {name: value.shape for name, value in wanted.items()} == {name: value.shape for name, (_, value) in found.tensors.items()}


class TestRefusal:
    """One line that says what it is instead, or what is missing."""

    @pytest.mark.parametrize(
        ("first", "told"),
        [
            ({"layer1.0.conv2.weight": (64, 2, 3, 3)}, "a ResNeXt"),
            ({"layer1.0.conv2.weight": (128, 128, 3, 3)}, "a wide ResNet"),
        ],
    )
    def test_of_resnets_that_transformers_has_not(self, first, told):
        with torch.device("meta"):
            state = ResNet(64, (64, 128), (1, 1), True).state_dict()
        state |= {name: torch.empty(shape, device="meta") for name, shape in first.items()}
        with pytest.raises(InputError, match=told):
            convert_weights(state)

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("module.conv1.0.weight", "a ResNet whose stem has several convolutions"),
            ("base_encoder.patch_embed.proj.0.weight", "a ViT whose stem has several convolutions"),
            ("downsample_layers.0.0.weight", "a ConvNeXt"),
            ("encoder.layers.0.blocks.0.attn.qkv.weight", "a Swin"),
        ],
    )
    def test_of_other_encoders(self, name, told):
        with pytest.raises(InputError, match=f"by '{name}' this is {told}"):
            convert_weights({name: torch.zeros(3), "other": torch.zeros(1)})

    def test_of_a_resnet_without_pooling(self):
        with pytest.raises(InputError, match="no ReLU or pooling"):
            convert_weights(numbered(basic(), (0, 1, 2, 3)))

    @pytest.mark.parametrize("extra", ["blocks.0.attn.relative_position_bias_table", "rel_pos_bias.table", "rope_embed.periods"])
    def test_of_positions_that_are_relative(self, extra):
        with pytest.raises(InputError, match=f"by '{extra}' a ViT with relative or rotary positions"):
            convert_weights(bare(vit()) | {extra: torch.zeros(4)})

    def test_of_many_encoders_lists_the_first(self):
        state = {f"b{number}.{name}": value for number in range(30) for name, value in bare(basic()).items()}
        with pytest.raises(InputError, match=r"meant: b0, b1, .* and 18 more$"):
            convert_weights(state)
        assert convert_weights(state, "b7").notes[0].endswith("and 17 more")

    def test_of_a_video_encoder(self):
        with pytest.raises(InputError, match="must have 4 dimensions"):
            convert_weights(bare(vit()) | {"patch_embed.proj.weight": torch.zeros(128, 3, 2, 8, 8)})


class TestHeads:
    def test_are_asked_for_where_they_are_not_usual_and_taken_where_they_are_said(self, tmp_path):
        network = vit(width=60, heads=5)
        with pytest.raises(InputError, match="a ViT 60 wide has .* say it with --heads"):
            convert_weights(network.state_dict())
        found = convert_weights(network.state_dict(), heads=5)
        with torch.no_grad():
            torch.testing.assert_close(features(found.encoder, pixels(32)), network(pixels(32)), rtol=1e-5, atol=1e-5)
        for heads in (7, 0, -1):
            with pytest.raises(InputError, match=f"60 wide cannot have {heads} attention heads"):
                convert_weights(network.state_dict(), heads=heads)

    def test_that_are_assumed_are_said(self):
        assert any("2 attention heads" in line and "--heads" in line for line in convert_weights(vit().state_dict()).notes)
        assert not any("--heads" in line for line in convert_weights(vit().state_dict(), heads=2).notes)


def test_dinov2_is_evaluated_at_224_px_between_its_positions(tmp_path):
    network = vit(size=518, patch=14, layers=1, scaled=True)
    torch.save(bare(network) | MASK, tmp_path / "dinov2.pth")
    said = []
    folder = import_weights(tmp_path / "dinov2.pth", tmp_path / "mine", report=said.append)
    assert Preprocessing.read(folder) == Preprocessing(256, 224, "bicubic")
    assert any("518" in line and "224" in line for line in said)
    grid = network.pos_embed[:, 1:].detach().reshape(1, 37, 37, 128).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (16, 16), mode="bicubic").flatten(2).transpose(1, 2)
    network.pos_embed = nn.Parameter(torch.cat((network.pos_embed[:, :1].detach(), grid), 1))
    with torch.no_grad():
        torch.testing.assert_close(features(load_pretrained(folder), pixels(224, 1)), network(pixels(224, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "size", "crop"),
    [
        ("ResNet: kuangliu's CIFAR", 32, 32), ("ResNet: an nn.Sequential for CIFAR, without its ReLU", 32, 32), ("ViT: DINOv2", 28, 28),
        ("ViT: DINOv2 with registers", 28, 28), ("ViT: I-JEPA", 32, 32), ("ViT: MAE with its decoder", 32, 32),
    ],
)  # fmt: skip
def test_folder_loads_in_plain_transformers_without_a_word_and_has_a_card(layout, size, crop, tmp_path):
    held, network, _ = LAYOUTS[layout]
    torch.save(held(), tmp_path / "a.pth")
    folder = import_weights(tmp_path / "a.pth", tmp_path / "mine")
    _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        torch.testing.assert_close(features(load_pretrained(folder), pixels(size)), network()(pixels(size)), rtol=1e-5, atol=1e-5)
    assert Preprocessing.read(folder).crop == crop
    card = write_card(folder).read_text()
    assert f"{crop} px" in card and Run(folder).results()["imported"]["encoder"] in card


class TestSaid:
    def lines(self, layout):
        return convert_weights(self.flat(LAYOUTS[layout][0]())).notes

    def flat(self, held, prefix=""):
        found = {}
        for key, value in held.items():
            if isinstance(value, dict):
                found |= self.flat(value, f"{prefix}{key}.")
            elif isinstance(value, torch.Tensor):
                found[f"{prefix}{key}"] = value
        return found

    def test_which_branch_was_taken_and_which_others_there_are(self):
        first = self.lines("ResNet: MoCo v2")[0]
        assert "branch 'module.encoder_q'" in first and "others are: module.encoder_k" in first
        assert "others" not in self.lines("ResNet: Barlow Twins in training")[0]

    @pytest.mark.parametrize(
        ("layout", "told"),
        [
            ("ResNet: SwAV", "15 tensors outside the encoder left aside: projection_head (14), prototypes"),
            ("ResNet: torchvision, basic", "2 tensors outside the encoder left aside: fc (2)"),
            ("ResNet: SimSiam", "18 tensors outside the encoder left aside: predictor (14), fc (2), optimizer (2)"),
        ],
    )
    def test_what_was_left_aside(self, layout, told):
        assert told in self.lines(layout)

    def test_nothing_where_nothing_was(self):
        assert not any("left aside" in line for line in self.lines("ResNet: Barlow Twins"))

    def test_other_branches_count_as_a_whole(self):
        told = next(line for line in self.lines("ViT: DINO in training") if "left aside" in line)
        assert "student.module.backbone (" in told and "head (14)" in told and "optimizer (2)" in told

    @pytest.mark.parametrize(("dtype", "kind"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")])
    def test_weights_of_other_types_are_converted_with_a_word(self, dtype, kind):
        state = {name: value.to(dtype) for name, value in basic().state_dict().items()}
        found = convert_weights(state)
        count = sum(value.is_floating_point() for value in bare(basic()).values())
        assert found.encoder.dtype == torch.float32 and f"converted to float32: {count} of {kind}" in found.notes
        assert torch.equal(found.encoder.embedder.embedder.convolution.weight, state["conv1.weight"].float())

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
    def test_weights_that_are_no_floating_point_numbers_are_refused(self, dtype):
        with pytest.raises(InputError, match="'bn1.weight' holds no floating-point numbers"):
            convert_weights(basic().state_dict() | {"bn1.weight": torch.ones(8).to(dtype)})


class TestBranch:
    def test_is_taken_by_part_of_its_path(self):
        state = TestSaid().flat(LAYOUTS["ViT: DINO in training"][0]())
        for asked in ("student", "student.module.backbone", "module.backbone", "module"):
            assert convert_weights(state, asked).branch == "student.module.backbone"
        with pytest.raises(InputError, match="'backbone' is part of several: student.module.backbone, teacher.backbone"):
            convert_weights(state, "backbone")
        with pytest.raises(InputError, match="unknown branch 'nothing'"):
            convert_weights(state, "nothing")

    def test_is_refused_where_there_is_none(self):
        with pytest.raises(InputError, match="no branch 'teacher': the file holds one encoder"):
            convert_weights(basic().state_dict(), "teacher")

    @pytest.mark.parametrize(
        ("first", "second"), [("model.", "teacher."), ("left.", "right."), ("encoder.", "target_encoder."), ("", "student.")]
    )
    def test_that_cannot_be_told_is_asked_for(self, first, second):
        with pytest.raises(InputError, match="several encoders, say with --branch"):
            convert_weights(named(basic(), first) | named(basic(1), second))

    def test_of_a_teacher_and_a_student_beside_their_average_is_asked_for(self):
        state = named(basic(), "teacher.") | named(basic(1), "student.") | named(basic(2), "ema.")
        with pytest.raises(InputError, match="--branch which is meant: ema, student, teacher"):
            convert_weights(state)
        assert convert_weights(state, "ema").branch == "ema"
