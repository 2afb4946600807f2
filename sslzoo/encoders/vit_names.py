"""Renaming a ViT's tensors: from the names of timm, its authors and transformers to common ones, and from these to transformers'.

The common names are timm's, but with separate queries, keys and values ("attn.q") and halves of a gated MLP ("mlp.gate", "mlp.up").
"""

import re

from torch import Tensor

from .named_tensors import NamedTensors

_OWN = re.compile(
    r"((cls|dist|reg|register|storage|mask)_tokens?|pos_embed\w*|patch_embed|blocks|norm|norm_pre|ln_pre|fc_norm|cls_norm|rel_pos_bias|rope\w*)"
    r"(\.|$)"
)


def common_names(layout: str, state: dict[str, Tensor]) -> NamedTensors:
    """The encoder's own tensors under their common names. layout: "timm" or "transformers"."""
    names = _of_transformers(state) if layout == "transformers" else _of_timm(state)
    return _split({new: (old, state[old]) for old, new in names.items()})


def _of_timm(state: dict[str, Tensor]) -> dict[str, str]:
    named = {}
    for name in state:
        if _OWN.match(name):
            # DINOv2 trains with blocks in chunks, but numbers them consecutively.
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


def _split(own: NamedTensors) -> NamedTensors:
    """Splits fused tensors: queries, keys and values, and the two halves of a gated MLP."""
    split = {}
    for name, (old, value) in own.items():
        block, _, rest = name.partition(".mlp.fc1.")
        parts, part = (), ""
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


def _gated(own: NamedTensors, block: str) -> bool:
    """Whether timm's "fc1" is twice as wide as "fc2" expects: one half gates the other."""
    first, second = (own.get(f"{block}.mlp.fc{number}.weight") for number in (1, 2))
    return bool(first and second and first[1].ndim == second[1].ndim == 2 and first[1].shape[0] == 2 * second[1].shape[1])


_PARTS = {"attn.q": "attention.q_proj", "attn.k": "attention.k_proj", "attn.v": "attention.v_proj", "attn.proj": "attention.o_proj"}
_PARTS_OF_VIT = _PARTS | {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_PARTS_OF_DINOV2 = _PARTS | {
    "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip


def transformers_names(own: NamedTensors, is_dinov2: bool) -> NamedTensors:
    """The names in transformers' DINOv2, or in its ViT and I-JEPA; tensors that these do not have get names that begin with "?"."""
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
