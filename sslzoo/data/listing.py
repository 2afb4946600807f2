"""Lists the files of a folder or archive in one walk, without opening any."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from PIL import Image

from sslzoo.errors import InputError

from .arrays import ARRAYS
from .decode import FORMATS
from .messages import display_name, first_few, pluralize

# Folders that other programs make, such as thumbnails and bins, and that do not start with a dot.
_SYSTEM = {"@eadir", "$recycle.bin", "system volume information", "lost+found"}


@cache
def image_endings() -> frozenset[str]:
    """The file extensions that the decoder reads, in lower case: ".jpg"."""
    Image.init()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)


def ending_of(name: str) -> str:
    """ ".jpg" for "a.b.JPG"; "" without an extension."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


@dataclass
class Folder:
    """A folder: its path relative to the listed one, and the sorted names of its image files."""

    parts: tuple[str, ...]
    images: list[str] = field(default_factory=list)


@dataclass
class Listing:
    """The contents of a folder or archive. Paths are relative to it.

    name: of the folder.
    folders: all folders in sorted order, also those without images; the first is the listed folder itself.
    others: the files that are not images, by extension.
    hidden: the number of hidden files and folders that were skipped.
    unreadable: folders that cannot be opened.
    cycles: links that were not followed, as they lead back to a folder that is listed already.
    has_links: whether anything was reached through a link.
    """

    name: str = ""
    folders: list[Folder] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    hidden: int = 0
    unreadable: list[str] = field(default_factory=list)
    cycles: list[str] = field(default_factory=list)
    has_links: bool = False

    def take_arrays(self) -> bool:
        """Lists the arrays among the other files as images, for a place without any; returns whether there are such files."""
        paths = sorted(path for ending in ARRAYS for path in self.others.pop(ending, []))
        folders = {folder.parts: folder for folder in self.folders}
        for path in paths:
            *parts, name = path.split("/")
            folders.setdefault(tuple(parts), Folder(tuple(parts))).images.append(name)
        self.folders = [folders[parts] for parts in sorted(folders)]
        return bool(paths)

    def skipped(self) -> str:
        """What was skipped, for a message: "9 files not read: .heic 8, .txt 1; 2 hidden left out", or ""."""
        parts = []
        if self.others:
            counts = Counter({ending: len(files) for ending, files in self.others.items()})
            kinds = [f"{display_name(ending) or 'without an ending'} {count}" for ending, count in counts.most_common(8)]
            parts.append(f"{pluralize(counts.total(), 'file')} not read: {', '.join(kinds)}{' ...' if len(counts) > 8 else ''}")
        if self.hidden:
            parts.append(f"{self.hidden} hidden left out")
        if self.unreadable:
            parts.append(f"{pluralize(len(self.unreadable), 'folder')} not opened: {first_few(self.unreadable)}")
        if self.cycles:
            parts.append(f"{pluralize(len(self.cycles), 'link')} not followed, back to what is read already: {first_few(self.cycles)}")
        return "; ".join(parts)


def list_folder(root: str) -> Listing:
    """The listing of a folder that the user named. Links are followed unless they lead back. Raises `InputError`.

    A link below another link is followed only to a folder that is not listed yet; a few folders that link to one another would otherwise
    be listed endlessly. Sockets, pipes and dangling links with an image's name are listed, and reported as broken images later.
    """
    listing, endings = Listing(os.path.basename(os.path.abspath(root))), image_endings()
    try:
        first = _identity(root)
    except OSError as error:
        raise InputError(f"cannot open the folder '{display_name(root)}': {error.strerror}") from error
    read = {first}
    stack = [((), frozenset({first}), False)]
    while stack:
        parts, above, through_link = stack.pop()
        try:
            entries = sorted(os.scandir(os.path.join(root, *parts)), key=lambda entry: entry.name)
        except OSError as error:
            if not parts:
                raise InputError(f"cannot open the folder '{display_name(root)}': {error.strerror}") from error
            listing.unreadable.append("/".join(parts))
            continue
        folder, below = Folder(parts), []
        listing.folders.append(folder)
        for entry in entries:
            name = entry.name
            if _is_folder(entry):
                if name.startswith((".", "__")) or name.lower() in _SYSTEM:
                    listing.hidden += 1
                else:
                    below.append(entry)
            elif name[0] == ".":
                listing.hidden += 1
            elif ending_of(name) in endings:
                folder.images.append(name)
                listing.has_links = listing.has_links or entry.is_symlink()
            else:
                listing.others.setdefault(ending_of(name), []).append("/".join((*parts, name)))
        for entry in reversed(below):  # a stack: the last one pushed is read next
            linked, path_parts = entry.is_symlink(), (*parts, entry.name)
            listing.has_links = listing.has_links or linked
            try:
                identity = _identity(entry.path)
            except OSError:
                listing.unreadable.append("/".join(path_parts))
                continue
            if linked and (identity in above or (through_link and identity in read)):
                listing.cycles.append("/".join(path_parts))
                continue
            read.add(identity)
            stack.append((path_parts, above | {identity}, through_link or linked))
    return listing


def list_paths(paths: Iterable[str]) -> Listing:
    """The listing of the files in an archive, by their paths as stored; "./a//b" means "a/b"."""
    listing, endings, folders = Listing(), image_endings(), {(): Folder(())}
    for path in sorted(paths):
        *parts, name = [part for part in path.split("/") if part not in ("", ".")] or [""]
        if not name or name.startswith(".") or any(part.startswith((".", "__")) or part.lower() in _SYSTEM for part in parts):
            listing.hidden += 1
        elif ending_of(name) in endings:
            folders.setdefault(tuple(parts), Folder(tuple(parts))).images.append(name)
        else:
            listing.others.setdefault(ending_of(name), []).append("/".join((*parts, name)))
    listing.folders = [folders[parts] for parts in sorted(folders)]
    return listing


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino
