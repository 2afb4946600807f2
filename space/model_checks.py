"""Checks a stranger's model files before anything is built from them: the card's weights, a known architecture, bounded sizes."""

import hashlib
import json
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from sslzoo.encoders import ENCODERS, build_encoder, encoder_config, features, from_description, read_config
from sslzoo.errors import InputError, first_line
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import Entry

MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
_MAX_SIDE = 512  # px that an encoder may be made for
# Of an encoder that its config.json describes.
_FAMILIES = (
    "resnet", "sslzoo_resnet", "convnext", "convnextv2", "vit", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit",
    "dinov3_convnext", "swin", "swinv2", "beit", "data2vec-vision", "ijepa", "clip_vision_model", "siglip_vision_model",
)  # fmt: skip
_MAX_PARAMETERS = 100_000_000
_MAX_TOKENS = 4096
_MAX_FLOPS = 200_000_000_000  # for one image; a ViT-L/14 at 224 px takes 160
_MAX_ELEMENTS = 2**26  # of any one tensor on the way
# The keys of config.json that determine the architecture and its size.
_ARCHITECTURE_KEYS = {
    "model_type", "num_channels", "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_size", "num_hidden_layers",
    "num_attention_heads", "intermediate_size", "image_size", "patch_size", "pooler_output_size",
}  # fmt: skip


def checked_preprocessing(folder: Path, entry: Entry) -> Preprocessing:
    """The model's preprocessing, once all its files are checked.

    An encoder of a short name must be that one; any other is of a known family, and no larger than this page can run. Raises `InputError`
    for weights other than the card's, and values that would take too much memory or time; for
    damaged files also other exceptions.
    """
    with open(folder / "model.safetensors", "rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != entry.weights_sha256:
            raise InputError(f"the weights of {entry.name} are not those that its card describes")
    if entry.image_size > _MAX_SIDE:
        raise InputError(f"{entry.name} was made for images of {entry.image_size} px, this page gives up to {_MAX_SIDE}")
    stored = read_config(folder)
    if stored.get("num_channels", 3) != 3:
        found = str(stored["num_channels"])[:20]
        raise InputError(f"{entry.name} takes images of {found} channels, and pictures, which this page takes, have 3")
    if entry.encoder in ENCODERS:
        _check_named(stored, entry)
    _check_preprocessor_sizes(folder / "preprocessor_config.json", entry)
    preprocessing = Preprocessing.read(folder)
    if not (8 <= preprocessing.crop <= _MAX_SIDE and preprocessing.crop <= preprocessing.resize <= 2 * _MAX_SIDE):
        raise InputError(f"{entry.name} needs images of {preprocessing.crop} px, this page gives 8 to {_MAX_SIDE}")
    if entry.encoder not in ENCODERS:
        _check_described(stored, preprocessing.crop, entry)
    for values, minimum in ((preprocessing.mean, -1e3), (preprocessing.std, 1e-3)):
        if len(values) != 3 or not all(isinstance(value, (int, float)) and minimum <= value < 1e3 for value in values):
            raise InputError(f"{entry.name} has a mean or standard deviation for its images that is not three usable numbers")
    return preprocessing


def _check_named(stored: dict, entry: Entry) -> None:
    expected = encoder_config(entry.encoder, entry.image_size).to_dict()
    for key in _ARCHITECTURE_KEYS & expected.keys() & stored.keys():
        value = list(expected[key]) if isinstance(expected[key], tuple) else expected[key]
        if stored[key] != value:
            raise InputError(f"config.json of {entry.name} says {key}: {str(stored[key])[:40]}, but {entry.encoder} has {value}")


def _check_described(stored: dict, crop: int, entry: Entry) -> None:
    """What the encoder would take, from its configuration alone: nothing is computed and no weight is in memory."""
    if stored.get("model_type") not in _FAMILIES:
        raise InputError(f"config.json of {entry.name} says model_type: {str(stored.get('model_type'))[:40]}, which this page does not run")
    config = from_description(stored)
    _check_tokens(config, crop, entry)
    largest = _LargestTensor()
    try:
        with torch.device("meta"):
            encoder = build_encoder(config).eval()
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        if parameters > _MAX_PARAMETERS:
            most = f"this page takes {_MAX_PARAMETERS / 1e6:,.0f} M at most"
            raise InputError(f"{entry.name} has {parameters / 1e6:,.0f} M parameters, {most}")
        encoder.set_attn_implementation("eager")  # which shows the attention, and takes the most memory
        with torch.no_grad(), FlopCounterMode(display=False) as counter, largest:
            features(encoder, torch.zeros(1, 3, crop, crop, device="meta"))
    except InputError:
        raise
    except Exception as error:  # from whichever layer an invalid value reaches
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"config.json of {entry.name} describes no encoder that runs ({reason})") from error
    flops = counter.get_total_flops()
    if flops > _MAX_FLOPS or largest.elements > _MAX_ELEMENTS:
        raise InputError(f"{entry.name} takes {flops / 1e9:,.0f} GFLOPs an image, or too much memory for this page: run it yourself")


def _check_tokens(config: PreTrainedConfig, crop: int, entry: Entry) -> None:
    """Before anything is built, as BEiT makes a table of all pairs of positions."""
    patch, size = getattr(config, "patch_size", None), getattr(config, "image_size", None) or crop
    if patch is not None and not (isinstance(patch, int) and isinstance(size, int) and patch > 0 and 0 < size <= 2 * _MAX_SIDE):
        raise InputError(f"config.json of {entry.name} says patch_size: {str(patch)[:40]}, image_size: {str(size)[:40]}")
    tokens = (max(size, crop) // patch) ** 2 if patch else 0
    if tokens > _MAX_TOKENS and not config.model_type.startswith(("swin", "convnext")):
        raise InputError(f"{entry.name} makes {tokens:,} patches of an image, this page takes {_MAX_TOKENS:,} at most")


class _LargestTensor(TorchDispatchMode):
    """Inside, `elements` becomes the number of elements of the largest result."""

    elements = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        out = operation(*arguments, **(options or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


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
