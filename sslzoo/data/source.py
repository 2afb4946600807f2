"""Opening a split of whatever the user names: a folder, a file or a Hub data set."""

import logging
import os
import re

from sslzoo.errors import InputError, unknown

from .archives import is_archive, open_archives
from .columns import NO_LABELS
from .hugging_face import open_hub, open_parquet, open_saved
from .layout import Layout
from .listing import Listing, ending_of, list_folder
from .messages import display_name, first_few, pluralize
from .names import is_data_file, utf8_path
from .raw_split import RawSplit, Request
from .rows import FileRows
from .split_names import choose, keyword_of, says_split, splits_of_files
from .tables import TABLES, open_metadata, open_tables

_log = logging.getLogger(__name__)


def open_source(source: str, split: str, image_column: str | None, label_column: str | None) -> RawSplit:
    """Opens a split of a local folder or file, or of a Hub data set, without decoding; logs what was found. Raises `InputError`.

    label_column "none": no labels.
    """
    requested = Request(split, image_column, label_column)
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        opened = _open_folder(path, requested)
    elif os.path.exists(path):
        opened = _open_files(os.path.dirname(path), [os.path.basename(path)], requested)
    elif source.startswith((".", "/", "~")) or is_data_file(source) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[^/@]+)?", source):
        raise unknown("folder or file", source, _siblings(path))
    else:
        opened = open_hub(source, requested)
    if len(opened.rows) == 0:
        raise InputError("; ".join([f"{display_name(source)} ({split}) has no rows", *opened.notes]))
    if label_column == NO_LABELS:
        opened = opened._replace(labels=None, label_names=None, unlabelled="")
    if opened.labels is not None:
        missing = [opened.rows.name(row) for row in (opened.labels < 0).nonzero()[:, 0].tolist()]
        if missing:
            opened.notes.insert(0, f"{pluralize(len(missing), 'image')} without a label: {first_few(missing)}")
    number = len(opened.label_names or [])
    classes = f" in {number} {'class' if number == 1 else 'classes'}" if number else ""
    splits = [f"splits: {display_name(', '.join(opened.splits))}"] if len(opened.splits) > 1 else []
    unlabelled = [opened.unlabelled] if opened.unlabelled else []
    found = "; ".join([f"{pluralize(len(opened.rows), 'image')}{classes}", *splits, *unlabelled, *opened.notes])
    # Folders that the user may not have meant as splits.
    unusual = len(opened.splits) > 1 and any(keyword_of(name) is None for name in opened.splits)
    _log.log(logging.WARNING if opened.notes or unlabelled or unusual else logging.INFO, "%s (%s): %s", display_name(source), split, found)
    # Class names are written to files, and a folder's name need not be UTF-8.
    return opened._replace(label_names=opened.label_names and [utf8_path(name) for name in opened.label_names])


def _siblings(path: str) -> list[str]:
    """The files and folders that exist where `path` was expected."""
    parent = os.path.dirname(path)
    try:
        return [os.path.join(parent, name) for name in os.listdir(parent or ".")]
    except (OSError, ValueError):
        return []


def _open_folder(folder: str, requested: Request) -> RawSplit:
    if any(os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json")):
        return open_saved(folder, [folder], requested)
    listing = list_folder(folder)
    layout = Layout(listing)
    if layout.splits:
        return _open_images(folder, listing, layout, requested)
    subfolders = [os.path.join(folder, *found.parts) for found in listing.folders if len(found.parts) == 1]
    saved = [path for path in subfolders if os.path.isfile(os.path.join(path, "state.json"))]
    if saved:
        return open_saved(folder, saved, requested)
    for extensions in ((".parquet",), (".tar",), (".zip",), TABLES):
        files = [file for extension in extensions for file in listing.others.pop(extension, [])]
        if files:
            opened = _open_files(folder, files, requested)
            return opened._replace(notes=[*opened.notes, *filter(None, [listing.skipped()])])
    if listing.take_arrays():
        return _open_images(folder, listing, Layout(listing), requested)
    raise InputError("; ".join(filter(None, [f"no images and no Parquet files in '{display_name(folder)}'", listing.skipped()])))


def _open_images(folder: str, listing: Listing, layout: Layout, requested: Request) -> RawSplit:
    requested = requested.without_none()
    if requested.image_column not in (None, "image", "file_name"):  # as `datasets` calls it
        raise unknown("image column", requested.image_column, ["image"])
    empty = layout.empty_folder(requested.split)
    if empty is not None:
        raise InputError("; ".join(filter(None, [f"no images in '{display_name(os.path.join(folder, empty))}'", listing.skipped()])))
    images = layout.images_of(requested.split)
    if requested.label_column is not None:
        opened = open_metadata(os.path.abspath(folder), listing, images, requested.label_column)
        if opened is not None:
            return opened._replace(splits=layout.splits)
        if images.labels is None:
            images = layout.images_of(requested.split, innermost=True)
    rows = FileRows(folder, images.paths)
    duplicates = rows.duplicates() if listing.has_links else 0
    notes = [*images.notes, *filter(None, [listing.skipped()])]
    if duplicates:
        notes.append(f"{pluralize(duplicates, 'image')} there more than once, by links")
    return RawSplit(rows, images.labels, images.label_names, layout.splits, notes, images.unlabelled)


def _open_files(folder: str, files: list[str], requested: Request) -> RawSplit:
    """Data files of one kind, `files` relative to `folder`."""
    missing = [file for file in files if not os.path.isfile(os.path.join(folder, file))]  # a pipe, a dangling link
    if len(missing) == len(files):
        raise InputError(f"'{display_name(os.path.join(folder, files[0]))}' is no file")
    splits = splits_of_files({*files} - {*missing})
    archives, tables = is_archive(files[0]), ending_of(files[0]) in TABLES
    # If no file's name contains a split, folders inside of archives or a column of tables may.
    named = not (archives or tables) or len(splits) > 1 or any(says_split(file) for file in files)
    chosen = [file for name in (choose(requested.split, splits) if named else splits) for file in splits[name]]
    if archives:
        opened = open_archives([os.path.join(folder, file) for file in chosen], requested.without_none(), named)
    elif tables:
        opened = open_tables(os.path.abspath(folder), chosen, requested.without_none(), named)
    elif ending_of(files[0]) == ".parquet":
        opened = open_parquet(folder, chosen, requested)
    else:
        file = display_name(os.path.join(folder, files[0]))
        raise InputError(f"'{file}' is neither a folder nor a .parquet, .csv, .tsv, .jsonl, .tar or .zip file")
    unused = sorted({*files} - {*missing} - {file for shards in splits.values() for file in shards})
    notes = [f"{pluralize(len(unused), 'file')} deeper down not read: {first_few(unused)}"] if unused else []
    notes += [f"not read, as they are no files: {first_few(missing)}"] if missing else []
    return opened._replace(splits=list(splits) if named else opened.splits, notes=[*notes, *opened.notes])
