"""Encoders by short name, as configurations of transformers' own architectures."""

from transformers import (
    ConvNextConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    IJepaConfig,
    PreTrainedConfig,
    ResNetConfig,
    ViTConfig,
)  # fmt: skip

from sslzoo.errors import InputError, unknown

from .small_resnet import SmallResNetConfig

SMALL_IMAGE = 64  # px; up to this size ResNets have a stem without the usual stride of 4

_RESNETS = {
    "res6": {"embedding_size": 32, "hidden_sizes": (32, 64), "depths": (1, 1), "layer_type": "basic"},
    "res18": {"embedding_size": 64, "hidden_sizes": (64, 128, 256, 512), "depths": (2, 2, 2, 2), "layer_type": "basic"},
    "res34": {"embedding_size": 64, "hidden_sizes": (64, 128, 256, 512), "depths": (3, 4, 6, 3), "layer_type": "basic"},
    "res50": {"embedding_size": 64, "hidden_sizes": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3), "layer_type": "bottleneck"},
}
# name: patch in px, width, layers, heads
_VITS = {
    "vit-xs4": (4, 64, 4, 4), "vit-t16": (16, 192, 12, 3), "vit-s4": (4, 384, 12, 6), "vit-s16": (16, 384, 12, 6),
    "vit-s16-h12": (16, 384, 12, 12), "vit-b16": (16, 768, 12, 12), "vit-b32": (32, 768, 12, 12),
}  # fmt: skip
_DINOV2 = {
    "dinov2-xs4": (4, 64, 4, 4), "dinov2-s4": (4, 384, 12, 6), "dinov2-s14": (14, 384, 12, 6), "dinov2-s16": (16, 384, 12, 6),
    "dinov2-b14": (14, 768, 12, 12), "dinov2-l16": (16, 1024, 24, 16),
}  # fmt: skip
_DINOV2_REGISTERS = {f"{name}-reg4": _DINOV2[name] for name in ("dinov2-xs4", "dinov2-s14", "dinov2-b14")}
_IJEPAS = {"ijepa-xs4": (4, 64, 4, 4), "ijepa-s4": (4, 384, 12, 6), "ijepa-s16": (16, 384, 12, 6), "ijepa-b16": (16, 768, 12, 12)}
_CONVNEXTS = {"convnext-t": {"hidden_sizes": (96, 192, 384, 768), "depths": (3, 3, 9, 3), "layer_norm_eps": 1e-6}}

ENCODERS = (*_RESNETS, *_VITS, *_DINOV2, *_DINOV2_REGISTERS, *_IJEPAS, *_CONVNEXTS)


def encoder_config(name: str, image_size: int) -> PreTrainedConfig:
    """The configuration of encoder `name` for square images of `image_size` px.

    ResNets have a small-image stem (3x3, stride 1, no pooling) up to 64 px and the usual one (7x7, stride 2, max pooling) above. ViTs have
    one position per patch of such an image, and a pooling layer that is the identity (see `plain.py`). DINOv2's are ViTs with LayerScale
    that starts at 1e-5, as in its paper (arXiv:2304.07193), and with "-reg4" four registers (arXiv:2309.16588); I-JEPA's have no class
    token (arXiv:2301.08243). "-h12" is MoCo v3's ViT-S, which has 12 heads instead of 6 (arXiv:2104.02057).
    Raises `InputError`.
    """
    if name in _RESNETS:
        return (SmallResNetConfig if image_size <= SMALL_IMAGE else ResNetConfig)(**_RESNETS[name])
    if name in _CONVNEXTS:
        return ConvNextConfig(image_size=image_size, **_CONVNEXTS[name])
    transformers = _VITS | _DINOV2 | _DINOV2_REGISTERS | _IJEPAS
    if name not in transformers:
        raise unknown("encoder", name, ENCODERS)
    patch, width, layers, heads = transformers[name]
    check_image_size(f"encoder '{name}'", patch, image_size)
    shape = {
        "image_size": image_size, "patch_size": patch, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "layer_norm_eps": 1e-6,
    }  # fmt: skip
    if name in _DINOV2:
        return Dinov2Config(mlp_ratio=4, layerscale_value=1e-5, **shape)
    if name in _DINOV2_REGISTERS:
        return Dinov2WithRegistersConfig(mlp_ratio=4, layerscale_value=1e-5, num_register_tokens=4, **shape)
    if name in _IJEPAS:
        return IJepaConfig(intermediate_size=4 * width, **shape)
    return ViTConfig(intermediate_size=4 * width, pooler_act="linear", **shape)


def check_image_size(what: str, patch: int, image_size: int) -> None:
    """Raises `InputError` if images of `image_size` px cannot be cut into patches of `patch` px. what: the encoder, for the message."""
    if image_size < 1 or image_size % patch:
        nearest = sorted({max(1, image_size // patch) * patch, max(1, -(-image_size // patch)) * patch})
        raise InputError(
            f"{what} cuts images into patches of {patch} px: image_size {image_size} is no multiple of it "
            f"(the nearest: {' and '.join(map(str, nearest))})"
        )
