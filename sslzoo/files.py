"""Atomic writing: a file or folder is there completely or not at all, whatever happens while it is written; and digests of files."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sslzoo.errors import first_line


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` to write a file or folder to; when the block ends it is synced to disk and renamed to `path`.

    After an error the temporary file is gone and what stood at `path` is untouched. A folder at `path` is replaced. Errors of writing are
    raised as `OSError`, whatever kind the writer raises.
    """
    temporary = path.with_name(f".{path.name}.new")
    _remove(temporary)
    try:
        yield temporary
        _finalize(temporary)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
        sync(path.parent)
    except (SafetensorError, RuntimeError) as error:  # safetensors and torch raise their own errors for a full disk
        raise OSError(f"cannot write {path}: {first_line(error)}") from error
    finally:
        _remove(temporary)


@contextmanager
def atomic_update(folder: Path) -> Iterator[Path]:
    """A temporary folder for several files, which replace those of the same names in `folder` when the block ends.

    All are on disk before the first is moved. After an error `folder` is as it was. Raises `OSError` as `atomic_write` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".new"
    _remove(temporary)
    try:
        temporary.mkdir()
        yield temporary
        _finalize(temporary)
        for file in sorted(temporary.iterdir()):
            os.replace(file, folder / file.name)
        sync(folder)
    except (SafetensorError, RuntimeError) as error:
        raise OSError(f"cannot write into {folder}: {first_line(error)}") from error
    finally:
        _remove(temporary)


def atomic_write_text(file: Path, text: str) -> None:
    """Replaces a text file, encoded as UTF-8."""
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # byte for byte the same on Windows


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finalize(path: Path) -> None:
    """Syncs a file, or a folder and the files directly in it, and gives them the permissions of the user's umask."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    usual = _usual_mode(path.parent)
    for file in files:
        os.chmod(file, usual | file.stat().st_mode & 0o111)  # safetensors writes files that only the owner can read
        sync(file)
    if path.is_dir():
        sync(path)


def _usual_mode(folder: Path) -> int:
    """The mode of a new file in the folder: reading the umask would mean changing it."""
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


def sha256_of(file: Path) -> str:
    """The file's sha256 in hex."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
