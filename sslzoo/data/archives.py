"""Images in tar shards, WebDataset's among them, and in zip files: read from where they lie, nothing is unpacked."""

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
_LONGEST_LABEL = 1000  # bytes
_MOST_COLUMNS = 8
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class _Tar:
    """Members of an uncompressed tar file by path: where each begins and its bytes."""

    def __init__(self, file: str):
        self.members: dict[str, tuple[int, int]] = {}
        self.note, links = "", []
        try:
            with tarfile.open(file, "r:") as opened:
                while (member := opened.next()) is not None:
                    if member.isreg() and not member.issparse():
                        self.members[member.name] = (member.offset_data, member.size)
                    elif member.islnk() and member.linkname in self.members:  # what is the same file twice
                        self.members[member.name] = self.members[member.linkname]
                    elif not member.isdir():
                        links.append(member.name)
                    opened.members = []  # else a kilobyte of memory for each
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
        """Raises `BrokenImage`. Safe to use from several threads."""
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
    """Members of a zip file by path."""

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
        """Raises `BrokenImage`. Safe to use from several threads."""
        try:
            return self._opened.read(self.members[path])
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise BrokenImage(first_line(error)[:100]) from error


class ArchiveRows:
    """The image files of archives, as `TableRows` are those of a table. members: of each image, its archive and its path there."""

    def __init__(self, members: list[tuple[_Tar | _Zip, str]]):
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
    """Whether the file is a tar or zip file by its name. Raises `InputError` for a tar file that is compressed as a whole."""
    if file.lower().endswith(_COMPRESSED):
        name = display_name(file)
        raise InputError(f"'{name}' is compressed as a whole, so its images cannot be read one by one: unpack it and give the folder")
    return ending_of(file) in (".tar", ".zip")


def open_archives(files: list[str], requested: Request, named: bool) -> RawSplit:
    """The images in archives, of all of them together. Raises `InputError`.

    named: the archives' own names have said the split. Labels are WebDataset's, in the file beside the image that ends in .cls
    (label_column names another ending); else class folders are. image_column: the ending, where samples have several images.
    """
    archives, damaged = [], []
    for file in files:
        try:
            archives.append(_Zip(file) if ending_of(file) == ".zip" else _Tar(file))
        except InputError as error:
            damaged.append(error)
    if not archives:
        raise damaged[0]
    places: dict[str, list[tuple[_Tar | _Zip, str]]] = {}
    for archive in archives:
        for member in archive.members:
            # Old Windows programs write "ant\\1.png" into zip files.
            path = member.replace("\\", "/") if isinstance(archive, _Zip) else member
            places.setdefault("/".join(part for part in path.split("/") if part not in ("", ".")), []).append((archive, member))
    listing = list_paths(places)
    notes = [*map(str, damaged), *(archive.note for archive in archives if archive.note)]
    layout = Layout(listing)
    if not layout.splits:
        raise InputError("; ".join(filter(None, [f"no images in '{display_name(files[0])}'", *notes, listing.skipped()])))
    inner = layout.splits[0] if named and len(layout.splits) == 1 else requested.split
    images = layout.arrange(inner, requested.label_column == "label")
    if named and len(layout.splits) > 1:
        notes.append(f"of the splits in the archive, {first_few(layout.splits)}, '{display_name(inner)}' alone is read")
    members = [place for path in images.paths for place in places[path]]
    labels = Labels(images.labels, images.label_names, images.unlabelled)
    if labels.values is not None:
        counts = torch.tensor([len(places[path]) for path in images.paths])
        labels = labels._replace(values=labels.values.repeat_interleave(counts))
    beside = requested.label_column or (_LABEL if f".{_LABEL}" in listing.others else "label")
    if beside != "label":
        values = [_beside(archive, member, beside) for archive, member in members]
        if requested.label_column and not any(values):
            raise InputError(f"label_column is '{beside}', but no file beside an image in '{display_name(files[0])}' ends in .{beside}")
        labels = label_column(values, beside, requested.label_column is not None)
        listing.others.pop(f".{beside}", None)
    rows = _of_one_ending(members, requested.image_column)
    members = [members[row] for row in rows]
    values = None if labels.values is None else labels.values[torch.tensor(rows)]
    said = [*notes, *images.notes, *filter(None, [listing.skipped()])]
    return RawSplit(ArchiveRows(members), values, labels.names, layout.splits, said, labels.reason)


def _sample(member: str) -> tuple[str, str]:
    """WebDataset's name of a sample, up to the first dot of the file's name, and the ending, all that follows."""
    folder, slash, name = member.rpartition("/")
    key, _, ending = name.partition(".")
    return folder + slash + key, ending


def _beside(archive: _Tar | _Zip, member: str, ending: str) -> str | None:
    """What the file of the same sample with this ending says."""
    other = f"{_sample(member)[0]}.{ending}"
    if other not in archive.members or archive.size(other) > _LONGEST_LABEL:
        return None
    try:
        return archive.read(other).decode("utf-8", "replace").strip()
    except BrokenImage:
        return None


def _of_one_ending(members: list[tuple[_Tar | _Zip, str]], requested: str | None) -> list[int]:
    """The rows of the images that end in `requested`, "jpg" or "seg.png"; all of them without it, unless samples have several images."""
    samples = [(id(archive), *_sample(member)) for archive, member in members]
    endings = Counter(ending for *_, ending in samples)
    if requested is None or requested == "image":
        several = len({sample[:2] for sample in samples}) < len(samples)
        if several and len(endings) <= _MOST_COLUMNS and max(endings.values()) > 1:  # else names merely hold dots
            raise InputError(f"samples have several images; choose their ending as image_column: {', '.join(sorted(endings))}")
        return list(range(len(members)))
    if requested not in endings:
        raise unknown("image column", requested, endings)
    return [row for row, (*_, ending) in enumerate(samples) if ending == requested]
