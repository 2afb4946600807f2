"""The encoded images of a split: random access to the rows of a table and to image files."""

import os
import stat
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

import numpy as np

from .decode import BrokenImage
from .names import utf8_path

MAX_BYTES = 2**30  # of one image file


class TableRows:
    """An image column: an Arrow column of bytes, or of (bytes, path) as `datasets` stores images.

    folders: the folders of the data set's image files. A row's path is opened only if it leads into one of them, as an untrusted table
    may name any file or address.
    """

    def __init__(self, column, folders: tuple[str, ...] = ()):
        self._folders = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
        self._real_folders = tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)
        self._chunks = [_fields(chunk) for chunk in column.chunks if len(chunk)]
        self._ends = list(accumulate(len(encoded) for encoded, _ in self._chunks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def encoded(self, row: int) -> bytes:
        """The bytes (a buffer) of the image file. Raises `BrokenImage`."""
        encoded, paths, index = self._place(row)
        data = encoded[index].as_buffer()
        if data is not None:
            return data
        path = None if paths is None else _path(paths[index])
        if path is None:
            raise BrokenImage("the row is empty")
        file = self._resolve(path)
        if file is None:
            raise BrokenImage("its file is not part of the data set")
        return _read(file)

    def name(self, row: int) -> str:
        """The row's path, relative to the data set's folder, or "row 17". Use `messages.display_name` to show it."""
        _, paths, index = self._place(row)
        path = None if paths is None else _path(paths[index])
        for folder in self._folders:
            if path and path.startswith(folder):
                path = path[len(folder) :]
        return utf8_path(path) if path else f"row {row}"

    def lengths(self) -> np.ndarray:
        """int64 (rows,): bytes of each image file, -1 where there is none. Reads no image."""
        import pyarrow.compute as compute

        parts = []
        for encoded, paths in self._chunks:
            part = compute.fill_null(compute.binary_length(encoded), -1).to_numpy(zero_copy_only=False).astype(np.int64)
            for index in np.flatnonzero(part < 0) if paths is not None else ():
                path = _path(paths[int(index)])
                file = None if path is None else self._resolve(path)
                if file is not None:
                    part[index] = os.path.getsize(file)
            parts.append(part)
        return np.concatenate(parts)

    def _place(self, row: int):
        """The encoded images and the paths of the row's chunk, and its index in them."""
        chunk = bisect_right(self._ends, row)
        encoded, paths = self._chunks[chunk]
        return encoded, paths, int(row) - self._ends[chunk] + len(encoded)

    def _resolve(self, path: str) -> str | None:
        """The file of the data set that `path` leads to, None if it leads elsewhere or to no file."""
        # ".." is resolved first, as the system follows it differently behind a link. Files elsewhere are not even stat'ed, which on a
        # network drive would tell others who asks.
        path = os.path.abspath(path)
        if not path.startswith(self._folders) or not os.path.isfile(path):
            return None
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(os.path.dirname(path)), "")
        return path if real.startswith(self._real_folders) else None


class FileRows:
    """The image files `paths` of a folder, relative to it. Links are followed."""

    def __init__(self, folder: str, paths: list[str]):
        import pyarrow as arrow

        self._folder = os.path.abspath(folder)
        # Arrow takes a tenth of the memory of Python strings; bytes, as names need not be UTF-8.
        self._paths = arrow.array([os.fsencode(path) for path in paths], arrow.large_binary())

    def __len__(self) -> int:
        return len(self._paths)

    def encoded(self, row: int) -> bytes:
        """The file's content. Raises `BrokenImage`."""
        return _read(self._file(row))

    def name(self, row: int) -> str:
        """The file's path in the folder."""
        return utf8_path(os.fsdecode(self._paths[row].as_py()))

    def lengths(self) -> np.ndarray:
        """int64 (rows,): bytes of each file, -1 where there is none."""
        return np.fromiter((_length(self._file(row)) for row in range(len(self))), np.int64, len(self))

    def duplicates(self) -> int:
        """How many rows are links to files of other rows."""
        found = set()
        for row in range(len(self)):
            try:
                status = os.stat(self._file(row))
                found.add((status.st_dev, status.st_ino))
            except OSError:
                found.add(row)
        return len(self) - len(found)

    def _file(self, row: int) -> str:
        return os.path.join(self._folder, os.fsdecode(self._paths[row].as_py()))


def _read(file: str) -> bytes:
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            raise BrokenImage("it is no file")
        if status.st_size > MAX_BYTES:
            raise BrokenImage(f"{status.st_size} bytes are too many for an image")
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise BrokenImage(error.strerror or "its file cannot be read") from error


def _length(file: str) -> int:
    try:
        status = os.stat(file)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """The folder that links lead to; cached, as resolving links dominates the time for a million small files."""
    return os.path.realpath(folder)


def _path(stored) -> str | None:
    path = stored.as_py()
    return os.fsdecode(path) if isinstance(path, bytes) else path


def _fields(chunk):
    import pyarrow as arrow

    if not arrow.types.is_struct(chunk.type):
        return chunk, None
    fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
    return fields["bytes"], fields.get("path")
