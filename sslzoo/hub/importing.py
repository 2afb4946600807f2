"""Weights of others as a model folder like ours: from a file, or by name from the table of lightly's checkpoints."""

import csv
import os
import shutil
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from huggingface_hub import constants
from tqdm import tqdm

from sslzoo.checkpoint import sha256_of
from sslzoo.encoders import SMALL_IMAGE, Foreign, convert_weights, load_stored, to_plain
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.evaluation import Preprocessing
from sslzoo.run import Run

from .weights_file import read_tensors

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


def import_weights(
    source: str | Path, folder: str | Path, *, branch: str | None = None, heads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:  # fmt: skip
    """Writes a folder that `sslzoo evaluate` and plain transformers load: the encoder, its preprocessing, and where it comes from.

    source: a .safetensors file, a file of torch.save (.ckpt, .pth, .pt, .pth.tar, .bin), or a name of `known_checkpoints`, which is
    downloaded once. branch, heads: which of several encoders in the file, and a ViT's attention heads; see
    `sslzoo.encoders.convert_weights`. say: told in a line each what was taken, left aside, converted and assumed.

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
        found = convert_weights(read_tensors(file), branch, heads)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error
    if known and found.name != known.encoder:
        raise InputError(f"{file} holds '{found.name}', but {known.name} is '{known.encoder}'")
    preprocessing = _preprocessing(found)
    imported = {
        "source": known.url if known else file.name, "sha256": sha256_of(file), "layout": found.layout, "encoder": found.name,
        "branch": found.branch, "reported": {"by": "lightly", "numbers": known.numbers} if known else None,
    }  # fmt: skip
    try:
        _write(folder, found, preprocessing, imported)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {first_line(error)}") from error
    for line in found.said:
        say(line)
    say(f"images: short side to {preprocessing.resize} px ({preprocessing.interpolation}), the middle {preprocessing.crop} px of it")
    return folder


def _preprocessing(found: Foreign) -> Preprocessing:
    """As at the reference page: a margin of an eighth around the centre, or none for images as small as CIFAR's."""
    size = found.image_size
    resize = size if size <= SMALL_IMAGE else round(size * 256 / 224)
    return Preprocessing(resize, size, "bicubic" if found.encoder.config.model_type.startswith("dinov2") else "bilinear")


def _write(folder: Path, found: Foreign, preprocessing: Preprocessing, imported: dict) -> None:
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        to_plain(found.encoder).save_pretrained(beside)
        preprocessing.write(beside)
        Run(beside).write_results({"training": {}, "numbers": [], "imported": imported})
        load_stored(beside)
        os.rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _local(source: str | Path) -> Path:
    file = Path(source).expanduser()
    if file.is_file():
        return file
    if file.is_dir():
        raise InputError(f"'{source}' is a folder: give a file of weights (`sslzoo evaluate` takes a folder of transformers' as it is)")
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
