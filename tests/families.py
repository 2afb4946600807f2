"""A tiny configuration of every vision family, for images of 32 px, and encoders with random weights."""

import torch
import transformers

from sslzoo.encoders import build_encoder

SIZE = 32  # px
TRANSFORMER = {
    "image_size": SIZE, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32
}  # fmt: skip
DINOV2 = {**TRANSFORMER, "mlp_ratio": 2, "layerscale_value": 0.1}
CONVOLUTION = {"hidden_sizes": [8, 16], "depths": [1, 1]}
WINDOWS = {"image_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}

PLAIN_TRANSFORMERS = {  # all tokens from the first block to the last, and no bias by relative position
    "vit": transformers.ViTConfig(**TRANSFORMER),
    "vit_msn": transformers.ViTMSNConfig(**TRANSFORMER),
    "ijepa": transformers.IJepaConfig(**TRANSFORMER),
    "dinov2": transformers.Dinov2Config(**DINOV2),
    "dinov2_with_registers": transformers.Dinov2WithRegistersConfig(num_register_tokens=3, **DINOV2),
    "dinov3_vit": transformers.DINOv3ViTConfig(num_register_tokens=3, layerscale_value=0.1, **TRANSFORMER),
    "clip": transformers.CLIPVisionConfig(**TRANSFORMER),
    "siglip": transformers.SiglipVisionConfig(**TRANSFORMER),
}
WITH_BIAS = {
    "beit": transformers.BeitConfig(use_relative_position_bias=True, **TRANSFORMER),
    "beit, shared bias": transformers.BeitConfig(use_shared_relative_position_bias=True, use_mean_pooling=False, **TRANSFORMER),
    "data2vec": transformers.Data2VecVisionConfig(use_relative_position_bias=True, **TRANSFORMER),
    "data2vec, shared bias": transformers.Data2VecVisionConfig(use_shared_relative_position_bias=True, **TRANSFORMER),
}
OTHERS = {
    "resnet": transformers.ResNetConfig(embedding_size=8, layer_type="basic", **CONVOLUTION),
    "convnext": transformers.ConvNextConfig(num_stages=2, **CONVOLUTION),
    "convnextv2": transformers.ConvNextV2Config(num_stages=2, **CONVOLUTION),
    "dinov3_convnext": transformers.DINOv3ConvNextConfig(**CONVOLUTION),
    "swin": transformers.SwinConfig(**WINDOWS),
    "swinv2": transformers.Swinv2Config(**WINDOWS),
}
FAMILIES = {**PLAIN_TRANSFORMERS, **WITH_BIAS, **OTHERS}


def random_encoder(name, seed=0):
    """In evaluation mode, with weights that are all away from zero and one another, so that each of them matters."""
    torch.manual_seed(seed)
    encoder = build_encoder(FAMILIES[name]).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


def pixels(size=SIZE, count=2, dtype=torch.float32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
