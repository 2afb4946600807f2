"""MAE: the encoder sees a quarter of an image's patches, and a small decoder reconstructs the pixels of the others."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, ViTConfig, ViTModel

from sslzoo.encoders import freeze_pooling, token_grid, tokens
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.hyperparameters import count, dim, layers, share
from sslzoo.parts.masking import gather_tokens, patchify, scatter_tokens, split_patches
from sslzoo.parts.positions import sincos_positions
from sslzoo.parts.transformer_init import init_embeddings, xavier_linear
from sslzoo.views.presets import masked_view


@strict
class MAEConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2111.06377).

    decoder_dim, decoder_depth, decoder_heads: width, blocks and attention heads of the decoder.
    normalize_pixels: whether each target patch is normalised by its own mean and variance, as in the paper's best models; not so in the
    reference table.
    """

    model_type = "sslzoo-mae"

    encoder: PreTrainedConfig | str | dict = "vit-b16"
    mask_ratio: float | int = share(0.75)
    decoder_dim: int = dim(512)
    decoder_depth: int = layers(8)
    decoder_heads: int = count(16)
    normalize_pixels: bool = True

    def validate_mask_ratio(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}: must be between 0 and 1")

    def validate_decoder_heads(self):
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(f"decoder_heads is {self.decoder_heads}: must divide decoder_dim, which is {self.decoder_dim}")


class MAE(Method):
    """The paper's initialisation, and fixed sine-cosine positions in the place of learned ones, whichever family the encoder is of.

    What the paper's ViT has not is initialised as its family does (registers, LayerScale), and rotary positions stay. The decoder is the
    paper's; it gets no registers, and a class token where there is one.
    """

    config_class = MAEConfig
    paper = Paper("Masked Autoencoders Are Scalable Vision Learners", "Kaiming He and others", 2021, "2111.06377")
    reported = (
        Reported("finetune_top1", 0.8366, "vit-b16", 1600, 4096, "facebookresearch/mae"),
        Reported("linear_top1", 0.678, "vit-b16", 1600, 4096, "facebookresearch/mae"),
    )
    frozen = ("backbone.embeddings.position_embeddings", "decoder.positions")

    def __init__(self, config: MAEConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        side, patch = token_grid(self.backbone, drops=True)
        freeze_pooling(self.backbone)
        self.decoder = MAEDecoder(self.backbone.config.hidden_size, side, patch, config)
        self.apply(xavier_linear)
        init_embeddings(self.backbone, class_token_std=0.02)
        self.post_init()

    @staticmethod
    def views(size):
        return masked_view(size, smallest=0.2, interpolation="bicubic")

    def loss(self, views, progress):
        (pixels,) = views
        side, patch = token_grid(self.backbone)
        if pixels.shape[-1] != side * patch:
            raise InputError(f"view.single.size is {pixels.shape[-1]}: must be the image_size, {side * patch}")
        visible, masked = split_patches(progress.draw(side * side), self.config.mask_ratio)
        predictions = self.decoder(tokens(self.backbone, pixels, keep=visible), visible, masked)
        target = gather_tokens(patchify(pixels, patch), masked)
        if self.config.normalize_pixels:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        return {"loss": (predictions.float() - target).square().mean()}


class MAEDecoder(nn.Module):
    """Tokens (n, special + visible, width) to pixels of the masked patches (n, masked, patch * patch * channels), by blocks as in a ViT."""

    def __init__(self, width: int, side: int, patch: int, config: MAEConfig):
        super().__init__()
        dim = config.decoder_dim
        blocks = ViTConfig(
            hidden_size=dim, num_hidden_layers=config.decoder_depth, num_attention_heads=config.decoder_heads,
            intermediate_size=4 * dim, layer_norm_eps=1e-6,
        )  # fmt: skip
        body = ViTModel(blocks, add_pooling_layer=False)
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.positions = nn.Parameter(sincos_positions(dim, side), requires_grad=False)
        self.layers, self.norm = body.layers, body.layernorm
        self.predict = nn.Linear(dim, patch * patch * config.encoder.num_channels)

    def forward(self, tokens: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(tokens)
        special, count = tokens.shape[1] - visible.shape[1], self.positions.shape[1] - 1
        patches = scatter_tokens(tokens[:, special:], visible, self.mask_token, count)
        hidden = torch.cat((tokens[:, :special][:, :1], patches), dim=1)
        hidden = hidden + self.positions[:, -hidden.shape[1] :]
        for layer in self.layers:
            hidden = layer(hidden)
        return self.predict(self.norm(gather_tokens(hidden[:, -count:], masked)))
