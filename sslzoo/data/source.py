"""From what the user calls a data set to the rows of one split, wherever and however it is stored."""

import contextlib
import glob
import hashlib
import logging
import os
import re

import torch
from torch import Tensor

from sslzoo.errors import InputError, unknown

from .archives import is_archive, open_archives
from .columns import find_image_column, find_label_column
from .layout import Layout
from .listing import Listing, counted, ending_of, list_folder, some
from .names import is_data_file, shown, text_of
from .opened import Asked, Opened, as_tensor
from .rows import FileRows, Rows
from .splits import choose, keyword_of, says_split, splits_of_files
from .tables import TABLES, open_metadata, open_tables

_log = logging.getLogger(__name__)


def open_source(source: str, split: str, image_column: str | None, label_column: str | None) -> Opened:
    """Opens `split` of a local folder or file or of a Hub data set; decodes nothing, and logs what it found. Raises `InputError`."""
    asked = Asked(split, image_column, label_column)
    place = os.path.expanduser(source)
    if os.path.isdir(place):
        opened = _open_folder(place, asked)
    elif os.path.exists(place):
        opened = _open_files(os.path.dirname(place), [os.path.basename(place)], asked)
    elif source.startswith((".", "/", "~")) or is_data_file(source) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[^/@]+)?", source):
        raise unknown("folder or file", source, _neighbours(place))
    else:
        opened = _open_hub(source, asked)
    if len(opened.rows) == 0:
        raise InputError("; ".join([f"{shown(source)} ({split}) has no rows", *opened.notes]))
    classes = f" in {len(opened.label_names)} classes" if opened.label_names else ""
    splits = [f"splits: {shown(', '.join(opened.splits))}"] if len(opened.splits) > 1 else []
    unlabelled = [opened.unlabelled] if opened.unlabelled else []
    found = "; ".join([f"{counted(len(opened.rows), 'image')}{classes}", *splits, *unlabelled, *opened.notes])
    strange = len(opened.splits) > 1 and any(keyword_of(name) is None for name in opened.splits)  # which a user may not know for splits
    _log.log(logging.WARNING if opened.notes or unlabelled or strange else logging.INFO, "%s (%s): %s", shown(source), split, found)
    # A folder's name need not be UTF-8, and the names of classes are written into files.
    return opened._replace(label_names=opened.label_names and [text_of(name) for name in opened.label_names])


def _neighbours(place: str) -> list[str]:
    """What lies where `place` should."""
    parent = os.path.dirname(place)
    try:
        return [os.path.join(parent, name) for name in os.listdir(parent or ".")]
    except (OSError, ValueError):
        return []


def _open_folder(place: str, asked: Asked) -> Opened:
    if os.path.isfile(os.path.join(place, "dataset_dict.json")) or os.path.isfile(os.path.join(place, "state.json")):
        return _open_saved(place, [place], asked)
    listing = list_folder(place)
    layout = Layout(listing)
    if layout.splits:
        return _open_images(place, listing, layout, asked)
    saved = [os.path.join(place, *folder.parts) for folder in listing.folders[1:] if len(folder.parts) == 1]
    saved = [folder for folder in saved if os.path.isfile(os.path.join(folder, "state.json"))]
    if saved:
        return _open_saved(place, saved, asked)
    for endings in ((".parquet",), (".tar",), (".zip",), TABLES):
        files = [file for ending in endings for file in listing.others.pop(ending, [])]
        if files:
            opened = _open_files(place, files, asked)
            return opened._replace(notes=[*opened.notes, *filter(None, [listing.unread()])])
    raise InputError("; ".join(filter(None, [f"no images and no Parquet files in '{shown(place)}'", listing.unread()])))


def _open_images(place: str, listing: Listing, layout: Layout, asked: Asked) -> Opened:
    if asked.image_column not in (None, "image", "file_name"):  # the names that `datasets` gives
        raise unknown("image column", asked.image_column, ["image"])
    empty = layout.without_images(asked.split)
    if empty is not None:
        raise InputError("; ".join(filter(None, [f"no images in '{shown(os.path.join(place, empty))}'", listing.unread()])))
    arranged = layout.arrange(asked.split)
    if asked.label_column is not None:
        opened = open_metadata(os.path.abspath(place), listing, arranged, asked.label_column)
        if opened is not None:
            return opened._replace(splits=layout.splits)
        if arranged.labels is None:
            arranged = layout.arrange(asked.split, innermost=True)
    labels, missing = as_tensor(arranged.labels, arranged.paths)
    rows = FileRows(place, arranged.paths)
    repeated = rows.repeated() if listing.linked else 0
    notes = [*arranged.notes, *missing, *filter(None, [listing.unread()])]
    if repeated:
        notes.append(f"{counted(repeated, 'image')} there more than once, by links")
    return Opened(rows, labels, arranged.label_names, layout.splits, notes, arranged.unlabelled)


def _open_files(folder: str, files: list[str], asked: Asked) -> Opened:
    """Data files of one kind, `files` relative to `folder`."""
    gone = [file for file in files if not os.path.isfile(os.path.join(folder, file))]  # a pipe, a link to nowhere
    if len(gone) == len(files):
        raise InputError(f"'{shown(os.path.join(folder, files[0]))}' is no file")
    splits = splits_of_files({*files} - {*gone})
    archives = is_archive(files[0])
    # Where no archive's name says a split, the folders in them do.
    named = not archives or any(says_split(file) for file in files)
    chosen = [file for name in (choose(asked.split, splits) if named else splits) for file in splits[name]]
    if archives:
        opened = open_archives([os.path.join(folder, file) for file in chosen], asked, named)
    elif ending_of(files[0]) in TABLES:
        opened = open_tables(os.path.abspath(folder), chosen, asked)
    elif ending_of(files[0]) == ".parquet":
        opened = _open_parquet(folder, chosen, asked)
    else:
        file = shown(os.path.join(folder, files[0]))
        raise InputError(f"'{file}' is neither a folder nor a .parquet, .csv, .tsv, .jsonl, .tar or .zip file")
    unused = sorted({*files} - {*gone} - {file for shards in splits.values() for file in shards})
    notes = [f"{counted(len(unused), 'file')} deeper down not read: {some(unused)}"] if unused else []
    notes += [f"not read, as they are no files: {some(gone)}"] if gone else []
    return opened._replace(splits=list(splits) if named else opened.splits, notes=[*notes, *opened.notes])


