"""Encoders in transformers' own classes: by short name, to features, to and from the published form."""

from .features import compiled_parts, feature_width, features, token_grid, tokens
from .names import ENCODERS, encoder_config
from .plain import build_encoder, to_plain, without_pooler
from .stored import load_stored, model_folder, read_config

__all__ = [
    "ENCODERS", "build_encoder", "compiled_parts", "encoder_config", "feature_width", "features", "load_stored", "model_folder",
    "read_config", "to_plain", "token_grid", "tokens", "without_pooler",
]  # fmt: skip
