"""Split names: "Training", "seg_test" and "train-00000-of-00002.parquet" are the splits that they look like."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from sslzoo.errors import InputError, unknown

# The keywords that `datasets` documents for file and folder names.
_KEYWORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_BESIDE = {"unlabeled", "unlabelled", "unsupervised", "extra"}  # splits where a keyword stands beside them, as in STL-10 and SVHN
_SEPARATORS = re.compile(r"[-._ 0-9]+")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def keyword_of(name: str) -> str | None:
    """ "train", "validation" or "test" where words of the name say one of them and no other: "seg_train" and "train2017" are "train"."""
    found = {_KEYWORDS[word] for word in _SEPARATORS.split(name.lower()) if word in _KEYWORDS}
    return found.pop() if len(found) == 1 else None


def is_keyword(name: str) -> bool:
    """Whether the name is a keyword and nothing else, in whatever case."""
    return name.lower() in _KEYWORDS


def are_splits(names: Iterable[str]) -> bool:
    """Whether folders of these names are splits: keywords, or names that differ in nothing but keyword or number (seg_train, seg_test)."""
    names = list(names)
    named = [name for name in names if keyword_of(name)]
    if named and all(is_keyword(name) or name.lower() in _BESIDE for name in names):
        return True
    alone = len(names) == len(named) and (len(_stems(named)) == 1 or any(is_keyword(name) for name in names))
    return alone or opposed(named)


def opposed(names: Iterable[str]) -> bool:
    """Whether two of the names differ in nothing but their keywords, which are different splits'."""
    return any(len(keywords) > 1 for keywords in _stems(names).values())


def _stems(names: Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    """The keywords of the names by all their other words; numbers do not count."""
    stems: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        if keyword_of(name):
            words = _SEPARATORS.split(name.lower())
            stems.setdefault(tuple(word for word in words if word and word not in _KEYWORDS), set()).add(keyword_of(name))
    return stems


def choose(requested: str, names: Iterable[str]) -> list[str]:
    """Those of the splits `names` that are meant by `requested`: the one of this name, else those of the same keyword.

    A single split without a keyword is "train". Raises `InputError` where there is none.
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
    """Whether a keyword is in the relative path of a data file."""
    return _keyword_in(PurePosixPath(file)) is not None


def splits_of_files(files: Iterable[str]) -> dict[str, list[str]]:
    """Data files such as Parquet shards by their split; `files` are relative paths.

    A split is a keyword in the file's name or else in a folder's, else what stands before -00000-of-00002; files of which none has a
    keyword are all "train". Raises `InputError` where one split's files lie in several folders, which are other data sets.
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
    return {split: _nearest(split, places) for split, places in found.items()}


def _keyword_in(path: PurePosixPath) -> tuple[str, tuple[str, ...]] | None:
    """The split that the path names, as it is written, and the folders above the part that names it."""
    parts = [*path.parts[:-1], path.stem]
    for depth in reversed(range(len(parts))):
        if keyword_of(parts[depth]):
            word = next(word for word in _SEPARATORS.split(parts[depth].lower()) if word in _KEYWORDS)
            return word, tuple(parts[:depth])
    return None


def _own_name(path: PurePosixPath) -> str:
    words = [word for word in _SEPARATORS.split(path.stem) if word]
    return path.stem.split("-")[0] if words or not path.parent.name else path.parent.name


def _nearest(split: str, places: dict[tuple[str, ...], list[str]]) -> list[str]:
    depth = min(len(above) for above in places)
    nearest = [above for above in places if len(above) == depth]
    if len(nearest) > 1:
        named = ", ".join(f"'{'/'.join(above)}'" for above in nearest[:5])
        raise InputError(f"the split '{split}' is in several folders, {named}: give one of them as the data set")
    return places[nearest[0]]
