"""Images in tar files, such as WebDataset shards, and in zip files, read in place without unpacking."""

import os
import tarfile
import zipfile
import zlib
from collections import Counter

import numpy as np
import torch

from sslzoo.errors import InputError, first_line, unknown

from .decode import BrokenImage
from .labels import Labels, label_column
from .layout import Layout
from .listing import ending_of, list_paths
from .messages import display_name, first_few
from .names import utf8_path
from .raw_split import RawSplit, Request
from .rows import MAX_BYTES

_LABEL = "cls"  # WebDataset: the label of 0001.jpg is in 0001.cls
_MAX_LABEL_BYTES = 1000
_MAX_COLUMNS = 8  # images in a sample; with more, the dots in names do not separate extensions
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class _Tar:
    """The offset and size of each member of an uncompressed tar file, by path."""

    def __init__(self, file: str):
        self.members: dict[str, tuple[int, int]] = {}
        self.note, links = "", []
        try:
            with tarfile.open(file, "r:") as opened:
                while (member := opened.next()) is not None:
                    if member.isreg() and not member.issparse():
                        self.members[member.name] = (member.offset_data, member.size)
                    elif member.islnk() and member.linkname in self.members:  # the same file under another name
                        self.members[member.name] = self.members[member.linkname]
                    elif not member.isdir():
                        links.append(member.name)
                    opened.members = []  # tarfile keeps a kilobyte for each
            if links:
                self.note = f"links and the like in {os.path.basename(file)}, not read: {first_few(links)}"
        except (tarfile.TarError, OSError, ValueError) as error:
            if not self.members:
                raise InputError(f"cannot read '{display_name(file)}': {first_line(error)}") from error
            self.note = f"{os.path.basename(file)} is damaged after {len(self.members)} files: {first_line(error)}"
        self._handle = os.open(file, os.O_RDONLY)

    def size(self, path: str) -> int:
        return self.members[path][1]

    def read(self, path: str) -> bytes:
        """The member's content. Thread-safe. Raises `BrokenImage`."""
        start, size = self.members[path]
        try:
            content = os.pread(self._handle, size, start)
        except OSError as error:
            raise BrokenImage(error.strerror or "cannot be read") from error
        if len(content) < size:
            raise BrokenImage("the archive ends before it does")
        return content

    def __del__(self):
        if hasattr(self, "_handle"):
            os.close(self._handle)


class _Zip:
    """The members of a zip file, by path."""

    def __init__(self, file: str):
        self.note = ""
        try:
            self._opened = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise InputError(f"cannot read '{display_name(file)}': {first_line(error)}") from error
        self.members = {member.filename: member for member in self._opened.infolist() if not member.is_dir()}

    def size(self, path: str) -> int:
        return self.members[path].file_size

    def read(self, path: str) -> bytes:
        """The member's content. Thread-safe. Raises `BrokenImage`."""
        try:
            return self._opened.read(self.members[path])
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise BrokenImage(first_line(error)[:100]) from error


Member = tuple[_Tar | _Zip, str]  # an archive and a path in it


class ArchiveRows:
    """Images in archives. members: the archive of each image, and its path there."""

    def __init__(self, members: list[Member]):
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def encoded(self, row: int) -> bytes:
        """The member's content. Raises `BrokenImage`."""
        archive, path = self._members[row]
        if archive.size(path) > MAX_BYTES:
            raise BrokenImage(f"{archive.size(path)} bytes are too many for an image")
        return archive.read(path)

    def name(self, row: int) -> str:
        """The member's path in its archive."""
        return utf8_path(self._members[row][1])

    def lengths(self) -> np.ndarray:
        """int64 (rows,): bytes of each member."""
        return np.array([archive.size(path) for archive, path in self._members], np.int64)


def is_archive(file: str) -> bool:
    """Whether the file is a tar or zip file, by its name. Raises `InputError` for a compressed tar file, which has no random access."""
    if file.lower().endswith(_COMPRESSED):
        name = display_name(file)
        raise InputError(f"'{name}' is compressed as a whole, so its images cannot be read one by one: unpack it and give the folder")
    return ending_of(file) in (".tar", ".zip")


