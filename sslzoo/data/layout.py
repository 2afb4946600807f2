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
_MAX_STRAY = 0.25  # of a split's images outside of class folders; beyond that, the folders are those of an album
ClassFolders = dict[str, tuple[str, ...]]  # for each class, the path of the folder that most of its images are in


class ImageFiles(NamedTuple):
    """The images of a split.

    paths: relative to the listed folder. labels: int64 (paths,), -1 for an image without a label; None without classes.
    notes: what the user may not expect. unlabelled: why there are no classes although there might be; else "".
    """

    paths: list[str]
    labels: Tensor | None
    label_names: list[str] | None
    notes: list[str]
    unlabelled: str = ""


class _Split(NamedTuple):
    folders: list[Folder]
    depth: int  # number of folders in the path up to the split, inclusive


class Layout:
    """The splits and classes in a listing. Raises `InputError` for images next to split folders, and for splits inside of other folders."""

    def __init__(self, listing: Listing):
        self._listing = listing
        folders = [folder for folder in listing.folders if folder.images]
        base = _common_base(folders)
        children: dict[str, list[Folder]] = {}
        for folder in folders:
            if folder.parts != base:
                children.setdefault(folder.parts[len(base)], []).append(folder)
        nested = {name for name, below in children.items() if all(len(folder.parts) > len(base) + 1 for folder in below)}
        # "train" with subfolders, next to a folder without any, is a split and not a class.
        has_split_of_classes = any(is_keyword(name) for name in nested) and len(nested) < len(children)
        splits = children and (are_splits(children) or has_split_of_classes)
        loose = [_prefix(base) + name for folder in folders if folder.parts == base for name in folder.images]
        if splits and loose and (opposed(children) or nested):
            found = f"{pluralize(len(loose), 'image')} beside the splits {first_few(sorted(children))} in none of them"
            raise InputError(f"{found}: {first_few(loose)}; move or remove what is there")
        if not splits:
            _refuse_inner_splits(folders)
        if splits and not loose:
            self._splits = {name: _Split(below, len(base) + 1) for name, below in children.items()}
        else:
            self._splits = {"train": _Split(folders, len(base))} if folders else {}
        self._empty = [
            "/".join(folder.parts)
            for folder in listing.folders
            if len(folder.parts) == len(base) + 1 and is_keyword(folder.parts[-1]) and folder.parts[-1] not in children
        ]

    @property
    def splits(self) -> list[str]:
        """The names of the split folders."""
        return list(self._splits)

    def empty_folder(self, requested: str) -> str | None:
        """The path of the folder of the split `requested`, if it holds no images."""
        return next((path for path in self._empty if path.rpartition("/")[2].lower() == requested.lower()), None)

    def images_of(self, requested: str, innermost: bool = False) -> ImageFiles:
        """The images of the split that `requested` means. innermost: every image's own folder is its class. Raises `InputError`."""
        chosen = choose(requested, self._splits)
        folders = [(name, folder) for name in chosen for folder in self._splits[name].folders]
        paths = [prefix + image for _, folder in folders for prefix in [_prefix(folder.parts)] for image in folder.images]
        starts = self._class_depths()
        inside = [folder.parts[starts[name] :] for name, folder in folders]
        class_folders = {
            name: {} if innermost else _find_class_folders(split.folders, starts[name]) for name, split in self._splits.items()
        }
        if innermost:
            below = [folder.parts[starts[name] :] for name, split in self._splits.items() for folder in split.folders]
            names = sorted({parts[-1] for parts in below if parts})
        else:
            # A split's only folder is a class only if other splits have such a class too.
            known = set().union(*(found for found in class_folders.values() if found and len(found) > 1))
            class_folders = {name: {} if found and not known & found.keys() else found for name, found in class_folders.items()}
            names = sorted(set().union(*(found for found in class_folders.values() if found)))
        above = {part for name, folder in folders for part in (*folder.parts[: starts[name]], self._listing.name)}
        are_dates = all(_DATE.fullmatch(name) for name in names) or any(map(_DATE.fullmatch, above)) and all(map(_DAY.fullmatch, names))
        reason = _no_classes(names, inside, [class_folders[name] for name in chosen], innermost, are_dates)
        if reason == "" and len(chosen) > 1:
            reason = f"no classes, as {first_few(chosen)} are read as one split"
        if reason is not None:
            return ImageFiles(paths, None, None, [], reason)
        number = {name: label for label, name in enumerate(names)}
        labels = [
            number[parts[-1 if innermost else 0]] if parts else -1
            for parts, (_, folder) in zip(inside, folders, strict=True) for _ in folder.images
        ]  # fmt: skip
        notes = [] if innermost else self._notes(chosen, starts, class_folders, set(names))
        return ImageFiles(paths, torch.tensor(labels), names, notes)

    def _notes(self, chosen: list[str], starts: dict[str, int], class_folders: dict[str, ClassFolders], names: set[str]) -> list[str]:
        """Notes on images at another depth than most, and on folders next to the classes that hold no images."""
        depths = Counter(len(parts) for name in chosen for parts in class_folders[name].values())
        odd = [
            _prefix(folder.parts) + image
            for name in chosen for folder in self._splits[name].folders for inside in [folder.parts[starts[name] :]]
            if inside and (inside != class_folders[name][inside[0]] or len(inside) != depths.most_common(1)[0][0])
            for image in folder.images
        ]  # fmt: skip
        notes = [f"{pluralize(len(odd), 'image')} deeper or higher than the others: {first_few(odd)}"] if odd else []
        parents = {self._splits[name].folders[0].parts[: starts[name]] for name in chosen}
        siblings = {folder.parts[-1] for folder in self._listing.folders if folder.parts and folder.parts[:-1] in parents}
        empty = sorted(siblings - names)
        return [*notes, f"{pluralize(len(empty), 'folder')} without images, so no class: {first_few(empty)}"] if empty else notes

    def _class_depths(self) -> dict[str, int]:
        """The depth of the class folders in each split, below any folder that holds all images of all splits."""
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


