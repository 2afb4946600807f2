"""A published encoder looks at an uploaded image: its nearest neighbours, its features and its attention."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from files import Recent, fetch
from huggingface_hub import HfApi
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.data import EMBEDDED, hub_id, load_images
from sslzoo.encoders import ENCODERS, encoder_config, features, load_stored, read_config
from sslzoo.errors import InputError, first_line
from sslzoo.evaluation import Preprocessing, class_attention, feature_map, nearest, pca_map, required_resolution
from sslzoo.hub import Entry
from sslzoo.recipe import Recipe, read_recipe, shipped_recipes

_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
_LARGEST_MODEL = _LARGEST_DATA = 400_000_000  # bytes on the Hub
# What in a config.json says how large a net is, and which.
_SIZES = {
    "model_type", "num_channels", "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_size", "num_hidden_layers",
    "num_attention_heads", "intermediate_size", "image_size", "patch_size", "pooler_output_size",
}  # fmt: skip
_LARGEST_SIDE = 512  # px that an encoder may be made for
_LARGEST_UPLOAD = 40_000_000  # pixels
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow also knows some that start other programs
_SHRUNK = 1024  # px; no encoder here sees more of an upload
_BANK, _LARGE_BANK = 400, 120  # images; of more than 64 px the encoder takes its time
_NEAREST = 8


class Neighbour(NamedTuple):
    picture: Image.Image
    label: str  # the class's name, "" where there is none
    cosine: float


class Seen(NamedTuple):
    """maps: title and picture. about: what the neighbours were looked for in, or why there are none."""

    given: Image.Image
    maps: list[tuple[str, Image.Image]]
    neighbours: list[Neighbour]
    about: str


class Bank(NamedTuple):
    """Images in which neighbours are looked for."""

    pictures: list[Image.Image]
    labels: list[str]
    features: Tensor
    about: str


class Loaded(NamedTuple):
    encoder: PreTrainedModel
    preprocessing: Preprocessing
    bank: Bank | str  # or why there is none


class Studio:
    """The encoders that were asked for last, each with its bank."""

    def __init__(self, most: int = 3):
        self._loaded = Recent(most)

    def look(self, entry: Entry, upload: str) -> Seen:
        """What the model makes of the image in the file `upload`. Raises `InputError`."""
        pixels, sizes = _tensor(open_upload(upload))
        encoder, preprocessing, bank = self._loaded.get((entry.name, entry.weights_sha256), lambda: self._load(entry))
        inputs = preprocessing(pixels, sizes)
        given = _denormalised(inputs[0], preprocessing)
        with torch.no_grad():
            found = features(encoder, inputs)
        maps = feature_map(encoder, inputs)
        shown = [("Features, three principal components as colours", _enlarged(_picture(pca_map(maps)[0]), given.size))]
        if hasattr(encoder.config, "num_attention_heads"):
            attention = class_attention(encoder, inputs)[0].mean(dim=0)
            shown.append(("Attention of the class token, mean of the last layer's heads", _heat(attention, given)))
        else:
            shown.append(("Length of the features", _heat(maps[0].norm(dim=-1), given)))
        if isinstance(bank, str):
            return Seen(given, shown, [], bank)
        cosines, rows = nearest(found, bank.features, min(_NEAREST, len(bank.pictures)))
        near = [Neighbour(bank.pictures[row], bank.labels[row], cosine) for cosine, row in zip(*_lists(cosines, rows), strict=True)]
        return Seen(given, shown, near, bank.about)

    def _load(self, entry: Entry) -> Loaded:
        with tempfile.TemporaryDirectory() as place:  # so that no disk fills up with strangers' models
            folder = fetch(entry, _FILES, _LARGEST_MODEL, Path(place))
            try:
                preprocessing = _checked(folder, entry)
                encoder = load_stored(folder)
            except InputError:
                raise
            except Exception as error:  # files of strangers
                raise InputError(f"{entry.name} cannot be loaded ({type(error).__name__}: {first_line(error)})") from error
        try:
            bank = self._bank(entry, encoder, preprocessing)
        except Exception as error:  # a data set that is gone or gated, or a client without connection
            bank = f"no neighbours, as {entry.dataset} cannot be had here ({first_line(error)})"
        return Loaded(encoder, preprocessing, bank)

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        """By data set. Only these are loaded: a card could name anything, a folder of this machine too."""
        recipes = map(read_recipe, shipped_recipes().values())
        return {recipe.dataset: recipe for recipe in recipes if recipe.dataset == EMBEDDED or hub_id(recipe.dataset)}

    def _bank(self, entry: Entry, encoder: PreTrainedModel, preprocessing: Preprocessing) -> Bank:
        recipe = self._recipes.get(entry.dataset)
        if recipe is None:
            raise InputError("no recipe that comes with sslzoo uses it")
        if recipe.dataset != EMBEDDED:
            info = HfApi(token=False).dataset_info(hub_id(recipe.dataset)[0], files_metadata=True, timeout=10)
            size = sum(file.size or 0 for file in info.siblings or [])
            if size > _LARGEST_DATA:
                raise InputError(f"it has {size / 1e9:,.1f} GB")
        images = load_images(
            recipe.dataset, recipe.train_split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas,
            resolution=required_resolution(preprocessing), device=torch.device("cpu"), budget=0,
        )  # fmt: skip
        count = min(len(images), _BANK if preprocessing.crop <= 64 else _LARGE_BANK)
        positions = torch.linspace(0, len(images) - 1, count).long()
        pictures, found, shown = [], [], []
        with torch.no_grad():
            for read, batch in images.read(positions, 64):
                shown += read.tolist()
                found.append(features(encoder, preprocessing(batch.pixels, batch.sizes)))
                pictures += _middles(batch.pixels, batch.sizes)
        names, labels = images.label_names, [-1] * len(shown) if images.labels is None else images.labels[shown].tolist()
        told = ["" if label < 0 else names[label] if names else f"class {label}" for label in labels]
        return Bank(pictures, told, torch.cat(found), f"{len(shown)} of the {len(images):,} training images of {recipe.dataset}")


def open_upload(file: str) -> Image.Image:
    """The image upright in RGB, without whatever else the file holds, no side longer than 1,024 px. Raises `InputError`."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _LARGEST_UPLOAD:
                raise InputError(f"the image has {image.width} x {image.height} pixels, this page takes 40 million at most")
            image.draft("RGB", (_SHRUNK, _SHRUNK))
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
            upright = upright.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise InputError("this file cannot be read as an image: JPEG, PNG, WebP, GIF, BMP and TIFF can") from error
    upright.thumbnail((_SHRUNK, _SHRUNK))
    return Image.fromarray(np.asarray(upright))