def open_archives(files: list[str], requested: Request, named: bool) -> RawSplit:
    """The images in several archives together. Raises `InputError`.

    named: the split is in the archives' own names. Labels are WebDataset's, from the file next to each image that ends in .cls
    (label_column: in another extension), or else class folders. image_column: the extension, if samples have several images.
    """
    archives, notes = _open_all(files)
    members: dict[str, list[Member]] = {}
    for archive in archives:
        for path in archive.members:
            members.setdefault(_normalized(archive, path), []).append((archive, path))
    listing = list_paths(members)
    layout = Layout(listing)
    if not layout.splits and listing.take_arrays():
        layout = Layout(listing)
    if not layout.splits:
        raise InputError("; ".join(filter(None, [f"no images in '{display_name(files[0])}'", *notes, listing.skipped()])))
    split = layout.splits[0] if named and len(layout.splits) == 1 else requested.split
    images = layout.images_of(split, requested.label_column == "label")
    if named and len(layout.splits) > 1:
        notes.append(f"of the splits in the archive, {first_few(layout.splits)}, '{display_name(split)}' alone is read")
    found = [member for path in images.paths for member in members[path]]
    extension = requested.label_column or (_LABEL if f".{_LABEL}" in listing.others else "label")
    if extension != "label":
        texts = [_sibling_text(archive, path, extension) for archive, path in found]
        if requested.label_column and not any(texts):
            raise InputError(
                f"label_column is '{extension}', but no file next to an image in '{display_name(files[0])}' ends in .{extension}"
            )
        labels = label_column(texts, extension, requested.label_column is not None)
        listing.others.pop(f".{extension}", None)
    else:
        labels = Labels(images.labels, images.label_names, images.unlabelled)
        if labels.values is not None:
            counts = torch.tensor([len(members[path]) for path in images.paths])
            labels = labels._replace(values=labels.values.repeat_interleave(counts))
    rows = _rows_with_extension(found, requested.image_column)
    values = None if labels.values is None else labels.values[torch.tensor(rows)]
    notes += [*images.notes, *filter(None, [listing.skipped()])]
    return RawSplit(ArchiveRows([found[row] for row in rows]), values, labels.names, layout.splits, notes, labels.reason)


def _open_all(files: list[str]) -> tuple[list[_Tar | _Zip], list[str]]:
    """The readable archives, and notes on the others. Raises `InputError` if none is readable."""
    archives, damaged = [], []
    for file in files:
        try:
            archives.append(_Zip(file) if ending_of(file) == ".zip" else _Tar(file))
        except InputError as error:
            damaged.append(error)
    if not archives:
        raise damaged[0]
    return archives, [*map(str, damaged), *(archive.note for archive in archives if archive.note)]


def _normalized(archive: _Tar | _Zip, path: str) -> str:
    # Old Windows programs write "ant\\1.png" into zip files.
    path = path.replace("\\", "/") if isinstance(archive, _Zip) else path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _split_extension(path: str) -> tuple[str, str]:
    """WebDataset's sample name, up to the first dot in the file's name, and everything after it, the extension."""
    folder, slash, name = path.rpartition("/")
    key, _, extension = name.partition(".")
    return folder + slash + key, extension


def _sibling_text(archive: _Tar | _Zip, path: str, extension: str) -> str | None:
    """The text in the file of the same sample with this extension."""
    sibling = f"{_split_extension(path)[0]}.{extension}"
    if sibling not in archive.members or archive.size(sibling) > _MAX_LABEL_BYTES:
        return None
    try:
        return archive.read(sibling).decode("utf-8", "replace").strip()
    except BrokenImage:
        return None


def _rows_with_extension(members: list[Member], requested: str | None) -> list[int]:
    """The rows of the images with the requested extension, "jpg" or "seg.png"; all rows without a request.

    Raises `InputError` for an extension that no image has, and without a request if samples have several images.
    """
    samples = [(id(archive), *_split_extension(path)) for archive, path in members]
    extensions = Counter(extension for *_, extension in samples)
    if requested is None or requested == "image":
        several = len({sample[:2] for sample in samples}) < len(samples)
        # If no extension occurs twice, the dots are merely part of the names.
        if several and len(extensions) <= _MAX_COLUMNS and max(extensions.values()) > 1:
            raise InputError(f"samples have several images; choose their ending as image_column: {', '.join(sorted(extensions))}")
        return list(range(len(members)))
    if requested not in extensions:
        raise unknown("image column", requested, extensions)
    return [row for row, (*_, extension) in enumerate(samples) if extension == requested]
