"""Runs a published encoder on an uploaded image: nearest neighbours, feature map, and attention."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from familiarity import Familiarity
from huggingface_hub import HfApi
from inspection import Inspection, Map, Neighbour
from lru_cache import LRUCache
from model_checks import MODEL_FILES, checked_preprocessing
from model_files import fetch
from picture_conversion import denormalise, enlarge, heat_map, thumbnails, to_picture, to_tensor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from uploads import open_upload

from sslzoo.data import EMBEDDED, hub_id, load_images
from sslzoo.encoders import feature_map, features, load_pretrained
from sslzoo.errors import InputError, first_line
from sslzoo.evaluation import Preprocessing, class_attention, nearest, pca_map, required_resolution
from sslzoo.hub import Entry
from sslzoo.recipe import read_recipe, read_values, shipped_recipes

_MAX_MODEL_SIZE = _MAX_DATASET_SIZE = 400_000_000  # bytes on the Hub
_BANK_SIZE, _LARGE_IMAGE_BANK_SIZE = 400, 120  # images; fewer above 64 px, where the encoder is slower
_NEAREST = 8


class Bank(NamedTuple):
    """Training images among which the nearest neighbours are found."""

    pictures: list[Image.Image]
    labels: list[str]
    features: Tensor  # (n, width)
    familiarity: Familiarity
    about: str


class LoadedModel(NamedTuple):
    encoder: PreTrainedModel
    preprocessing: Preprocessing
    bank: Bank | str  # or why there is none


class Inspector:
    """Keeps the most recently used encoders, each with its bank."""

    def __init__(self, max_models: int = 3):
        self._models = LRUCache(max_models)

    def inspect(self, entry: Entry, upload: str) -> Inspection:
        """What the model makes of the image file `upload`. Raises `InputError`."""
        pixels, sizes = to_tensor(open_upload(upload))
        encoder, preprocessing, bank = self._models.get((entry.name, entry.weights_sha256), lambda: self._load(entry))
        inputs = preprocessing(pixels, sizes)
        given = denormalise(inputs[0], preprocessing)
        with torch.no_grad():
            query = features(encoder, inputs)
        maps = feature_map(encoder, inputs)
        pictures = [Map("Features, three principal components as colours", enlarge(to_picture(pca_map(maps)[0]), given.size))]
        try:
            attention = class_attention(encoder, inputs)[0].mean(dim=0)
            low, high = (f"{100 * value:.2g} %" for value in attention.aminmax())
            title = "Attention of the class token to each patch, mean of the last layer's heads"
            pictures.append(Map(title, heat_map(attention, given), low, high))
        except InputError:  # no class token, or no attention
            lengths = maps[0].norm(dim=-1)
            pictures.append(Map("Length of the features", heat_map(lengths, given), *(f"{value:.3g}" for value in lengths.aminmax())))
        if isinstance(bank, str):
            return Inspection(given, pictures, [], bank, "")
        cosines, rows = (found[0] for found in nearest(query, bank.features, len(bank.pictures)))
        closest = zip(cosines[:_NEAREST].tolist(), rows[:_NEAREST].tolist(), strict=True)
        neighbours = [Neighbour(bank.pictures[row], bank.labels[row], cosine) for cosine, row in closest]
        return Inspection(given, pictures, neighbours, bank.about, bank.familiarity.warning(cosines))

    def _load(self, entry: Entry) -> LoadedModel:
        with tempfile.TemporaryDirectory() as temporary:  # so that downloaded models do not fill the disk
            folder = fetch(entry, MODEL_FILES, _MAX_MODEL_SIZE, Path(temporary))
            try:
                preprocessing = checked_preprocessing(folder, entry)
                encoder = load_pretrained(folder)
            except InputError:
                raise
            except Exception as error:  # strangers' files
                raise InputError(f"{entry.name} cannot be loaded ({type(error).__name__}: {first_line(error)})") from error
        try:
            bank = self._make_bank(entry, encoder, preprocessing)
        except Exception as error:  # a data set that is gone or gated, or a client without connection
            bank = f"no neighbours, as {entry.dataset} cannot be loaded here ({first_line(error)})"
        return LoadedModel(encoder, preprocessing, bank)

    @cached_property
    def _recipe_files(self) -> dict[str, Path]:
        """By data set. Only these data sets are loaded: a card could name anything, also a folder of this machine."""
        files = {read_values(file)["dataset"]: file for file in shipped_recipes().values()}
        return {dataset: file for dataset, file in files.items() if dataset == EMBEDDED or hub_id(dataset)}

    def _make_bank(self, entry: Entry, encoder: PreTrainedModel, preprocessing: Preprocessing) -> Bank:
        if entry.dataset not in self._recipe_files:
            raise InputError("no recipe that comes with sslzoo uses it")
        recipe = read_recipe(self._recipe_files[entry.dataset])
        if recipe.dataset != EMBEDDED:
            info = HfApi(token=False).dataset_info(hub_id(recipe.dataset)[0], files_metadata=True, timeout=10)
            size = sum(file.size or 0 for file in info.siblings or [])
            if size > _MAX_DATASET_SIZE:
                raise InputError(f"it has {size / 1e9:,.1f} GB")
        images = load_images(
            recipe.dataset, recipe.train_split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas,
            resolution=required_resolution(preprocessing), device=torch.device("cpu"), budget=0,
        )  # fmt: skip
        count = min(len(images), _BANK_SIZE if preprocessing.crop <= 64 else _LARGE_IMAGE_BANK_SIZE)
        indices = torch.linspace(0, len(images) - 1, count).long()
        pictures, bank_features, rows = [], [], []
        with torch.no_grad():
            for read, batch in images.read(indices, 64):
                rows += read.tolist()
                bank_features.append(features(encoder, preprocessing(batch.pixels, batch.sizes)))
                pictures += thumbnails(batch.pixels, batch.sizes)
        names, labels = images.label_names, [-1] * len(rows) if images.labels is None else images.labels[rows].tolist()
        class_names = ["" if label < 0 else names[label] if names else f"class {label}" for label in labels]
        about = f"{len(rows)} of the {len(images):,} training images of {recipe.dataset}"
        found = torch.cat(bank_features)
        return Bank(pictures, class_names, found, Familiarity.of(found), about)
