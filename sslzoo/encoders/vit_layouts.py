"""ViTs as timm, their authors (DINO, MAE, MoCo v3, MSN, DINOv2, I-JEPA) and transformers name them: to three classes of transformers.

A ViT with LayerScale becomes transformers' DINOv2, one without a class token its I-JEPA, any other its ViT.
"""

import math
import re

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2WithRegistersConfig, IJepaConfig, PreTrainedConfig, ViTConfig

from sslzoo.errors import InputError

from .layout import Converted, Named
from .names import ENCODERS, encoder_config

_OWN = re.compile(
    r"((cls|dist|reg|register|storage|mask)_tokens?|pos_embed\w*|patch_embed|blocks|norm|norm_pre|ln_pre|fc_norm|cls_norm|rel_pos_bias|rope\w*)"
    r"(\.|$)"
)
_HEADS = {192: 3, 1280: 16, 1408: 16, 1664: 16}  # attention heads of published widths that are not 64 wide each, or narrow
_EPS = 1e-6  # of the norms, with all authors
_DINOV2_POSITIONS, _DINOV2_IMAGE = (14, 37), 224  # patch in px and patches a side; px


def convert_vit(layout: str, state: dict[str, Tensor], path: str, heads: int | None) -> Converted:
    """The encoder whose tensors `state` holds, named as behind its branch, whose `path` tells a MoCo v3.

    heads: attention heads, which no tensor tells; None: as usual for the width. Raises `InputError` for shapes that transformers has not.
    """
    names = _of_transformers(state) if layout == "transformers" else _of_timm(state)
    own = _split({new: (old, state[old]) for old, new in names.items()})
    config, notes = _config(own, path, heads)
    if isinstance(config, Dinov2Config | Dinov2WithRegistersConfig):
        own = _with_mask_token(own, config)
    elif "mask_token" in own:
        own = {name: found for name, found in own.items() if name != "mask_token"}
    own = _with_class_position(own)
    image_size = config.image_size
    if (config.patch_size, config.image_size // config.patch_size) == _DINOV2_POSITIONS:
        image_size = _DINOV2_IMAGE
        notes.append(f"its positions are of {config.image_size} px: evaluated at {image_size}, as DINOv2's authors do, between positions")
    return Converted(config, _name(config), image_size, _to_transformers(own, config), notes)


def _of_timm(state: dict[str, Tensor]) -> dict[str, str]:
    named = {}
    for name in state:
        if _OWN.match(name):
            # DINOv2 trains with its blocks in chunks, and counts them through.
            new = re.sub(r"^blocks\.\d+\.(?=\d)", "blocks.", name).replace("register_tokens", "reg_token")
            named[name] = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", new)
    return named


_TOP = {
    "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token", "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed", "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm",
}  # fmt: skip
_IN_BLOCK = {  # before version 5 of transformers, and since
    "attention.attention.query": "attn.q", "attention.attention.key": "attn.k", "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj", "attention.q_proj": "attn.q", "attention.k_proj": "attn.k", "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3", "mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down",
}  # fmt: skip


def _of_transformers(state: dict[str, Tensor]) -> dict[str, str]:
    named = {}
    for name in state:
        if not re.match(r"(embeddings|encoder|layers?|layernorm)\.", name):
            continue
        stem, _, kind = name.rpartition(".")
        if match := re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.layer_scale([12])\.lambda1", name):
            named[name] = f"blocks.{match[1]}.ls{match[2]}.gamma"
        elif (match := re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.(.+)", stem)) and match[2] in _IN_BLOCK:
            named[name] = f"blocks.{match[1]}.{_IN_BLOCK[match[2]]}.{kind}"
        else:
            named[name] = _TOP.get(name) or (f"{_TOP[stem]}.{kind}" if stem in _TOP else f"?{name}")
    return named


def _split(own: Named) -> Named:
    """With what stands in one tensor for several layers: queries, keys and values, and the two halves of a gated MLP."""
    split = {}
    for name, (old, value) in own.items():
        block, _, rest = name.partition(".mlp.fc1.")
        parts = ()
        if ".attn.qkv." in name:
            parts, part = ("q", "k", "v"), "qkv"
        elif ".mlp.w12." in name:
            parts, part = ("gate", "up"), "w12"
        elif rest and _gated(own, block):
            parts, part = ("gate", "up"), "fc1"
        if parts and value.ndim and value.shape[0] % len(parts) == 0:
            for one, chunk in zip(parts, value.chunk(len(parts)), strict=True):
                split[name.replace(f".{part}.", f".{one}.")] = (old, chunk)
        elif ".mlp.w3." in name:
            split[name.replace(".w3.", ".down.")] = (old, value)
        elif ".mlp.fc2." in name and _gated(own, name.partition(".mlp.")[0]):
            split[name.replace(".fc2.", ".down.")] = (old, value)
        else:
            split[name] = (old, value)
    return split


def _gated(own: Named, block: str) -> bool:
    """Whether timm's "fc1" makes two values, one of which gates the other, for each that "fc2" takes."""
    first, second = (own.get(f"{block}.mlp.fc{number}.weight") for number in (1, 2))
    return bool(first and second and first[1].ndim == second[1].ndim == 2 and first[1].shape[0] == 2 * second[1].shape[1])


def _config(own: Named, path: str, heads: int | None) -> tuple[PreTrainedConfig, list[str]]:
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


def _shape(own: Named, name: str, ndim: int) -> tuple[int, ...]:
    old, value = own[name]
    if value.ndim != ndim or 0 in value.shape:
        raise InputError(f"the ViT's '{old}' must have {ndim} dimensions, none of them empty, and is {tuple(value.shape)}")
    return tuple(value.shape)


def _positions(own: Named) -> int:
    """Patches a side, from the positions with or without that of a class token."""
    count = own["pos_embed"][1].shape[1] if "pos_embed" in own and own["pos_embed"][1].ndim == 3 else 0
    for patches in _patch_counts(own, count):
        if patches > 0 and math.isqrt(patches) ** 2 == patches:
            return math.isqrt(patches)
    raise InputError("the ViT's 'pos_embed' must hold the positions of a square of patches, and of a class token where there is one")


def _patch_counts(own: Named, positions: int) -> tuple[int, ...]:
    if "cls_token" not in own:
        return (positions,)
    # timm's DeiT III and DINOv2 with registers give their class token no position.
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


def _with_mask_token(own: Named, config: PreTrainedConfig) -> Named:
    """DINOv2's is of two dimensions. Evaluation does not look at it, so that where there is none any will do."""
    if "mask_token" in own or not isinstance(config, Dinov2WithRegistersConfig):
        return own
    return own | {"mask_token": ("mask_token", torch.zeros(1, config.hidden_size))}


def _with_class_position(own: Named) -> Named:
    """A class token without a position is one whose position is zero."""
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


_PARTS = {"attn.q": "attention.q_proj", "attn.k": "attention.k_proj", "attn.v": "attention.v_proj", "attn.proj": "attention.o_proj"}
_PARTS_OF_VIT = _PARTS | {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_PARTS_OF_DINOV2 = _PARTS | {
    "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip


def _to_transformers(own: Named, config: PreTrainedConfig) -> Named:
    is_dinov2 = isinstance(config, Dinov2Config | Dinov2WithRegistersConfig)
    front, parts = ("encoder.layer", _PARTS_OF_DINOV2) if is_dinov2 else ("layers", _PARTS_OF_VIT)
    top = {new: old for old, new in _TOP.items()}
    renamed = {}
    for name, found in own.items():
        stem, _, kind = name.rpartition(".")
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
        if match and match[2] in parts:
            new = f"{front}.{match[1]}.{parts[match[2]]}.{kind}"
        elif match and match[2] in ("ls1", "ls2") and kind == "gamma":
            new = f"{front}.{match[1]}.layer_scale{match[2][-1]}.lambda1"
        else:
            new = top.get(name) or (f"{top[stem]}.{kind}" if stem in top else f"?{name}")
        renamed[new] = found
    return renamed