def _checked(folder: Path, entry: Entry) -> Preprocessing:
    """Refuses what would cost memory or time, or is not what the card's numbers are about, before anything is built from it."""
    with open(folder / "model.safetensors", "rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != entry.weights_sha256:
            raise InputError(f"the weights of {entry.name} are not those that its card tells of")
    if entry.encoder not in ENCODERS or entry.image_size > _LARGEST_SIDE:
        raise InputError(f"this page knows no encoder '{entry.encoder}' for {entry.image_size} px")
    stored, expected = read_config(folder), encoder_config(entry.encoder, entry.image_size).to_dict()
    for key in _SIZES & expected.keys() & stored.keys():
        value = list(expected[key]) if isinstance(expected[key], tuple) else expected[key]
        if stored[key] != value:
            raise InputError(f"config.json of {entry.name} says {key}: {str(stored[key])[:40]}, but {entry.encoder} has {value}")
    _check_sizes(folder / "preprocessor_config.json", entry)
    preprocessing = Preprocessing.read(folder)
    if not (8 <= preprocessing.crop <= _LARGEST_SIDE and preprocessing.crop <= preprocessing.resize <= 2 * _LARGEST_SIDE):
        raise InputError(f"{entry.name} wants images of {preprocessing.crop} px, this page gives 8 to {_LARGEST_SIDE}")
    for values, least in ((preprocessing.mean, -1e3), (preprocessing.std, 1e-3)):
        if len(values) != 3 or not all(isinstance(value, (int, float)) and least <= value < 1e3 for value in values):
            raise InputError(f"{entry.name} normalises its images by what are not three numbers of use")
    return preprocessing


def _check_sizes(file: Path, entry: Entry) -> None:
    """Before an image is prepared as the file says: one number in it can ask for more memory than there is."""
    values = json.loads(file.read_bytes()[:20_000])
    for key, value in values.items():
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for number in inner:
            if isinstance(number, (int, float)) and not abs(number) <= 2 * _LARGEST_SIDE:
                raise InputError(f"{entry.name} wants images of {str(number)[:20]} px ({key}), this page gives 8 to {_LARGEST_SIDE}")
    share = values.get("crop_pct")
    if share is not None and not (isinstance(share, (int, float)) and 0.5 <= share <= 1):
        raise InputError(f"{entry.name} wants images cut to {str(share)[:20]} of their side, this page cuts to 0.5 to 1")


def _tensor(image: Image.Image) -> tuple[Tensor, Tensor]:
    """uint8 (1, 3, H, W) and the size, int64 (1, 2)."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return pixels, torch.tensor([pixels.shape[-2:]])


def _middles(pixels: Tensor, sizes: Tensor) -> Iterator[Image.Image]:
    """The middle square of each image, at most 96 px large."""
    for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = Image.fromarray(image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy())
        picture.thumbnail((96, 96))
        yield picture


def _denormalised(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return _picture((pixels * std + mean).permute(1, 2, 0))


def _picture(values: Tensor) -> Image.Image:
    """From (h, w, 3) in 0..1."""
    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().numpy())


def _heat(values: Tensor, given: Image.Image) -> Image.Image:
    """A map (h, w) as warm colours on the image."""
    spread = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](spread.numpy())[..., :3]).float()
    warm = _enlarged(_picture(colours), given.size)
    return Image.blend(given.convert("L").convert("RGB").resize(warm.size, Image.Resampling.NEAREST), warm, 0.65)


def _enlarged(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As large as the image, or larger where that is tiny, with soft edges between the places."""
    factor = max(1, -(-128 // size[0]))
    return picture.resize((size[0] * factor, size[1] * factor), Image.Resampling.BICUBIC)


def _lists(cosines: Tensor, rows: Tensor) -> tuple[list[float], list[int]]:
    return cosines[0].tolist(), rows[0].tolist()
