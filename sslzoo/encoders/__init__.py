"""Encoders in transformers' own classes: building, loading, converting, and computing features."""

from .architecture import describe, from_description, limit_size
from .attention import ATTENTION, set_attention
from .blocks import ResidualBranch, blocks, depths, drop_path, residual_branches
from .checkpointing import checkpoint_blocks
from .convert import ConvertedEncoder, convert_weights
from .embedding import embedding_parts
from .features import (
    encoder_outputs,
    feature_map,
    feature_width,
    features,
    features_and_map,
    freeze_pooling,
    has_pooler,
    output_grid,
    pool_tokens,
)
from .folder import model_folder, read_config, read_json
from .image_size import fit_image_size
from .input_channels import fit_channels
from .names import ENCODERS, SMALL_IMAGE, encoder_config
from .plain import build_encoder, to_plain, without_pooler
from .pretrained import check_finite, load_pretrained, misfits, shard_names, weights_digest
from .tokens import token_grid, tokens

__all__ = [
    "ATTENTION", "ENCODERS", "SMALL_IMAGE", "ConvertedEncoder", "ResidualBranch", "blocks", "build_encoder", "check_finite",
    "checkpoint_blocks", "convert_weights", "depths", "describe", "drop_path", "embedding_parts", "encoder_config", "encoder_outputs",
    "feature_map", "feature_width", "features", "features_and_map", "fit_channels", "fit_image_size", "freeze_pooling",
    "from_description", "has_pooler", "limit_size", "load_pretrained", "misfits", "model_folder", "output_grid", "pool_tokens",
    "read_config", "read_json", "residual_branches", "set_attention", "shard_names", "to_plain", "token_grid", "tokens",
    "weights_digest", "without_pooler",
]  # fmt: skip
