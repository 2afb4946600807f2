"""Data sets opened by Hugging Face `datasets`: Parquet files, `save_to_disk` folders and the Hub."""

import contextlib
import glob
import hashlib
import os

from sslzoo.errors import InputError, unknown

from .array_rows import ArrayRows, holds_images
from .columns import find_image_column, find_label_column
from .labels import read_labels
from .messages import display_name, first_few
from .raw_split import RawSplit, Request
from .rows import FileRows, TableRows
from .split_names import choose


def open_parquet(folder: str, files: list[str], requested: Request) -> RawSplit:
    """The rows of Parquet files, relative to `folder`. Files without images and damaged ones are skipped. Raises `InputError`."""
    from datasets import Features
    from pyarrow import ArrowException, parquet

    readable, others, damaged = [], [], []
    for file in files:
        try:
            metadata = parquet.read_metadata(os.path.join(folder, file))
            if metadata.num_rows == 0:  # such as the last shard of an uneven export; the builder fails on it
                continue
            find_image_column(Features.from_arrow_schema(metadata.schema.to_arrow_schema()), requested.image_column)
        except InputError:  # such as the output of `sslzoo embed`
            others.append(file)
        except (ArrowException, OSError, ValueError):
            damaged.append(file)
        else:
            readable.append(os.path.abspath(os.path.join(folder, file)))
    notes = [f"{problem}, not read: {first_few(found)}" for problem, found in (("no images", others), ("damaged", damaged)) if found]
    if not readable and not others and not damaged:
        return RawSplit(FileRows("", []), None, None, [], [])
    # If no file is readable, the loader raises the better message.
    readable = readable or [os.path.abspath(os.path.join(folder, file)) for file in [*others, *damaged]]
    source = folder if len(files) > 1 else os.path.join(folder, files[0])
    dataset = _load_local(source, "parquet", data_files={"data": [glob.escape(_unambiguous(path)) for path in readable]})["data"]
    opened = _split_from(dataset, requested, (), [])
    return opened._replace(notes=[*opened.notes, *notes])


def _unambiguous(path: str) -> str:
    """The path, or a link to it if `datasets` would interpret it: "$" as a variable, "::" as a file in an archive."""
    from datasets import config

    if "$" not in path and "::" not in path:
        return path
    link = os.path.join(config.HF_DATASETS_CACHE, "links", hashlib.sha256(os.fsencode(path)).hexdigest() + ".parquet")
    os.makedirs(os.path.dirname(link), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink(path, link)
    return link


def open_saved(parent: str, folders: list[str], requested: Request) -> RawSplit:
    """A data set written by `save_to_disk`, in one folder or in one folder for each split. Raises `InputError`."""
    import datasets

    found = {}
    for folder in folders:
        try:
            saved = datasets.load_from_disk(folder)
        except Exception as error:  # Arrow, JSON and the file system each raise their own
            raise InputError(f"cannot load the data set '{display_name(folder)}': {_reason(error)}") from error
        if isinstance(saved, datasets.DatasetDict):
            found |= saved
        else:
            found[os.path.basename(folder) if folder != parent else str(saved.split or "train")] = saved
    return _split_from(_select(found, requested.split), requested, (), list(found))


def _select(splits, requested: str):
    names = choose(requested, splits)
    if len(names) > 1:
        raise unknown("split", requested, splits)
    return splits[names[0]]


def _split_from(dataset, requested: Request, folders: tuple[str, ...], splits: list[str]) -> RawSplit:
    """A split from a loaded data set. folders: those that its rows' paths may lead into."""
    if len(dataset) == 0:
        return RawSplit(FileRows("", []), None, None, [], [])
    image_column = find_image_column(dataset.features, requested.image_column)
    labels_at, unlabelled = find_label_column(dataset.features, requested.label_column)
    table = dataset.select_columns([name for name in {image_column, labels_at} if name]).with_format("arrow")[:]
    column = table.column(image_column)
    rows = ArrayRows(column) if holds_images(dataset.features[image_column]) else TableRows(column, folders)
    notes = _inner_splits(dataset)
    if labels_at is None:
        return RawSplit(rows, None, None, splits, notes, unlabelled)
    stated = getattr(dataset.features[labels_at], "names", None)
    labels = read_labels(table.column(labels_at), labels_at, stated, requested.label_column is not None)
    return RawSplit(rows, labels.values, labels.names, splits, notes, labels.reason)


def _inner_splits(dataset) -> list[str]:
    """A note if a column "split" distinguishes rows, as it is not used."""
    if getattr(dataset.features.get("split"), "dtype", None) not in ("string", "large_string"):
        return []
    found = sorted(value for value in dataset.unique("split") if value)
    return [f"column 'split' is not used, all rows are read: {first_few(found)}"] if len(found) > 1 else []


def open_hub(source: str, requested: Request) -> RawSplit:
    """The rows of a data set on the Hub, "namespace/name" or "namespace/name@configuration". Raises `InputError`."""
    from datasets import config
    from huggingface_hub import constants

    name, _, configuration = source.partition("@")
    splits = _load(source, name, name=configuration or None)
    dataset = _select(splits, requested.split)
    # The rows of an image folder on the Hub hold paths into the cache.
    cache = (str(config.HF_CACHE_HOME), constants.HF_HUB_CACHE) if dataset.builder_name == "imagefolder" else ()
    return _split_from(dataset, requested, cache, list(splits))


def _load_local(source: str, path: str, **arguments):
    from datasets import config

    count_downloads = config.HF_UPDATE_DOWNLOAD_COUNTS
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise a server is contacted although all files are local
    try:
        return _load(source, path, **arguments)
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = count_downloads


def _load(source: str, path: str, **arguments):
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        try:
            return load_dataset(path, **arguments)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # The Hub converts many data sets that are made by a script to Parquet.
            return load_dataset(path, **arguments, revision="refs/convert/parquet")
    except Exception as error:  # the builders, Arrow, the Hub and the network each raise their own
        hint = "" if os.path.exists(os.path.expanduser(source)) else "; a local folder or Parquet file works too, and 'digits' is built in"
        if isinstance(error, DatasetNotFoundError):
            hint = f"; is it spelt right? `hf auth login` gives access to what is private or gated{hint}"
        raise InputError(f"cannot load the data set '{display_name(source)}': {_reason(error)}{hint}") from error


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return display_name((str(cause).strip() or type(cause).__name__).splitlines()[0])
