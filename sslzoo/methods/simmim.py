"""SimMIM: the encoder sees an image with most patches masked, and a linear layer predicts the masked pixels from its tokens."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig

from sslzoo.encoders import freeze_pooling, token_grid, tokens
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.hyperparameters import count, share
from sslzoo.parts.masking import gather_tokens, patchify, split_patches
from sslzoo.views.presets import masked_view


@strict
class SimMIMConfig(MethodConfig):
    """The paper's ImageNet values for ViT-B (arXiv:2111.09886): 60 % masked, in units of 32 px.

    mask_unit: patches per side of the squares that are masked together. 1 for patches of 32 px, as in the reference table.
    """

    model_type = "sslzoo-simmim"

    encoder: PreTrainedConfig | str | dict = "vit-b16"
    mask_ratio: float | int = share(0.6)
    mask_unit: int = count(2)

    def validate_mask_ratio(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}: must be between 0 and 1")


class SimMIM(Method):
    """The encoder is a plain ViT with learned positions; the paper's has a relative position bias in each attention instead."""

    config_class = SimMIMConfig
    paper = Paper("SimMIM: A Simple Framework for Masked Image Modeling", "Zhenda Xie and others", 2021, "2111.09886")
    reported = (Reported("finetune_top1", 0.838, "vit-b16", 800, 2048, "microsoft/SimMIM"),)

    def __init__(self, config: SimMIMConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        side, patch = token_grid(self.backbone)
        freeze_pooling(self.backbone)
        if side % config.mask_unit:
            raise InputError(f"mask_unit is {config.mask_unit}: must divide the {side} patches per side")
        width = self.backbone.config.hidden_size
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.predict = nn.Linear(width, patch * patch * self.backbone.config.num_channels)
        self.post_init()

    @staticmethod
    def views(size):
        return masked_view(size, smallest=0.67)

    def loss(self, views, progress):
        (pixels,) = views
        side, patch = token_grid(self.backbone)
        if pixels.shape[-1] != side * patch:
            raise InputError(f"view.single.size is {pixels.shape[-1]}: must be the image_size, {side * patch}")
        unit = self.config.mask_unit
        units = side // unit
        _, masked = split_patches(progress.draw(units * units), self.config.mask_ratio)
        mask = pixels.new_zeros(len(pixels), units * units, dtype=torch.bool).scatter(1, masked, True)
        mask = mask.unflatten(1, (units, units)).repeat_interleave(unit, dim=1).repeat_interleave(unit, dim=2).flatten(1)
        hidden = tokens(self.backbone, pixels, mask=mask, mask_token=self.mask_token)
        # Equally many patches are masked in each image, so that their indices have a shape that does not depend on values.
        masked_patches = mask.int().argsort(dim=1, descending=True, stable=True)[:, : masked.shape[1] * unit * unit]
        predictions = self.predict(gather_tokens(hidden[:, -side * side :], masked_patches))
        return {"loss": (predictions.float() - gather_tokens(patchify(pixels, patch), masked_patches)).abs().mean()}
