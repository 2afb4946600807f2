"""Single files of a model, from the Hub or from beside its card, and a memory of the last few things."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

from figures import Curve, read_curves
from huggingface_hub import HfApi, hf_hub_download

from sslzoo.errors import InputError, first_line
from sslzoo.hub import Entry

_LARGEST_CURVES = 20_000_000  # bytes


class Recent:
    """What was made for the last `most` keys; one thing is made at a time."""

    def __init__(self, most: int):
        self._most, self._made, self._lock = most, OrderedDict(), threading.Lock()

    def get(self, key: Hashable, make: Callable):
        """What was made for the key, or is made now. What `make` raises is not remembered."""
        with self._lock:
            if key not in self._made:
                while len(self._made) >= self._most:
                    self._made.popitem(last=False)
                self._made[key] = make()
            self._made.move_to_end(key)
            return self._made[key]


def fetch(entry: Entry, names: tuple[str, ...], largest: int, folder: Path) -> Path:
    """The folder that holds the files `names`, all of one commit: that of the card, else `folder`, into which they are downloaded.

    largest: bytes that they may have together. Raises `InputError`.
    """
    if entry.folder is not None:
        missing = [name for name in names if not (entry.folder / name).is_file()]
        if missing:
            raise InputError(f"{', '.join(missing)} of {entry.name} can only be had from the Hub, which does not answer")
        return entry.folder
    try:
        api = HfApi(token=False)
        commit = api.model_info(entry.name, expand=["sha"], timeout=10).sha
        sizes = {file.path: file.size for file in api.get_paths_info(entry.name, list(names), revision=commit)}
    except Exception as error:  # the client and its transport each raise their own
        raise InputError(f"the Hub does not tell what is in {entry.name} ({first_line(error)})") from error
    missing = [name for name in names if name not in sizes]
    if missing:
        raise InputError(f"{entry.name} has no {', '.join(missing)}")
    if sum(sizes.values()) > largest:
        raise InputError(f"{entry.name} has {sum(sizes.values()) / 1e6:,.0f} MB, this page takes {largest / 1e6:,.0f} at most")
    try:
        for name in names:
            hf_hub_download(entry.name, name, revision=commit, local_dir=folder, token=False)
    except Exception as error:
        raise InputError(f"{entry.name} cannot be downloaded ({first_line(error)})") from error
    return folder


def fetch_curves(entry: Entry) -> dict[str, Curve]:
    """What was logged while the model was trained. Raises `InputError`."""
    with tempfile.TemporaryDirectory() as folder:
        file = fetch(entry, ("metrics.jsonl",), _LARGEST_CURVES, Path(folder)) / "metrics.jsonl"
        with open(file, encoding="utf-8", errors="replace") as lines:
            return read_curves(lines)