def _open_parquet(folder: str, files: list[str], asked: Asked) -> Opened:
    # The builder fails on a file without rows, such as the last shard of an uneven export.
    places = [place for file in files for place in [os.path.abspath(os.path.join(folder, file))] if _has_rows(place)]
    if not places:
        return Opened(FileRows("", []), None, None, [], [])
    ours = [place for place in places if len(places) > 1 and _holds_features(place)]
    notes = [f"features of images, not read: {some(ours)}"] if 0 < len(ours) < len(places) else []
    places = [place for place in places if place not in ours] or places
    source = folder if len(files) > 1 else os.path.join(folder, files[0])
    dataset = _load_local(source, "parquet", data_files={"data": [glob.escape(_plain(place)) for place in places]})["data"]
    opened = _opened(dataset, asked, (), [])
    return opened._replace(notes=[*opened.notes, *notes])


def _holds_features(file: str) -> bool:
    """Whether the Parquet file is what `sslzoo embed` writes, which may lie beside the images."""
    from pyarrow import ArrowException, parquet

    try:
        return {"row", "name", "feature"} <= {*parquet.read_schema(file).names}
    except (ArrowException, OSError):
        return False


def _plain(place: str) -> str:
    """The path, or a link to it where `datasets` would take it for more than a path: a variable, or a file in an archive."""
    from datasets import config

    if "$" not in place and "::" not in place:
        return place
    link = os.path.join(config.HF_DATASETS_CACHE, "links", hashlib.sha256(os.fsencode(place)).hexdigest() + ".parquet")
    os.makedirs(os.path.dirname(link), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink(place, link)
    return link


def _open_saved(place: str, folders: list[str], asked: Asked) -> Opened:
    """What `save_to_disk` has left in one folder, or in several of which each is a split."""
    import datasets

    found = {}
    for folder in folders:
        try:
            saved = datasets.load_from_disk(folder)
        except Exception as error:  # Arrow, JSON and the file system each raise their own
            raise InputError(f"cannot load the data set '{shown(folder)}': {_reason(error)}") from error
        if isinstance(saved, datasets.DatasetDict):
            found |= saved
        else:
            found[os.path.basename(folder) if folder != place else str(saved.split or "train")] = saved
    return _opened(_one_of(found, asked.split), asked, (), list(found))


def _one_of(splits, asked: str):
    names = choose(asked, splits)
    if len(names) > 1:
        raise unknown("split", asked, splits)
    return splits[names[0]]


def _opened(dataset, asked: Asked, folders: tuple[str, ...], splits: list[str]) -> Opened:
    """A data set of `datasets`, whose rows' paths may lead into `folders`."""
    if len(dataset) == 0:
        return Opened(FileRows("", []), None, None, [], [])
    image_column = find_image_column(dataset.features, asked.image_column)
    label_column = find_label_column(dataset.features, asked.label_column)
    table = dataset.select_columns([name for name in {image_column, label_column} if name]).with_format("arrow")[:]
    rows = Rows(table.column(image_column), folders)
    if label_column is None:
        return Opened(rows, None, None, splits, [])
    names = getattr(dataset.features[label_column], "names", None)
    return Opened(rows, *_labels(table.column(label_column), label_column, names), splits, [])


def _labels(column, name: str, names: list[str] | None) -> tuple[Tensor | None, list[str] | None]:
    # A copy, as the table is read-only and a streamed set changes its labels.
    labels = torch.from_numpy(column.cast("int64").fill_null(-1).to_numpy().copy())
    if bool((labels == -1).all()):
        return None, None  # how the Hub publishes test splits whose labels are kept back
    most = len(names) if names else 2**62
    wrong = ((labels < 0) | (labels >= most)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        value = column[row].as_py()
        classes = f" of {most} classes" if names else ""
        raise InputError(f"row {row} has the label {value} in column '{name}'{classes}: labels are 0, 1, 2 ...")
    return labels, names


def _has_rows(file: str) -> bool:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_metadata(file).num_rows > 0
    except (ArrowException, OSError):  # the loader has the better message
        return True


def _open_hub(source: str, asked: Asked) -> Opened:
    from datasets import config
    from huggingface_hub import constants

    name, _, configuration = source.partition("@")
    splits = _load(source, name, name=configuration or None)
    dataset = _one_of(splits, asked.split)
    # A Hub folder of image files is downloaded file by file; the rows hold the files' places in the cache.
    cache = (str(config.HF_CACHE_HOME), constants.HF_HUB_CACHE) if dataset.builder_name == "imagefolder" else ()
    return _opened(dataset, asked, cache, list(splits))


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
        hint = "" if os.path.exists(os.path.expanduser(source)) else "; a local folder or Parquet file works too, and 'digits' is built in"
        raise InputError(f"cannot load the data set '{shown(source)}': {_reason(error)}{hint}") from error


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return shown((str(cause).strip() or type(cause).__name__).splitlines()[0])
