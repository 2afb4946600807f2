"""Encoders in transformers' own classes: by short name, to features, to and from the published form."""

from .blocks import blocks, depths, drop_path
from .features import compiled_parts, feature_width, features, token_grid, tokens
from .foreign import Foreign, convert_weights
from .names import ENCODERS, SMALL_IMAGE, encoder_config
from .plain import build_encoder, to_plain, without_pooler
from .stored import load_stored, model_folder, read_config

__all__ = [
    "ENCODERS", "SMALL_IMAGE", "Foreign", "blocks", "build_encoder", "compiled_parts", "convert_weights", "depths", "drop_path",
    "encoder_config", "feature_width", "features", "load_stored", "model_folder", "read_config", "to_plain", "token_grid", "tokens",
    "without_pooler",
]  # fmt: skip
