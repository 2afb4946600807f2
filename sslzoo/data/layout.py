"""Which folders of images are splits, which are classes, and which are neither."""

import re
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from sslzoo.errors import InputError

from .listing import Folder, Listing
from .messages import display_name, first_few, pluralize
from .split_names import are_splits, choose, is_keyword, keyword_of, opposed

_DATE = re.compile(r"(19|20)\d\d([-_. ]?(0[1-9]|1[0-2])([-_. ]?\d\d)?([-_. ].*)?)?")  # 2023, 2023-05 Rome
_DAY = re.compile(r"\d\d?([-_. ].*)?")  # in the folder of a year
_STRAY = 0.25  # of a split's images: where more lie outside of class folders, the folders are an album's


Homes = dict[str, tuple[str, ...]]


class ImageFiles(NamedTuple):
    """One split. paths: of its images, relative to the listed folder. labels: int64, one for each path, -1 for none; None without classes.

    notes: what a user may not expect, for the line that says what was found. unlabelled: why there are no classes where there might be.
    """

    paths: list[str]
    labels: Tensor | None
    label_names: list[str] | None
    notes: list[str]
    unlabelled: str = ""


class _Split(NamedTuple):
    folders: list[Folder]
    depth: int  # of the folder that is the split


class Layout:
    """The splits and classes of a listing. Raises `InputError` for images that lie beside folders that are splits."""

    def __init__(self, listing: Listing):
        self._listing = listing
        filled = [folder for folder in listing.folders if folder.images]
        base = _shared(filled)
        children: dict[str, list[Folder]] = {}
        for folder in filled:
            if folder.parts != base:
                children.setdefault(folder.parts[len(base)], []).append(folder)
        nested = {name for name, folders in children.items() if all(len(folder.parts) > len(base) + 1 for folder in folders)}
        # "train" with folders in it, beside a folder without any, is no class.
        train_of_classes = any(is_keyword(name) for name in nested) and len(nested) < len(children)
        splits = children and (are_splits(children) or train_of_classes)
        loose = [_prefix(base) + name for folder in filled if folder.parts == base for name in folder.images]
        if splits and loose and (opposed(children) or nested):
            beside = f"{pluralize(len(loose), 'image')} beside the splits {first_few(sorted(children))} in none of them"
            raise InputError(f"{beside}: {first_few(loose)}; move or remove what is there")
        if not splits:
            _refuse_deeper_splits(filled)
        if splits and not loose:
            self._splits = {name: _Split(folders, len(base) + 1) for name, folders in children.items()}
        else:
            self._splits = {"train": _Split(filled, len(base))} if filled else {}
        self._empty = [
            "/".join(folder.parts)
            for folder in listing.folders
            if len(folder.parts) == len(base) + 1 and is_keyword(folder.parts[-1]) and folder.parts[-1] not in children
        ]

    @property
    def splits(self) -> list[str]:
        """Names of the splits, as their folders are called."""
        return list(self._splits)

    def without_images(self, requested: str) -> str | None:
        """The folder that is the split `requested` where no image lies in it."""
        return next((place for place in self._empty if place.rpartition("/")[2].lower() == requested.lower()), None)

    def arrange(self, requested: str, innermost: bool = False) -> ImageFiles:
        """The split that `requested` means. innermost: the folder that an image lies in is its class, however deep. Raises `InputError`."""
        chosen = choose(requested, self._splits)
        folders = [(name, folder) for name in chosen for folder in self._splits[name].folders]
        paths = [prefix + image for _, folder in folders for prefix in [_prefix(folder.parts)] for image in folder.images]
        starts = self._class_levels()
        inside = [folder.parts[starts[name] :] for name, folder in folders]
        homes = {name: {} if innermost else _homes(split.folders, starts[name]) for name, split in self._splits.items()}
        if innermost:
            below = [folder.parts[starts[name] :] for name, split in self._splits.items() for folder in split.folders]
            names = sorted({parts[-1] for parts in below if parts})
        else:
            # A split's only folder is a class where another split knows it for one, else it is what holds the images.
            known = set().union(*(home for home in homes.values() if home and len(home) > 1))
            homes = {name: {} if home and not known & home.keys() else home for name, home in homes.items()}
            names = sorted(set().union(*(home for home in homes.values() if home)))
        above = {part for name, folder in folders for part in (*folder.parts[: starts[name]], self._listing.name)}
        dates = all(_DATE.fullmatch(name) for name in names) or any(map(_DATE.fullmatch, above)) and all(map(_DAY.fullmatch, names))
        reason = _no_classes(names, inside, [homes[name] for name in chosen], innermost, dates)
        if reason == "" and len(chosen) > 1:
            reason = f"no classes, as {first_few(chosen)} are read as one split"
        if reason is not None:
            return ImageFiles(paths, None, None, [], reason)
        number = {name: label for label, name in enumerate(names)}
        labels = [
            number[parts[-1 if innermost else 0]] if parts else -1
            for parts, (_, folder) in zip(inside, folders, strict=True) for _ in folder.images
        ]  # fmt: skip
        notes = [] if innermost else self._notes(chosen, starts, homes, set(names))
        return ImageFiles(paths, torch.tensor(labels), names, notes)

    def _notes(self, chosen: list[str], starts: dict[str, int], homes: dict[str, Homes], names: set[str]) -> list[str]:
        """Images at another depth than most, and folders beside the classes that hold no image."""
        depths = Counter(len(home) for name in chosen for home in homes[name].values())
        odd = [
            _prefix(folder.parts) + image
            for name in chosen for folder in self._splits[name].folders for inside in [folder.parts[starts[name] :]]
            if inside and (inside != homes[name][inside[0]] or len(inside) != depths.most_common(1)[0][0])
            for image in folder.images
        ]  # fmt: skip
        notes = [f"{pluralize(len(odd), 'image')} deeper or higher than the others: {first_few(odd)}"] if odd else []
        places = {self._splits[name].folders[0].parts[: starts[name]] for name in chosen}
        beside = {folder.parts[-1] for folder in self._listing.folders if folder.parts and folder.parts[:-1] in places}
        empty = sorted(beside - names)
        return [*notes, f"{pluralize(len(empty), 'folder')} without images, so no class: {first_few(empty)}"] if empty else notes

    def _class_levels(self) -> dict[str, int]:
        """How many parts of a path come before the class's, by split: a folder that holds all the images of all splits is no class."""
        starts = {name: split.depth for name, split in self._splits.items()}
        deep = [name for name, split in self._splits.items() if any(len(folder.parts) > split.depth for folder in split.folders)]
        while deep:
            lengths = {len(folder.parts) - starts[name] for name in deep for folder in self._splits[name].folders}
            if min(lengths) == 0:
                break
            first = {name: {folder.parts[starts[name]] for folder in self._splits[name].folders} for name in deep}
            doubled = all({part.lower() for part in parts} == {name.lower()} for name, parts in first.items())
            shared = len(set().union(*first.values())) == 1 and min(lengths) > 1
            if not doubled and not shared:
                break
            starts |= {name: starts[name] + 1 for name in deep}
        return starts


