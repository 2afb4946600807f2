"""Encoders in transformers' own classes: by short name, to features, to and from the published form."""

from .architecture import no_larger_than
from .blocks import blocks, depths, drop_path
from .features import compiled_parts, feature_width, features, token_grid, tokens
from .folder import model_folder, read_config, read_json
from .foreign import Foreign, convert_weights
from .names import ENCODERS, SMALL_IMAGE, encoder_config
from .plain import build_encoder, to_plain, without_pooler
from .stored import check_finite, load_stored

__all__ = [
    "ENCODERS", "SMALL_IMAGE", "Foreign", "blocks", "build_encoder", "check_finite", "compiled_parts", "convert_weights", "depths",
    "drop_path", "encoder_config", "feature_width", "features", "load_stored", "model_folder", "no_larger_than", "read_config", "read_json",
    "to_plain", "token_grid", "tokens", "without_pooler",
]  # fmt: skip
