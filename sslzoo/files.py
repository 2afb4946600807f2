"""Files that are whole or not there, whatever happens while they are written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sslzoo.errors import first_line


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A path beside `place`, for a file or a folder to be written to; it is synced to the disk and takes its place when the block ends.

    After an error nothing is left beside it, and what stood at `place` still does. Raises `OSError` for whatever kind of error the writer
    raises when it cannot write. A folder at `place` is replaced.
    """
    beside = place.with_name(f".{place.name}.new")
    _remove(beside)
    try:
        yield beside
        _settle(beside)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        os.replace(beside, place)
        sync(place.parent)
    except (SafetensorError, RuntimeError) as error:  # of a full disk, safetensors and torch make kinds of their own
        raise OSError(f"cannot write {place}: {first_line(error)}") from error
    finally:
        _remove(beside)


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """An empty folder for several files, which replace those of the same names in `folder` when the block ends.

    All are on the disk before the first is put in place. After an error `folder` is as it was. Raises `OSError` as `whole` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".new"
    _remove(beside)
    try:
        beside.mkdir()
        yield beside
        _settle(beside)
        for file in sorted(beside.iterdir()):
            os.replace(file, folder / file.name)
        sync(folder)
    except (SafetensorError, RuntimeError) as error:
        raise OSError(f"cannot write into {folder}: {first_line(error)}") from error
    finally:
        _remove(beside)


def write_whole(file: Path, text: str) -> None:
    """Replaces a text file at once."""
    with whole(file) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")  # byte for byte the same on Windows


def sync(path: Path) -> None:
    """Waits until the file's content, or the folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(path: Path) -> None:
    """Syncs a file, or a folder and all files right in it; makes them readable for whom the user's umask allows it."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    usual = _usual_mode(path.parent)
    for file in files:
        os.chmod(file, usual | file.stat().st_mode & 0o111)  # safetensors writes for the owner alone
        sync(file)
    if path.is_dir():
        sync(path)


def _usual_mode(folder: Path) -> int:
    """What a new file in the folder gets: the umask cannot be asked for without being changed."""
    probe = folder / f".mode-{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mode & 0o666
    finally:
        probe.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