def _common_base(folders: list[Folder]) -> tuple[str, ...]:
    """The path of the deepest folder that holds all images and is not named like a split."""
    base: tuple[str, ...] = ()
    while folders and all(len(folder.parts) > len(base) + 1 for folder in folders):
        first = {folder.parts[len(base)] for folder in folders}
        if len(first) > 1 or keyword_of(next(iter(first))):
            break
        base += (first.pop(),)
    return base


def _refuse_inner_splits(folders: list[Folder]) -> None:
    """Raises `InputError` for train/ and test/ inside of class or other folders, which would be read as one split, test images included."""
    inner: dict[tuple[str, ...], set[str]] = {}
    for folder in folders:
        for depth, part in enumerate(folder.parts):
            if is_keyword(part):
                inner.setdefault(folder.parts[:depth], set()).add(part)
    for above, splits in sorted(inner.items()):
        if opposed(splits):
            path = display_name("/".join(above))
            found = first_few(sorted(splits))
            raise InputError(f"splits ({found}) lie in '{path}', not at the top: give that folder as the data set, or move them")


def _find_class_folders(folders: list[Folder], start: int) -> ClassFolders | None:
    """The class folders of a split; {} without folders, None for an album.

    The images of a class lie together, in its folder or in one below. If too many images lie elsewhere, the folders are not classes.
    """
    counts: dict[str, Counter[tuple[str, ...]]] = {}
    for folder in folders:
        inside = folder.parts[start:]
        counts.setdefault(inside[0] if inside else "", Counter())[inside] += len(folder.images)
    total = sum(counter.total() for counter in counts.values())
    counts.pop("", None)
    largest = {name: counter.most_common(1)[0] for name, counter in counts.items()}
    stray = total - sum(count for _, count in largest.values())
    return {name: parts for name, (parts, _) in largest.items()} if stray < _MAX_STRAY * total or not counts else None


def _no_classes(
    names: list[str], inside: list[tuple[str, ...]], class_folders: list[ClassFolders | None], innermost: bool, are_dates: bool
) -> str | None:
    """Why a split has no classes, "" if nobody would expect any; None if it has classes."""
    if not any(inside):
        return ""
    if not innermost and any(found is None for found in class_folders):
        deepest = "/".join(max(inside, key=len))
        where = f"folders of several levels ({display_name(deepest)})"
        return f"no classes, as images lie in {where}; label_column=label takes the innermost folders"
    if not innermost and not any(class_folders) or len(names) < 2:
        only = names[0] if innermost else next(parts[0] for parts in inside if parts)
        return f"no classes, as '{display_name(only)}' is the only folder"
    if not innermost and are_dates:
        return f"no classes, as the folders are dates ({first_few(names)}); label_column=label takes them as classes"
    return None


def _prefix(parts: tuple[str, ...]) -> str:
    return "".join(f"{part}/" for part in parts)
