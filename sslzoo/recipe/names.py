"""Names of runs: valid on the Hub, and different for different runs."""

import hashlib
import re
import unicodedata
from pathlib import PurePath
from typing import Any

from sslzoo.data import EMBEDDED, hub_id

MAX_LENGTH = 96
HUB_NAME = re.compile(r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")  # as the Hub requires
_TAGS = {"batch_size": "b{}", "epochs": "e{}", "image_size": "{}px"}  # in the order of names such as simclr-res18-cifar10-b512-e800


def derived_name(
    method: str, encoder: str | dict[str, Any], dataset: str, init_from: str | None = None, teacher: str | None = None
) -> str:  # fmt: skip
    """The default name: method-encoder-dataset, or method-from-start-dataset; with "by-teacher" before the data set where there is one."""
    start, by = _model_name(init_from), _model_name(teacher)
    student = f"from-{start}" if start else encoder_name(encoder)
    return _shortened(f"{method}-{student}{f'-by-{by}' if by else ''}-{_dataset_name(dataset)}")


def encoder_name(encoder: str | dict[str, Any]) -> str:
    """The short name of a recipe's encoder, or what its description is called."""
    return encoder if isinstance(encoder, str) else encoder["name"]


def changed_name(before: dict[str, Any], after: dict[str, Any], changed: list[str]) -> str:
    """The name of a run whose recipe differs from `before`, which has a name, in the keys `changed`. before, after: flat recipes.

    Method, encoder and data set are replaced in the name. Batch size, epochs and image size are appended as tags, all other changes as
    six hexadecimal digits of a hash.
    """
    parts = ("method", "encoder", "dataset", "init_from", "teacher")
    own, name = (derived_name(*(recipe.get(part) for part in parts)) for recipe in (before, after))
    without_configuration = derived_name(
        before["method"], before["encoder"], before["dataset"].partition("@")[0], before.get("init_from"), before.get("teacher")
    )
    if not set(parts) & set(changed):
        name = before["name"]
    else:  # keeps the rest of a name such as swav-res18-imagenette-queue
        name += next((before["name"].removeprefix(start) for start in (own, without_configuration) if before["name"].startswith(start)), "")
    for key, tag in _TAGS.items():
        if key in changed:
            name = re.sub(rf"-{tag.format(before[key])}(?=-|$)", "", name) + "-" + tag.format(after[key])
    rest = [key for key in changed if key not in (*parts, *_TAGS)]
    return with_digits(name, {key: after[key] for key in rest}) if rest else _shortened(name)


def with_digits(name: str, content: Any) -> str:
    """The name with six hexadecimal digits of a hash of `content`."""
    return _shortened(f"{name}-{_digits(repr(content))}")


def _model_name(source: str | None) -> str:
    return "" if source is None else _slug(PurePath(source.partition("@")[0]).name)


def _dataset_name(dataset: str) -> str:
    """Name and configuration of a Hub data set, the last part of the path of a local one.

    If that is ambiguous (the path has several parts, or characters that names cannot have), six digits of a hash of the path are
    appended: the path itself is private.
    """
    hub = hub_id(dataset)
    if hub or dataset == EMBEDDED:
        name, configuration = hub or (dataset, None)
        return _slug("-".join([name.rpartition("/")[2], configuration or ""])) or f"images-{_digits(dataset)}"
    path = PurePath(dataset)
    name = path.name.removesuffix(".parquet")
    unambiguous = len(path.parts) == 1 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]*", name)
    return _slug(name) if unambiguous else f"{_slug(name) or 'images'}-{_digits(path.as_posix())}"


def _slug(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", ascii_only.lower()).strip("-_")


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 7].rstrip('-_.')}-{_digits(name)}"
