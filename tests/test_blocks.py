"""A transformer's blocks, how deep its weights lie, and stochastic depth."""

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    IJepaConfig,
    IJepaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
    ViTMSNConfig,
    ViTMSNModel,
)

from sslzoo.encoders import blocks, build_encoder, depths, drop_path, encoder_config, features
from sslzoo.errors import InputError

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8, "patch_size": 4}
KINDS = {
    "vit": (ViTModel, ViTConfig), "msn": (ViTMSNModel, ViTMSNConfig), "deit": (DeiTModel, DeiTConfig), "beit": (BeitModel, BeitConfig),
    "dinov2": (Dinov2Model, Dinov2Config), "clip": (CLIPVisionModel, CLIPVisionConfig), "siglip": (SiglipVisionModel, SiglipVisionConfig),
    "dinov2_with_registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig), "dinov3_vit": (DINOv3ViTModel, DINOv3ViTConfig),
    "ijepa": (IJepaModel, IJepaConfig), "data2vec": (Data2VecVisionModel, Data2VecVisionConfig),
}  # fmt: skip
OWN = {  # without random numbers of their own, and with a last norm
    "beit": {"drop_path_rate": 0.0}, "data2vec": {"drop_path_rate": 0.0, "use_mean_pooling": False},
    "dinov3_vit": {"pos_embed_rescale": None},
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind="vit", seed=0, **changes):
    torch.manual_seed(seed)
    model, config = KINDS[kind]
    encoder = model(config(**{**SMALL, **OWN.get(kind, {}), **changes})).train()
    # As they are at the start, most branches add next to nothing.
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def pixels(count=4, seed=1):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def inputs_of_blocks(encoder, images):
    """What each block is given, and what the last gives."""
    seen = []

    def see(_, given, out):
        seen.extend((given[0], out[0] if isinstance(out, tuple) else out))

    handles = [block.register_forward_hook(see) for block in blocks(encoder)]
    features(encoder, images)
    for handle in handles:
        handle.remove()
    return [*seen[::2], seen[-1]]


class TestBlocks:
    @every_kind
    def test_are_those_that_compute_one_after_the_other(self, kind):
        encoder = build(kind)
        assert len(blocks(encoder)) == 3 and len({type(block) for block in blocks(encoder)}) == 1
        states = inputs_of_blocks(encoder.eval(), pixels())
        assert len(states) == 4 and all((a != b).any() for a, b in zip(states, states[1:], strict=False))

    def test_encoders_without_are_named(self):
        for depth in (1, 2):  # 2 blocks in each of 2 stages
            with pytest.raises(InputError, match="'swin'"):
                blocks(SwinModel(SwinConfig(image_size=32, embed_dim=8, depths=[depth, depth], num_heads=[1, 1])))
        with pytest.raises(InputError, match="ViT"):
            depths(build_encoder(encoder_config("res6", 16)))


class TestDepths:
    @every_kind
    def test_rise_with_the_order_in_which_parameters_compute(self, kind):
        """A parameter at depth d changes nothing of what the first d - 1 blocks compute, and the input of block d or the result."""
        encoder = build(kind).eval()
        found = depths(encoder)
        assert set(found) == {name for name, _ in encoder.named_parameters()} and set(found.values()) == {0, 1, 2, 3, 4}
        before = inputs_of_blocks(encoder, pixels())
        for name, parameter in encoder.named_parameters():
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape))
                after = inputs_of_blocks(encoder, pixels())
                parameter.copy_(kept)
            moved = [bool((a != b).any()) for a, b in zip(before, after, strict=True)]
            unused = not any(moved) and found[name] in (0, 4)  # a mask token, or what comes behind the blocks
            assert unused or moved.index(True) == found[name], name

    def test_of_a_vit_by_hand(self):
        found = depths(build())
        assert {name.partition(".")[0] for name, depth in found.items() if depth == 0} == {"embeddings"}
        assert {name.partition(".")[0] for name, depth in found.items() if depth == 4} == {"layernorm", "pooler"}
        assert {name.rsplit(".", 2)[0][:8] for name, depth in found.items() if depth == 2} == {"layers.1"}


class TestDropPath:
    def test_leaves_out_and_scales_as_by_hand(self):
        """Rates 0, 0.2 and 0.4 and one number for each image and branch, against the block's own arithmetic."""
        encoder, images = build(), pixels(2)
        numbers = torch.tensor([[0.0, 0.1, 0.19, 0.21, 0.5, 0.39], [0.3, 0.0, 0.2, 0.0, 0.1, 0.9]])
        keeps = [[1, 1, 0, 1 / 0.8, 1 / 0.6, 0], [1, 1, 1 / 0.8, 0, 0, 1 / 0.6]]
        for row in (0, 1):
            hidden = encoder.embeddings(images[row : row + 1])
            for index, block in enumerate(encoder.layers):
                first, second = keeps[row][2 * index : 2 * index + 2]
                hidden = hidden + first * block.attention(block.layernorm_before(hidden))[0]
                hidden = hidden + second * block.mlp(block.layernorm_after(hidden))
            expected = encoder.layernorm(hidden)[:, 0]
            with drop_path(encoder, 0.4, numbers):
                found = features(encoder, images)[row : row + 1]
            assert torch.allclose(found, expected, atol=1e-5)

    @every_kind
    def test_keeps_the_expectation_and_the_share(self, kind):
        """The attention of the last of two blocks, whose input does not vary: the first block's rate is 0."""
        encoder, images = build(kind, num_hidden_layers=2, attention_dropout=0.0), pixels(1).expand(2000, -1, -1, -1)
        numbers = torch.rand(2000, 4, generator=torch.Generator().manual_seed(2))
        attention, seen = next(child for name, child in blocks(encoder)[1].named_children() if "att" in name), []
        with torch.no_grad():
            handle = attention.register_forward_hook(lambda _, given, out: seen.append(out[0]))
            features(encoder, images[:1])
            handle.remove()
            with drop_path(encoder, 0.3, numbers):
                handle = attention.register_forward_hook(lambda _, given, out: seen.append(out[0]))
                features(encoder, images)
                handle.remove()
        whole, dropped = seen
        zero = (dropped == 0).flatten(1).all(dim=1)
        assert abs(float(zero.float().mean()) - 0.3) < 0.03
        assert torch.allclose(dropped[~zero], (whole / 0.7).expand_as(dropped[~zero]), atol=1e-5)
        assert float((dropped.mean(dim=0) - whole[0]).norm() / whole[0].norm()) < 0.05

    @every_kind
    def test_does_nothing_in_evaluation_nor_afterwards(self, kind):
        encoder, images, numbers = build(kind), pixels(), torch.zeros(4, 6)
        with torch.no_grad():
            plain = features(encoder.eval(), images)
            with drop_path(encoder, 0.5, numbers):
                assert torch.equal(features(encoder, images), plain)
                assert not torch.allclose(features(encoder.train(), images), plain, atol=1e-3)
            assert torch.allclose(features(encoder, images), plain, atol=1e-6)

    def test_takes_the_place_of_the_encoders_own(self):
        encoder, images = build("dinov2", drop_path_rate=0.5), pixels(64)
        with torch.no_grad():
            plain = features(encoder.eval(), images)
            with drop_path(encoder.train(), 0.2, torch.ones(64, 6) - 1e-6):
                once, twice = features(encoder, images), features(encoder, images)
        assert torch.equal(once, twice) and not torch.allclose(once, plain, atol=1e-3)
        assert {block.drop_path.drop_prob for block in blocks(encoder)} == {0.5}