def _shared(filled: list[Folder]) -> tuple[str, ...]:
    """The folders that lead to all the images and are no splits."""
    base: tuple[str, ...] = ()
    while filled and all(len(folder.parts) > len(base) + 1 for folder in filled):
        first = {folder.parts[len(base)] for folder in filled}
        if len(first) > 1 or keyword_of(next(iter(first))):
            break
        base += (first.pop(),)
    return base


def _refuse_deeper_splits(filled: list[Folder]) -> None:
    """Raises `InputError` for train/ and test/ in each of several folders: read as one split, test images would be trained on."""
    inner: dict[tuple[str, ...], set[str]] = {}
    for folder in filled:
        for depth, part in enumerate(folder.parts):
            if is_keyword(part):
                inner.setdefault(folder.parts[:depth], set()).add(part)
    for above, splits in sorted(inner.items()):
        if opposed(splits):
            place = display_name("/".join(above))
            found = first_few(sorted(splits))
            raise InputError(f"splits ({found}) lie in '{place}', not at the top: give that folder as the data set, or move them")


def _homes(folders: list[Folder], start: int) -> Homes | None:
    """The classes, by the first folder, with the folder that most images of each lie in; {} without folders, None for an album.

    A class's images lie together, in its own folder or further down. Where more than a few lie elsewhere, the folders are no classes.
    """
    counts: dict[str, Counter[tuple[str, ...]]] = {}
    for folder in folders:
        inside = folder.parts[start:]
        counts.setdefault(inside[0] if inside else "", Counter())[inside] += len(folder.images)
    total = sum(counter.total() for counter in counts.values())
    counts.pop("", None)
    most = {name: counter.most_common(1)[0] for name, counter in counts.items()}
    elsewhere = total - sum(count for _, count in most.values())
    return {name: home for name, (home, _) in most.items()} if elsewhere < _STRAY * total or not counts else None


def _no_classes(names: list[str], inside: list[tuple[str, ...]], homes: list[Homes | None], innermost: bool, dates: bool) -> str | None:
    """Why a split has no classes, "" where nobody would expect any; None where it has."""
    if not any(inside):
        return ""
    if not innermost and any(home is None for home in homes):
        deepest = "/".join(max(inside, key=len))
        where = f"folders of several levels ({display_name(deepest)})"
        return f"no classes, as images lie in {where}; label_column=label takes the innermost folders"
    if not innermost and not any(homes) or len(names) < 2:
        only = names[0] if innermost else next(parts[0] for parts in inside if parts)
        return f"no classes, as '{display_name(only)}' is the only folder"
    if not innermost and dates:
        return f"no classes, as the folders are dates ({first_few(names)}); label_column=label takes them as classes"
    return None


def _prefix(parts: tuple[str, ...]) -> str:
    return "".join(f"{part}/" for part in parts)
