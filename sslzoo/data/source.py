"""From what the user calls a data set to the rows of one split, through Hugging Face `datasets`."""

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sslzoo.errors import InputError, unknown

from .columns import find_image_column, find_label_column
from .labels import NoLabels, read_labels
from .rows import Rows

_SPLIT_FOLDERS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}
_IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}


class Opened(NamedTuple):
    """The rows of one split."""

    rows: Rows
    labels: Tensor | None  # int64 (rows,) on the CPU
    label_names: list[str] | None
    unlabelled: str = ""  # why there are no labels where there might be some, in words


def open_source(source: str, split: str, image_column: str | None, label_column: str | None) -> Opened:
    """Opens `split` of a local folder, Parquet file or Hub data set; decodes nothing. Raises `InputError`."""
    path = Path(source).expanduser()
    if path.exists():
        dataset, folders = _open_parquet(path, split) if _parquet_files(path) else _open_folder(path, split)
    elif source.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[^/@]+)?", source):
        near = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise unknown("folder or file", source, near)
    else:
        dataset, folders = _open_hub(source, split)
    if len(dataset) == 0:
        raise InputError(f"{source} ({split}) has no rows")
    image_column = find_image_column(dataset.features, image_column)
    labels_at, unlabelled = find_label_column(dataset.features, label_column)
    table = dataset.select_columns([name for name in {image_column, labels_at} if name]).with_format("arrow")[:]
    rows = Rows(table.column(image_column), folders)
    if labels_at is None:
        return Opened(rows, None, None, unlabelled)
    names = getattr(dataset.features[labels_at], "names", None)
    try:
        return Opened(rows, *read_labels(table.column(labels_at), labels_at, names))
    except NoLabels as error:
        if label_column is not None:
            raise InputError(str(error)) from error
        return Opened(rows, None, None, str(error))


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))


def _open_parquet(path: Path, split: str):
    splits: dict[str, list[str]] = {}
    for file in _parquet_files(path):
        splits.setdefault(file.stem.split("-")[0], []).append(str(file.absolute()))
    if split not in splits:
        raise unknown("split", split, splits)
    # The builder fails on a file without rows, such as the last shard of an uneven export.
    files = [glob.escape(file) for file in splits[split] if _has_rows(file)]
    if not files:
        raise InputError(f"{path} ({split}) has no rows")
    return _load_local(str(path), "parquet", data_files={"data": files})["data"], ()


def _has_rows(file: str) -> bool:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_metadata(file).num_rows > 0
    except (ArrowException, OSError):  # the loader has the better message
        return True


def _open_folder(path: Path, split: str):
    if not path.is_dir():
        raise InputError(f"'{path}' is neither a folder nor a .parquet file")
    inside = {child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")}
    named = {name for name in inside if name in _SPLIT_FOLDERS}
    # "train" may also be a class, beside cars and planes.
    is_split = named == inside or ("train" in named and len(named) > 1)
    splits = {name: path / name for name in sorted(named)} if named and is_split else {"train": path}
    if split not in splits:
        raise unknown("split", split, splits)
    places = {name: _image_folders(folder) for name, folder in splits.items()}
    if not places[split]:
        raise InputError(f"no images and no Parquet files in '{splits[split]}'")
    # All the splits with classes are listed together, so that a class missing from one does not shift the others' numbers; a split
    # without classes would take them from the others.
    alike = [name for name in splits if places[name] and (places[name] == {()}) == (places[split] == {()})]
    files = {name: os.path.join(glob.escape(str(splits[name].absolute())), "**") for name in alike}
    # Left to itself the builder decides split by split, and would take the folders "train" and "test" for classes.
    together = set().union(*(places[name] for name in alike))
    classes = len({len(parts) for parts in together}) == 1 and len({parts[-1:] for parts in together}) > 1
    return _load_local(str(path), "imagefolder", data_files=files, drop_labels=not classes)[split], (str(path),)


def _image_folders(folder: Path) -> set[tuple[str, ...]]:
    """The folders that images lie in, as the names that lead there from `folder`; hidden ones hold other programs' files."""
    found = set()
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith((".", "__"))]
        if any(Path(file).suffix.lower() in _IMAGES for file in files):
            found.add(Path(place).relative_to(folder).parts)
    return found


def _open_hub(source: str, split: str):
    from datasets import config
    from huggingface_hub import constants

    name, _, configuration = source.partition("@")
    splits = _load(source, name, name=configuration or None)
    if split not in splits:
        raise unknown("split", split, splits)
    dataset = splits[split]
    # A Hub folder of image files is downloaded file by file; the rows hold the files' places in the cache.
    cache = (str(config.HF_CACHE_HOME), constants.HF_HUB_CACHE) if dataset.builder_name == "imagefolder" else ()
    return dataset, cache


def _load_local(source: str, path: str, **arguments):
    from datasets import config

    counted = config.HF_UPDATE_DOWNLOAD_COUNTS
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else a server is asked, and waited for, although all the files are here
    try:
        return _load(source, path, **arguments)
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counted


def _load(source: str, path: str, **arguments):
    from datasets import load_dataset

    try:
        try:
            return load_dataset(path, **arguments)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # The Hub keeps a copy in Parquet of many data sets that are made by a script.
            return load_dataset(path, **arguments, revision="refs/convert/parquet")
    except Exception as error:  # the builders, Arrow, the Hub and the network each raise their own
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:300]
        hint = "" if Path(source).expanduser().exists() else "; a local folder or Parquet file works too, and 'digits' is built in"
        raise InputError(f"cannot load the data set '{source}': {reason}{hint}") from error
