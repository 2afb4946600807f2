"""Imports weights that others trained, from a file or one of lightly's checkpoints, into a model folder like a run's."""

import sys
from collections.abc import Callable
from pathlib import Path

from sslzoo.encoders import SMALL_IMAGE, ConvertedEncoder, convert_weights, load_pretrained, to_plain
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.evaluation import Preprocessing
from sslzoo.files import atomic_write, sha256_of
from sslzoo.run import Run

from .lightly_checkpoints import download, known_checkpoints
from .weights_file import read_tensors


def import_weights(
    source: str | Path, folder: str | Path, *, branch: str | None = None, heads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Path:  # fmt: skip
    """Writes a folder that `sslzoo evaluate` and plain transformers load: the encoder, its preprocessing, and its source.

    source: a .safetensors file, a file of torch.save (.ckpt, .pth, .pt, .pth.tar, .bin), or a name of `known_checkpoints`, which is
    downloaded once. branch: which of several encoders in the file. heads: a ViT's attention heads; see
    `sslzoo.encoders.convert_weights`. report: called with one line each on what was taken, left out, converted and assumed.

    results.json holds "imported": the source (an address or a file's name), the file's sha256, layout, encoder, branch, what its
    authors reported, which is never among "numbers": those are measured here, and "files", the digests of what was written.
    The folder is complete or absent. Raises `InputError`, also if the folder is not empty.
    """
    folder = Path(folder)
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something already: name a new folder")
    checkpoint = known_checkpoints().get(str(source))
    file = download(checkpoint) if checkpoint else _local_file(source)
    try:
        found = convert_weights(read_tensors(file), branch, heads)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error
    if checkpoint and found.name != checkpoint.encoder:
        raise InputError(f"{file} holds '{found.name}', but {checkpoint.name} is '{checkpoint.encoder}'")
    preprocessing = _preprocessing(found)
    imported = {
        "source": checkpoint.url if checkpoint else file.name, "sha256": sha256_of(file), "layout": found.layout, "encoder": found.name,
        "branch": found.branch, "reported": {"by": "lightly", "numbers": checkpoint.numbers} if checkpoint else None,
    }  # fmt: skip
    try:
        _write(folder, found, preprocessing, imported)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {first_line(error)}") from error
    for line in found.notes:
        report(line)
    report(f"images: short side to {preprocessing.resize} px ({preprocessing.interpolation}), the middle {preprocessing.crop} px of it")
    return folder


def _preprocessing(found: ConvertedEncoder) -> Preprocessing:
    """The reference page's: resized to 8/7 of the crop's size, or to the crop's size for images as small as CIFAR's."""
    size = found.image_size
    resize = size if size <= SMALL_IMAGE else round(size * 256 / 224)
    return Preprocessing(resize, size, "bicubic" if found.encoder.config.model_type.startswith("dinov2") else "bilinear")


def _write(folder: Path, found: ConvertedEncoder, preprocessing: Preprocessing, imported: dict) -> None:
    with atomic_write(folder) as temporary:
        temporary.mkdir(parents=True)
        to_plain(found.encoder).save_pretrained(temporary, max_shard_size=sys.maxsize)  # one file, as in every run folder
        preprocessing.write(temporary)
        run = Run(temporary)
        run.write_results({"training": {}, "numbers": [], "imported": {**imported, "files": run.digests()}})
        load_pretrained(temporary)  # raises `InputError` for weights that are not finite


def _local_file(source: str | Path) -> Path:
    file = Path(source).expanduser()
    if file.is_file():
        return file
    if file.is_dir():
        raise InputError(f"'{source}' is a folder: give a file of weights (`sslzoo evaluate` takes a transformers folder as it is)")
    if str(source).startswith("lightly/"):
        raise unknown("checkpoint", source, known_checkpoints())
    raise InputError(f"no file '{source}': give a file of weights, or a name such as 'lightly/simclr-res50'")
