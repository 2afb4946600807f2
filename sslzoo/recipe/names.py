"""What a run is called: a name that the Hub takes, and another one for another run."""

import hashlib
import re
import unicodedata
from pathlib import PurePath
from typing import Any

from sslzoo.data import EMBEDDED, hub_id

LONGEST = 96
HUB_NAME = re.compile(r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")  # what the Hub takes
_TAGS = {"batch_size": "b{}", "epochs": "e{}", "image_size": "{}px"}  # in the order of names such as simclr-res18-cifar10-b512-e800


def derived_name(method: str, encoder: str, dataset: str) -> str:
    """method-encoder-dataset, the last as `_dataset_name` says it."""
    return _fitting(f"{method}-{encoder}-{_dataset_name(dataset)}")


def changed_name(before: dict[str, Any], after: dict[str, Any], changed: list[str]) -> str:
    """The name of a run in which the values of the keys `changed` are no longer those of `before`, a recipe that has a name.

    What method, encoder and data set do not tell is appended: batch size, epochs and image size as they are, anything else as six digits
    that stand for it. before, after: flat.
    """
    parts = ("method", "encoder", "dataset")
    own = derived_name(*(before[part] for part in parts))
    without_configuration = derived_name(before["method"], before["encoder"], before["dataset"].partition("@")[0])
    name = derived_name(*(after[part] for part in parts))
    if not set(parts) & set(changed):
        name = before["name"]
    else:  # what a name such as swav-res18-imagenette-queue says besides
        name += next((before["name"].removeprefix(start) for start in (own, without_configuration) if before["name"].startswith(start)), "")
    for key, tag in _TAGS.items():
        if key in changed:
            name = re.sub(rf"-{tag.format(before[key])}(?=-|$)", "", name) + "-" + tag.format(after[key])
    rest = [key for key in changed if key not in (*parts, *_TAGS)]
    return with_digits(name, {key: after[key] for key in rest}) if rest else _fitting(name)


def with_digits(name: str, what: Any) -> str:
    """The name with six digits that stand for `what`."""
    return _fitting(f"{name}-{_digits(repr(what))}")


def _dataset_name(dataset: str) -> str:
    """Of a Hub data set its name and configuration, of a local one the last part of its place.

    Where that does not tell it from others of its kind (a folder on the way to it, letters that names do not have) six digits stand
    for the whole place, which is nobody's business.
    """
    hub = hub_id(dataset)
    if hub or dataset == EMBEDDED:
        name, configuration = hub or (dataset, None)
        return _plain("-".join([name.rpartition("/")[2], configuration or ""])) or f"images-{_digits(dataset)}"
    place = PurePath(dataset)
    told = place.name.removesuffix(".parquet")
    tells = len(place.parts) == 1 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]*", told)
    return _plain(told) if tells else f"{_plain(told) or 'images'}-{_digits(place.as_posix())}"


def _plain(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", ascii_only.lower()).strip("-_")


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _fitting(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 7].rstrip('-_.')}-{_digits(name)}"
