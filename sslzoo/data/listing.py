"""Everything that lies in a folder, found in one walk; nothing is opened."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from PIL import Image

from sslzoo.errors import InputError

from .decode import FORMATS
from .names import shown

# Folders of other programs that do not begin with a dot: thumbnails, bins and the like.
_SYSTEM = {"@eadir", "$recycle.bin", "system volume information", "lost+found"}


@cache
def image_endings() -> frozenset[str]:
    """The endings of the files that the decoder reads, in small letters: ".jpg"."""
    Image.init()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)


def ending_of(name: str) -> str:
    """ ".jpg" of "a.b.JPG"; "" where there is none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


@dataclass
class Folder:
    """A folder below the one that was listed: its path from there, and the names of the image files in it, in order."""

    parts: tuple[str, ...]
    images: list[str] = field(default_factory=list)


@dataclass
class Listing:
    """What lies in a folder or in an archive. Paths are relative to it.

    name: of the folder. folders: all of them, also those without images, in the order of their names; the first is the folder itself.
    others: the files that are no images, by ending. hidden: how many hidden files and folders were passed over.
    closed: folders that could not be opened. again: links to folders that were not followed, as they lead to what was read already.
    linked: whether anything was reached through a link.
    """

    name: str = ""
    folders: list[Folder] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    hidden: int = 0
    closed: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    linked: bool = False

    def unread(self) -> str:
        """What was passed over, "9 files not read: .heic 8, .txt 1; 2 hidden left out", or ""."""
        said = []
        if self.others:
            counts = Counter({ending: len(files) for ending, files in self.others.items()})
            kinds = [f"{shown(ending) or 'without an ending'} {count}" for ending, count in counts.most_common(8)]
            said.append(f"{pluralize(counts.total(), 'file')} not read: {', '.join(kinds)}{' ...' if len(counts) > 8 else ''}")
        if self.hidden:
            said.append(f"{self.hidden} hidden left out")
        if self.closed:
            said.append(f"{pluralize(len(self.closed), 'folder')} not opened: {first_few(self.closed)}")
        if self.again:
            said.append(f"{pluralize(len(self.again), 'link')} not followed, back to what is read already: {first_few(self.again)}")
        return "; ".join(said)


def list_folder(root: str) -> Listing:
    """The listing of a folder. Links are followed, as the user named the folder; in a circle they are not. Raises `InputError`.

    A link below another link is followed only to what has not been read: few folders of links to one another would else be read
    for ever. Sockets, pipes and links to nowhere that have an image's name are listed, so that they are told as broken images.
    """
    listing, endings = Listing(os.path.basename(os.path.abspath(root))), image_endings()
    try:
        first = _identity(root)
    except OSError as error:
        raise InputError(f"cannot open the folder '{shown(root)}': {error.strerror}") from error
    read = {first}
    waiting = [((), frozenset({first}), False)]
    while waiting:
        parts, above, through_link = waiting.pop()
        try:
            entries = sorted(os.scandir(os.path.join(root, *parts)), key=lambda entry: entry.name)
        except OSError as error:
            if not parts:
                raise InputError(f"cannot open the folder '{shown(root)}': {error.strerror}") from error
            listing.closed.append("/".join(parts))
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
                listing.linked = listing.linked or entry.is_symlink()
            else:
                listing.others.setdefault(ending_of(name), []).append("/".join((*parts, name)))
        for entry in reversed(below):  # the last to be put there is the next to be read
            linked, place = entry.is_symlink(), (*parts, entry.name)
            listing.linked = listing.linked or linked
            try:
                identity = _identity(entry.path)
            except OSError:
                listing.closed.append("/".join(place))
                continue
            if linked and (identity in above or (through_link and identity in read)):
                listing.again.append("/".join(place))
                continue
            read.add(identity)
            waiting.append((place, above | {identity}, through_link or linked))
    return listing


def list_paths(paths: Iterable[str]) -> Listing:
    """The listing of the files in an archive. `paths` as they stand there; "./a//b" is "a/b"."""
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


def pluralize(count: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_few(names: list[str]) -> str:
    """The first names of many, for a message."""
    return ", ".join(shown(name) for name in names[:3]) + (" ..." if len(names) > 3 else "")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino
