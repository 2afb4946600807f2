"""Weights of others as a model folder like ours: from a file, or by name from the table of lightly's checkpoints."""

import csv
import os
import pickle
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from sslzoo.checkpoint import sha256_of
from sslzoo.encoders import convert_weights, load_stored, to_plain
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.evaluation import Preprocessing
from sslzoo.run import Run

TABLE = Path(__file__).with_name("lightly_checkpoints.csv")
_METRICS = ("knn_top1", "knn_top5", "linear_top1", "linear_top5", "finetune_top1", "finetune_top5")
_CHUNK = 1 << 20


class Known(NamedTuple):
    """A published checkpoint, and what its authors measured (fractions, ImageNet1k's validation images)."""

    name: str  # "lightly/simclr-res50"
    method: str
    encoder: str
    url: str
    numbers: dict[str, float]


def known_checkpoints() -> dict[str, Known]:
    """Every checkpoint that `import_weights` knows by name."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: Known(row["name"], row["method"], row["encoder"], row["url"], {metric: float(row[metric]) for metric in _METRICS})
        for row in rows
    }


def import_weights(source: str | Path, folder: str | Path, *, branch: str | None = None) -> Path:
    """Writes a folder that `sslzoo evaluate` and plain transformers load: the encoder, its preprocessing, and where it comes from.

    source: a .safetensors file, a file of torch.save (.ckpt, .pth, .pt), or a name of `known_checkpoints`, which is downloaded once.
    branch: which of several encoders in the file; see `sslzoo.encoders.convert_weights`.

    results.json holds "imported": the source (an address or a file's name), the file's sha256, layout, encoder, branch, and what its
    authors reported. That is never among our "numbers": those are measured here.
    The folder is there when it is whole. Raises `InputError`, also where the folder holds something already.
    """
    folder = Path(folder)
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something already: name a new folder")
    known = known_checkpoints().get(str(source))
    file = _download(known) if known else _local(source)
    try:
        found = convert_weights(_tensors(file), branch)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if known and found.name != known.encoder:
        raise InputError(f"{file} holds '{found.name}', but {known.name} is '{known.encoder}'")

    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        to_plain(found.encoder).save_pretrained(beside)
        Preprocessing(round(found.image_size * 256 / 224), found.image_size).write(beside)
        imported = {
            "source": known.url if known else file.name, "sha256": sha256_of(file), "layout": found.layout, "encoder": found.name,
            "branch": found.branch, "reported": {"by": "lightly", "numbers": known.numbers} if known else None,
        }  # fmt: skip
        Run(beside).write_results({"training": {}, "numbers": [], "imported": imported})
        try:
            load_stored(beside)
        except InputError as error:
            raise InputError(f"{file}: {str(error).replace(str(beside), 'it')}") from error
        os.rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _local(source: str | Path) -> Path:
    file = Path(source).expanduser()
    if file.is_file():
        return file
    if str(source).startswith("lightly/"):
        raise unknown("checkpoint", source, known_checkpoints())
    raise InputError(f"no file '{source}': give a file of weights, or a name such as 'lightly/simclr-res50'")


def _download(known: Known) -> Path:
    """The checkpoint's file in the cache of Hugging Face, downloaded where it is not there yet; it is never there by half."""
    file = Path(constants.HF_HOME) / "sslzoo" / f"{known.name}.ckpt"
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with urlopen(known.url, timeout=60) as answer, open(beside, "wb") as opened:
            length = answer.headers.get("Content-Length")
            if length is None:
                raise InputError(f"cannot download {known.name} from {known.url}: the server does not say how long the file is")
            with tqdm(desc=known.name, total=int(length), unit="B", unit_scale=True, disable=None) as bar:
                while chunk := answer.read(_CHUNK):
                    opened.write(chunk)
                    bar.update(len(chunk))
        if beside.stat().st_size != int(length):
            raise InputError(f"{known.name} came by half: {beside.stat().st_size:,} of {int(length):,} bytes; import it again")
        os.replace(beside, file)
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot download {known.name} from {known.url}: {first_line(error)}") from error
    finally:
        beside.unlink(missing_ok=True)
    return file


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name. Runs no code that is in it. Raises `InputError`, without the file's name."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"not to be read as safetensors: {first_line(error)}") from error
    try:
        try:
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            held = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"holds more than weights ({told[1] if told else 'no pickle of tensors'}), and opening such a file may run code: "
            "where you trust it, save its tensors alone as .safetensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"not to be read as a file of torch.save: {first_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise InputError("holds no tensors by name, neither at its top nor under 'state_dict' or 'model'")
    return held
