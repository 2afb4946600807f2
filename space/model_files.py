"""Gets single files of a model: from the folder of its card, or from the Hub, without a token and within a size limit."""

import tempfile
from pathlib import Path

from figures import Curve, read_curves
from huggingface_hub import HfApi, hf_hub_download
from PIL import Image
from uploads import open_upload

from sslzoo.errors import InputError, first_line
from sslzoo.hub import Entry

_MAX_CURVES_SIZE, _MAX_PICTURE_SIZE = 20_000_000, 5_000_000  # bytes
_NEIGHBOURS = "neighbours.png"


def fetch(entry: Entry, names: tuple[str, ...], max_size: int, folder: Path) -> Path:
    """The folder that holds the files `names`, all of one commit: the card's folder, or else `folder`, into which they are downloaded.

    max_size: bytes of all files together. Raises `InputError`.
    """
    if entry.folder is not None:
        missing = [name for name in names if not (entry.folder / name).is_file()]
        if missing:
            raise InputError(f"{', '.join(missing)} of {entry.name} can only be downloaded from the Hub, which does not answer")
        return entry.folder
    try:
        api = HfApi(token=False)
        commit = api.model_info(entry.name, expand=["sha"], timeout=10).sha
        sizes = {file.path: file.size for file in api.get_paths_info(entry.name, list(names), revision=commit)}
    except Exception as error:  # the client and its transport each raise their own types
        raise InputError(f"the Hub does not list the files of {entry.name} ({first_line(error)})") from error
    missing = [name for name in names if name not in sizes]
    if missing:
        raise InputError(f"{entry.name} has no {', '.join(missing)}")
    if sum(sizes.values()) > max_size:
        raise InputError(f"{entry.name} has {sum(sizes.values()) / 1e6:,.0f} MB, this page takes {max_size / 1e6:,.0f} at most")
    try:
        for name in names:
            hf_hub_download(entry.name, name, revision=commit, local_dir=folder, token=False)
    except Exception as error:
        raise InputError(f"{entry.name} cannot be downloaded ({first_line(error)})") from error
    return folder


def fetch_curves(entry: Entry) -> dict[str, Curve]:
    """The curves that were logged while the model was trained. Raises `InputError`."""
    with tempfile.TemporaryDirectory() as folder:
        file = fetch(entry, ("metrics.jsonl",), _MAX_CURVES_SIZE, Path(folder)) / "metrics.jsonl"
        with open(file, encoding="utf-8", errors="replace") as lines:
            return read_curves(lines)


def fetch_neighbours(entry: Entry, folder: Path) -> Image.Image:
    """The card's picture of test images and their nearest neighbours. Raises `InputError`."""
    return open_upload(str(fetch(entry, (_NEIGHBOURS,), _MAX_PICTURE_SIZE, folder) / _NEIGHBOURS), max_side=2048)
