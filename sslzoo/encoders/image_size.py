"""The same encoder for images of another size."""

import copy

import torch
from transformers import PreTrainedModel

from sslzoo.errors import InputError

from .blocks import blocks
from .embedding import embedding_parts, side_in_px
from .names import check_image_size


def fit_image_size(encoder: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """The same encoder for square images of `image_size` px: a copy whose learned positions are interpolated once, as its family does.

    Features of such images are those of the given encoder, which interpolates in each forward pass. Encoders whose weights depend on no
    image size are returned as they are: convolutions, windows, rotary positions, and BEiT, which resizes its relative positions itself.
    Raises `InputError` for a size that is no multiple of a transformer's patches, and for images or patches that are not square.
    """
    try:
        blocks(encoder)
    except InputError:  # windows and convolutions take any size
        return encoder
    config = encoder.config
    patch = side_in_px(encoder, "patch_size")
    check_image_size(f"a '{config.model_type}'", patch, image_size)
    positions = embedding_parts(encoder).positions
    own_size = side_in_px(encoder, "image_size")
    if positions is None or own_size == image_size or hasattr(config, "use_relative_position_bias"):
        return encoder
    fitted = copy.deepcopy(encoder)
    fitted.config.image_size = image_size
    with torch.random.fork_rng(devices=()):
        fitted.embeddings = type(encoder.embeddings)(fitted.config).to(positions).train(encoder.embeddings.training)
    kept = dict(encoder.embeddings.named_parameters())
    before_patches = positions.shape[-2] - (own_size // patch) ** 2  # 1 with a class token
    count, width = before_patches + (image_size // patch) ** 2, positions.shape[-1]
    with torch.no_grad():
        # Of its first argument only the shape matters.
        resampled = encoder.embeddings.interpolate_pos_encoding(positions.new_empty(1, count, width), image_size, image_size)
        for name, parameter in fitted.embeddings.named_parameters():
            parameter.copy_(resampled.view_as(parameter) if kept[name] is positions else kept[name])
            parameter.requires_grad_(kept[name].requires_grad)
    return fitted
