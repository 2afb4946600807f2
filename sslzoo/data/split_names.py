"""Recognising split names: "Training", "seg_test" and "train-00000-of-00002.parquet"."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from sslzoo.errors import InputError, unknown

# The keywords for names of files and folders that `datasets` documents.
_KEYWORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_EXTRA = {"unlabeled", "unlabelled", "unsupervised", "extra"}  # splits only next to a keyword, as in STL-10 and SVHN
_SEPARATORS = re.compile(r"[-._ 0-9]+")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def keyword_of(name: str) -> str | None:
    """ "train", "validation" or "test" if the name's words indicate exactly one of them: "seg_train" and "train2017" mean "train"."""
    found = {_KEYWORDS[word] for word in _SEPARATORS.split(name.lower()) if word in _KEYWORDS}
    return found.pop() if len(found) == 1 else None


def is_keyword(name: str) -> bool:
    """Whether the name is a keyword and nothing else, in any case."""
    return name.lower() in _KEYWORDS


def are_splits(names: Iterable[str]) -> bool:
    """Whether folders of these names are splits: keywords, or names that differ only in keyword or number (seg_train, seg_test)."""
    names = list(names)
    named = [name for name in names if keyword_of(name)]
    if named and all(is_keyword(name) or name.lower() in _EXTRA for name in names):
        return True
    alone = len(names) == len(named) and (len(_stems(named)) == 1 or any(is_keyword(name) for name in names))
    return alone or opposed(named)


def opposed(names: Iterable[str]) -> bool:
    """Whether two of the names differ only in their keywords, and these mean different splits."""
    return any(len(keywords) > 1 for keywords in _stems(names).values())


def _stems(names: Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    """The keywords in the names, grouped by the names' other words; numbers do not count."""
    stems: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        if keyword_of(name):
            words = _SEPARATORS.split(name.lower())
            stems.setdefault(tuple(word for word in words if word and word not in _KEYWORDS), set()).add(keyword_of(name))
    return stems


def choose(requested: str, names: Iterable[str]) -> list[str]:
    """The splits among `names` that `requested` means: the one of this name, else all with the same keyword.

    A single split without a keyword is "train". Raises `InputError` if there is none.
    """
    names = list(names)
    found = [name for name in names if name == requested] or [name for name in names if name.lower() == requested.lower()]
    if not found and is_keyword(requested):
        found = [name for name in names if keyword_of(name) == _KEYWORDS[requested.lower()]]
        if not found and _KEYWORDS[requested.lower()] == "train" and len(names) == 1 and keyword_of(names[0]) is None:
            found = names
    if not found:
        raise unknown("split", requested, names)
    return found


def says_split(file: str) -> bool:
    """Whether the relative path of a data file contains a keyword."""
    return _keyword_in(PurePosixPath(file)) is not None


def splits_of_files(files: Iterable[str]) -> dict[str, list[str]]:
    """Data files, such as Parquet shards, by split; `files` are relative paths.

    The split is the keyword in the file's name, else in a folder's name, else the part before -00000-of-00002. Without any keyword, all
    files are "train". Raises `InputError` if a split's files lie in several folders, which are separate data sets.
    """
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    files = sorted(files)
    some = any(says_split(file) for file in files)
    for file in files:
        path = PurePosixPath(file)
        word = _keyword_in(path)
        shard = _SHARD.fullmatch(path.stem)
        if word is not None:
            split, above = word
        elif shard or some:
            split, above = shard[1] if shard else _own_name(path), path.parent.parts
        else:
            split, above = "train", ()
        found.setdefault(split, {}).setdefault(above, []).append(file)
    return {split: _nearest(split, by_folder) for split, by_folder in found.items()}


def _keyword_in(path: PurePosixPath) -> tuple[str, tuple[str, ...]] | None:
    """The keyword in the path, as written, and the folders above the part that contains it."""
    parts = [*path.parts[:-1], path.stem]
    for depth in reversed(range(len(parts))):
        if keyword_of(parts[depth]):
            word = next(word for word in _SEPARATORS.split(parts[depth].lower()) if word in _KEYWORDS)
            return word, tuple(parts[:depth])
    return None


def _own_name(path: PurePosixPath) -> str:
    words = [word for word in _SEPARATORS.split(path.stem) if word]
    return path.stem.split("-")[0] if words or not path.parent.name else path.parent.name


def _nearest(split: str, by_folder: dict[tuple[str, ...], list[str]]) -> list[str]:
    depth = min(len(above) for above in by_folder)
    nearest = [above for above in by_folder if len(above) == depth]
    if len(nearest) > 1:
        named = ", ".join(f"'{'/'.join(above)}'" for above in nearest[:5])
        raise InputError(f"the split '{split}' is in several folders, {named}: give one of them as the data set")
    return by_folder[nearest[0]]
