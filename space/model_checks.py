"""Checks a stranger's model files before anything is built from them: the card's weights, a known architecture, bounded sizes."""

import hashlib
import json
from pathlib import Path

from sslzoo.encoders import ENCODERS, encoder_config, read_config
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import Entry

MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
_MAX_SIDE = 512  # px that an encoder may be made for
# The keys of config.json that determine the architecture and its size.
_ARCHITECTURE_KEYS = {
    "model_type", "num_channels", "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_size", "num_hidden_layers",
    "num_attention_heads", "intermediate_size", "image_size", "patch_size", "pooler_output_size",
}  # fmt: skip


def checked_preprocessing(folder: Path, entry: Entry) -> Preprocessing:
    """The model's preprocessing, once all its files are checked.

    Raises `InputError` for weights other than the card's, an unknown encoder, and values that would take too much memory or time; for
    damaged files also other exceptions.
    """
    with open(folder / "model.safetensors", "rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != entry.weights_sha256:
            raise InputError(f"the weights of {entry.name} are not those that its card describes")
    if entry.encoder not in ENCODERS or entry.image_size > _MAX_SIDE:
        raise InputError(f"this page knows no encoder '{entry.encoder}' for {entry.image_size} px")
    stored, expected = read_config(folder), encoder_config(entry.encoder, entry.image_size).to_dict()
    if stored.get("num_channels", 3) != 3:
        found = str(stored["num_channels"])[:20]
        raise InputError(f"{entry.name} takes images of {found} channels, and pictures, which this page takes, have 3")
    for key in _ARCHITECTURE_KEYS & expected.keys() & stored.keys():
        value = list(expected[key]) if isinstance(expected[key], tuple) else expected[key]
        if stored[key] != value:
            raise InputError(f"config.json of {entry.name} says {key}: {str(stored[key])[:40]}, but {entry.encoder} has {value}")
    _check_preprocessor_sizes(folder / "preprocessor_config.json", entry)
    preprocessing = Preprocessing.read(folder)
    if not (8 <= preprocessing.crop <= _MAX_SIDE and preprocessing.crop <= preprocessing.resize <= 2 * _MAX_SIDE):
        raise InputError(f"{entry.name} needs images of {preprocessing.crop} px, this page gives 8 to {_MAX_SIDE}")
    for values, minimum in ((preprocessing.mean, -1e3), (preprocessing.std, 1e-3)):
        if len(values) != 3 or not all(isinstance(value, (int, float)) and minimum <= value < 1e3 for value in values):
            raise InputError(f"{entry.name} has a mean or standard deviation for its images that is not three usable numbers")
    return preprocessing


def _check_preprocessor_sizes(file: Path, entry: Entry) -> None:
    """Before `Preprocessing.read`, where a single number could ask for more memory than there is."""
    config = json.loads(file.read_bytes()[:20_000])
    for key, value in config.items():
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, (int, float)) and not abs(number) <= 2 * _MAX_SIDE:
                raise InputError(f"{entry.name} needs images of {str(number)[:20]} px ({key}), this page gives 8 to {_MAX_SIDE}")
    crop_pct = config.get("crop_pct")
    if crop_pct is not None and not (isinstance(crop_pct, (int, float)) and 0.5 <= crop_pct <= 1):
        raise InputError(f"{entry.name} crops images to {str(crop_pct)[:20]} of their side, this page crops to 0.5 to 1")
