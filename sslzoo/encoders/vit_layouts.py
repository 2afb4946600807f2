"""Converting ViTs of timm, DINO, MAE, MoCo v3, MSN, DINOv2, I-JEPA and transformers to three classes of transformers.

A ViT with LayerScale becomes transformers' DINOv2, one without a class token its I-JEPA, any other its ViT.
"""

import math
import re

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2WithRegistersConfig, IJepaConfig, PreTrainedConfig, ViTConfig

from sslzoo.errors import InputError

from .named_tensors import ConvertedTensors, NamedTensors
from .names import ENCODERS, encoder_config
from .vit_names import common_names, transformers_names

_HEADS = {192: 3, 1280: 16, 1408: 16, 1664: 16}  # attention heads by width, where they are not 64 wide
_EPS = 1e-6  # of the norms, in all implementations
_DINOV2_POSITIONS, _DINOV2_IMAGE = (14, 37), 224  # patch in px and patches a side; px


def convert_vit(layout: str, state: dict[str, Tensor], path: str, heads: int | None) -> ConvertedTensors:
    """The encoder with the tensors `state`, whose names are without their prefix `path`, which identifies MoCo v3.

    heads: attention heads, which the tensors do not tell; None: the usual number for the width. Raises `InputError` for shapes that
    transformers does not support.
    """
    own = common_names(layout, state)
    config, notes = _config(own, path, heads)
    is_dinov2 = isinstance(config, Dinov2Config | Dinov2WithRegistersConfig)
    if is_dinov2:
        own = _with_mask_token(own, config)
    elif "mask_token" in own:
        own = {name: found for name, found in own.items() if name != "mask_token"}
    own = _with_class_position(own)
    image_size = config.image_size
    if (config.patch_size, config.image_size // config.patch_size) == _DINOV2_POSITIONS:
        image_size = _DINOV2_IMAGE
        notes.append(f"its positions are of {config.image_size} px: evaluated at {image_size}, as DINOv2's authors do, between positions")
    return ConvertedTensors(config, _name(config), image_size, transformers_names(own, is_dinov2), notes)


def _config(own: NamedTensors, path: str, heads: int | None) -> tuple[PreTrainedConfig, list[str]]:
    if unsupported := next((old for name, (old, _) in own.items() if re.search(r"rel(ative)?_pos|rope", name)), None):
        raise InputError(f"by '{unsupported}' a ViT with relative or rotary positions (BEiT, SimMIM, DINOv3): absolute ones are known")
    width, channels, patch, other = _shape(own, "patch_embed.proj.weight", 4)
    if channels != 3 or patch != other:
        raise InputError(f"the ViT takes patches of {patch}x{other} px and {channels} channels: square ones of 3 channels are known")
    depth = len({match[1] for name in own if (match := re.match(r"blocks\.(\d+)\.", name))})
    blocks = [f"blocks.{number}" for number in range(depth)]
    wide = {name for name in own if re.fullmatch(r"blocks\.\d+\.mlp\.(fc1|gate)\.weight", name)}
    if not wide:
        raise InputError("the ViT's blocks have no MLP")
    inner = _shape(own, min(wide), 2)[0]
    positions = _positions(own)
    values = {
        "image_size": positions * patch, "patch_size": patch, "hidden_size": width, "num_hidden_layers": depth, "layer_norm_eps": _EPS,
        "qkv_bias": any(re.fullmatch(r"blocks\.\d+\.attn\.(q|qkv)\.bias", name) for name in own),
    }  # fmt: skip
    notes = []
    if heads is None:
        heads = _usual_heads(path, width, patch, depth)
        notes.append(f"{heads} attention heads, as usual at this width: the file does not say it (--heads does)")
    if heads < 1 or width % heads:
        raise InputError(f"a ViT {width} wide cannot have {heads} attention heads")
    values["num_attention_heads"] = heads
    scaled = all(f"{block}.ls1.gamma" in own for block in blocks)
    gated = any(name.endswith(".mlp.gate.weight") for name in own)
    registers = _shape(own, "reg_token", 3)[1] if "reg_token" in own and (scaled or gated) else 0
    if not scaled and not gated:
        values["intermediate_size"] = inner
        return (ViTConfig(pooler_act="linear", **values) if "cls_token" in own else IJepaConfig(**values)), notes
    if "cls_token" not in own or not scaled:
        raise InputError("a ViT with LayerScale or a gated MLP must have both a class token and LayerScale, as transformers' DINOv2")
    ratio = next((ratio for ratio in range(1, 17) if _inner(width, ratio, gated) == inner), None)
    if ratio is None:
        raise InputError(f"a DINOv2 {width} wide with an MLP {inner} wide: transformers' has multiples of its width alone")
    values |= {"mlp_ratio": ratio, "use_swiglu_ffn": gated}
    if registers:
        return Dinov2WithRegistersConfig(num_register_tokens=registers, **values), notes
    return Dinov2Config(use_mask_token="mask_token" in own, **values), notes


def _inner(width: int, ratio: int, gated: bool) -> int:
    return (int(width * ratio * 2 / 3) + 7) // 8 * 8 if gated else width * ratio


def _shape(own: NamedTensors, name: str, ndim: int) -> tuple[int, ...]:
    old, value = own[name]
    if value.ndim != ndim or 0 in value.shape:
        raise InputError(f"the ViT's '{old}' must have {ndim} dimensions, none of them empty, and is {tuple(value.shape)}")
    return tuple(value.shape)


def _positions(own: NamedTensors) -> int:
    """Patches per side, from the number of positions with or without one for the class token."""
    count = own["pos_embed"][1].shape[1] if "pos_embed" in own and own["pos_embed"][1].ndim == 3 else 0
    for patches in _patch_counts(own, count):
        if patches > 0 and math.isqrt(patches) ** 2 == patches:
            return math.isqrt(patches)
    raise InputError("the ViT's 'pos_embed' must hold the positions of a square of patches, and of a class token where there is one")


def _patch_counts(own: NamedTensors, positions: int) -> tuple[int, ...]:
    if "cls_token" not in own:
        return (positions,)
    # In timm's DeiT III and DINOv2 with registers, the class token has no position.
    return (positions - 1, positions) if "blocks.0.ls1.gamma" in own else (positions - 1,)


def _usual_heads(path: str, width: int, patch: int, depth: int) -> int:
    if width == 384 and re.search(r"(^|\.)(base|momentum)_encoder\.", path):
        return 12  # MoCo v3's ViT-S, as its paper says
    for name in ENCODERS:
        config = encoder_config(name, 224)
        if isinstance(config, ViTConfig) and (config.hidden_size, config.patch_size, config.num_hidden_layers) == (width, patch, depth):
            return config.num_attention_heads
    if width in _HEADS or width >= 128 and width % 64 == 0:
        return _HEADS.get(width, width // 64)
    raise InputError(f"how many attention heads a ViT {width} wide has is neither in its tensors nor usual: say it with --heads")


def _with_mask_token(own: NamedTensors, config: PreTrainedConfig) -> NamedTensors:
    """With a mask token for DINOv2 with registers, which requires one; evaluation does not use it."""
    if "mask_token" in own or not isinstance(config, Dinov2WithRegistersConfig):
        return own
    return own | {"mask_token": ("mask_token", torch.zeros(1, config.hidden_size))}


def _with_class_position(own: NamedTensors) -> NamedTensors:
    """With a zero position for a class token that has none."""
    old, positions = own["pos_embed"]
    if "cls_token" not in own or math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return own
    return own | {"pos_embed": (old, torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1))}


def _name(config: PreTrainedConfig) -> str:
    own = (config.patch_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    inner = getattr(config, "intermediate_size", None) or config.mlp_ratio * config.hidden_size
    registers = getattr(config, "num_register_tokens", 0)
    if inner == 4 * config.hidden_size and not registers and not isinstance(config, IJepaConfig):
        for name in ENCODERS:
            known = encoder_config(name, 224)
            if isinstance(known, ViTConfig) and own == (
                known.patch_size, known.hidden_size, known.num_hidden_layers, known.num_attention_heads
            ):  # fmt: skip
                return name
    name = f"ViT {config.hidden_size}x{config.num_hidden_layers}, patch {config.patch_size}"
    usual = _HEADS.get(config.hidden_size, config.hidden_size // 64)
    name += "" if config.num_attention_heads == usual else f", {config.num_attention_heads} heads"
    name += f", {registers} registers" if registers else ""
    name += ", no class token" if isinstance(config, IJepaConfig) else ""
    return name + ("" if inner == 4 * config.hidden_size else f", MLP {inner} wide")
