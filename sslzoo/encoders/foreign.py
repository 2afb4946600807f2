"""Weights of others in the layouts of torchvision (ResNets; timm's are the same) and timm (ViTs), as transformers' encoders.

A file may hold more than an encoder: heads, and several encoders of one kind, each under a prefix, here called a branch.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, ResNetConfig, ViTConfig

from sslzoo.errors import InputError, unknown

from .names import ENCODERS, encoder_config
from .plain import build_encoder


class Foreign(NamedTuple):
    """An encoder made of weights of others."""

    encoder: PreTrainedModel  # in evaluation mode
    name: str  # the short one, "res50"
    layout: str  # "torchvision" or "timm"
    branch: str  # where in the file it was, "" for the whole of it
    image_size: int  # px


def convert_weights(state: Mapping[str, Tensor], branch: str | None = None) -> Foreign:
    """The encoder that `state` holds, by the names and shapes of its tensors.

    Every tensor of the encoder is filled by one of the same shape, and every tensor of the file has its place or belongs to a head or
    another branch. Only what timm scales a block's output with (LayerScale) is multiplied into the layer before.

    branch: which of several encoders; None: "backbone", which lightly's benchmarks evaluate whatever role it has (DINO's teacher, BYOL's
    student), else "teacher_backbone" (iBOT).
    Raises `InputError`.
    """
    roots = {name: layout for layout in _LAYOUTS for name in _branches(state, layout)}
    if not roots:
        first = ", ".join(sorted(state)[:3]) or "nothing"
        raise InputError(f"neither a ResNet as torchvision names its tensors nor a ViT as timm does: there is {first}")
    branch = _chosen(roots, branch)
    layout = roots[branch]
    prefix = _prefix(branch, state, layout)
    # timm's mask token stands beside the ViT where lightly wraps it.
    left_aside = tuple(f"{root}." for root in roots if root != branch and root) + ((f"{branch}.mask_token",) if branch else ())
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    rest = [name for name in state if not name.startswith(prefix) and not name.startswith(left_aside) and not _HEADS.match(name)]
    own = {name: value for name, value in own.items() if not layout.heads.match(name)}
    if not prefix:
        own = {name: value for name, value in own.items() if not name.startswith(left_aside) and not _HEADS.match(name)}
    name, image_size = layout.recognise(own)
    encoder = build_encoder(encoder_config(name, image_size))
    _fill(encoder, layout.rename(own), name, rest)
    return Foreign(encoder.eval(), name, layout.name, branch, image_size)


class _Layout(NamedTuple):
    name: str
    signature: tuple[str, str]  # tensors by which it is known
    heads: re.Pattern[str]  # of the encoder's own library, for classes
    recognise: Callable[[dict[str, Tensor]], tuple[str, int]]  # the encoder's short name and image size in px
    rename: Callable[[dict[str, Tensor]], dict[str, tuple[str, Tensor]]]  # by transformers' name: the name in the file, and the tensor


def _resnet(own: dict[str, Tensor]) -> tuple[str, int]:
    blocks = {match.groups() for name in own if (match := re.match(r"layer([1-9])\.(\d+)\.", name))}
    depths = [sum(stage == str(number) for stage, _ in blocks) for number in range(1, 1 + max(int(stage) for stage, _ in blocks))]
    kind = "bottleneck" if any(re.match(r"layer\d+\.\d+\.conv3\.", name) for name in own) else "basic"
    for name in ENCODERS:
        config = encoder_config(name, 224)
        if isinstance(config, ResNetConfig) and list(config.depths) == depths and config.layer_type == kind:
            return name, 224
    raise InputError(f"a ResNet of {kind} blocks, {depths} of them, is none of the encoders here: {', '.join(ENCODERS)}")


_RESNET_PARTS = {"conv": "convolution", "bn": "normalization"}


def _resnet_names(own: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    renamed = {}
    for name, value in own.items():
        if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
            new = f"embedder.embedder.{_RESNET_PARTS[match[1]]}.{match[2]}"
        elif match := re.fullmatch(r"layer([1-9])\.(\d+)\.(conv|bn)([1-9])\.(\w+)", name):
            stage, block, part, layer, kind = match.groups()
            new = f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(layer) - 1}.{_RESNET_PARTS[part]}.{kind}"
        elif match := re.fullmatch(r"layer([1-9])\.(\d+)\.downsample\.([01])\.(\w+)", name):
            stage, block, part, kind = match.groups()
            new = f"encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{('convolution', 'normalization')[int(part)]}.{kind}"
        else:
            new = f"?{name}"
        renamed[new] = (name, value)
    # Files from before torch 0.4.1 do not count batches; nothing here does either.
    for new in [new for new in renamed if new.endswith(".running_mean")]:
        counter = new.replace(".running_mean", ".num_batches_tracked")
        renamed.setdefault(counter, (counter, torch.tensor(0)))
    return renamed


def _vit(own: dict[str, Tensor]) -> tuple[str, int]:
    if own["cls_token"].ndim != 3 or own["patch_embed.proj.weight"].ndim != 4:
        raise InputError("the ViT's 'cls_token' must have three dimensions and its 'patch_embed.proj.weight' four")
    width, patch = own["cls_token"].shape[-1], own["patch_embed.proj.weight"].shape[-1]
    layers = len({match[1] for name in own if (match := re.match(r"blocks\.(\d+)\.", name))})
    positions = own["pos_embed"].shape[1] - 1 if "pos_embed" in own and own["pos_embed"].ndim == 3 else 0
    side = math.isqrt(max(positions, 0))
    if not side or side * side != positions:
        raise InputError("the ViT's 'pos_embed' must hold a class token's position and those of a square of patches")
    for name in ENCODERS:
        config = encoder_config(name, 224)
        if isinstance(config, ViTConfig) and (config.hidden_size, config.patch_size, config.num_hidden_layers) == (width, patch, layers):
            return name, side * patch
    raise InputError(f"a ViT of {layers} blocks {width} wide on patches of {patch} px is none of the encoders here: {', '.join(ENCODERS)}")


_VIT_NAMES = {
    "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
}  # fmt: skip
_BLOCK_NAMES = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"
}  # fmt: skip
_SCALED = {"attn.proj": "ls1", "mlp.fc2": "ls2"}  # whose output is scaled by what


def _vit_names(own: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    renamed = {}
    for name, value in own.items():
        if match := re.fullmatch(r"(blocks\.(\d+))\.(.+)\.(weight|bias)", name):
            block, number, part, kind = match.groups()
            if part == "attn.qkv" and value.shape[0] % 3 == 0:
                for which, third in zip("qkv", value.chunk(3), strict=True):
                    renamed[f"layers.{number}.attention.{which}_proj.{kind}"] = (name, third)
                continue
            scale = own.get(f"{block}.{_SCALED[part]}.gamma") if part in _SCALED else None
            if scale is not None and scale.shape == value.shape[:1]:
                value = value.float() * scale.float().view(-1, *[1] * (value.ndim - 1))
            new = f"layers.{number}.{_BLOCK_NAMES[part]}.{kind}" if part in _BLOCK_NAMES else f"?{name}"
        elif (match := re.fullmatch(r"(blocks\.\d+)\.ls([12])\.gamma", name)) and value.shape == own["cls_token"].shape[-1:]:
            continue
        else:
            stem, _, kind = name.rpartition(".")
            new = _VIT_NAMES.get(name) or (f"{_VIT_NAMES[stem]}.{kind}" if stem in _VIT_NAMES else f"?{name}")
        renamed[new] = (name, value)
    return renamed


_LAYOUTS = (
    _Layout("torchvision", ("conv1.weight", "layer1.0.conv1.weight"), re.compile(r"fc\."), _resnet, _resnet_names),
    _Layout("timm", ("cls_token", "patch_embed.proj.weight"), re.compile(r"head\."), _vit, _vit_names),
)
_WRAPPED = "vit."  # how lightly wraps a ViT that takes masks
# What lightly's modules, and most others, call what is trained around an encoder.
_HEADS = re.compile(r"(module\.)?(fc|head|\w+_head|(\w+_)?criterion|online_classifier|prototypes|queues?|decoder|mask_token)(\.|$)")


def _branches(state: Mapping[str, Tensor], layout: _Layout) -> list[str]:
    first, second = layout.signature
    found = [name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")]
    found = [prefix for prefix in found if prefix + second in state]
    return [prefix.removesuffix(_WRAPPED).removesuffix(".") for prefix in found]


def _prefix(branch: str, state: Mapping[str, Tensor], layout: _Layout) -> str:
    plain = f"{branch}." if branch else ""
    return plain if plain + layout.signature[0] in state else plain + _WRAPPED


def _chosen(branches: Iterable[str], branch: str | None) -> str:
    branches = list(branches)
    if branch is not None:
        if branch not in branches:
            raise unknown("branch", branch, branches)
        return branch
    for usual in ("backbone", "teacher_backbone"):
        if usual in branches:
            return usual
    if len(branches) > 1:
        raise InputError(f"there are several encoders, say which branch is meant: {', '.join(sorted(branches))}")
    return branches[0]


def _fill(encoder: PreTrainedModel, renamed: dict[str, tuple[str, Tensor]], name: str, rest: list[str]) -> None:
    """Loads the tensors. Raises `InputError` that lists all kinds of what does not fit."""
    wanted = encoder.state_dict()
    missing = [new for new in wanted if new not in renamed]
    unexpected = [old for new, (old, _) in renamed.items() if new not in wanted] + rest
    shapes = [
        f"{old} {tuple(value.shape)} for {tuple(wanted[new].shape)}"
        for new, (old, value) in renamed.items()
        if new in wanted and value.shape != wanted[new].shape
    ]
    wrong = {"missing (by the name in transformers)": missing, "unexpected": unexpected, "of the wrong shape": shapes}
    if any(wrong.values()):
        told = [f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for kind, names in wrong.items() if names]
        raise InputError(f"the tensors do not fit '{name}': {'; '.join(told)}")
    encoder.load_state_dict({new: value for new, (_, value) in renamed.items()})
