"""lightly's published ImageNet checkpoints: the table of names, addresses and reported numbers, and the download."""

import csv
import os
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from huggingface_hub import constants
from tqdm import tqdm

from sslzoo.errors import InputError, first_line

TABLE = Path(__file__).with_name("lightly_checkpoints.csv")
_METRICS = ("knn_top1", "knn_top5", "linear_top1", "linear_top5", "finetune_top1", "finetune_top5")
_CHUNK = 1 << 20  # bytes


class Checkpoint(NamedTuple):
    """A published checkpoint."""

    name: str  # "lightly/simclr-res50"
    method: str
    encoder: str
    url: str
    numbers: dict[str, float]  # what its authors report by metric, fractions of ImageNet-1k's validation images


def known_checkpoints() -> dict[str, Checkpoint]:
    """Every checkpoint that `import_weights` knows by name."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: Checkpoint(
            row["name"], row["method"], row["encoder"], row["url"], {metric: float(row[metric]) for metric in _METRICS}
        )
        for row in rows
    }  # fmt: skip


def download(checkpoint: Checkpoint) -> Path:
    """The checkpoint's file in the Hugging Face cache, downloaded if it is not there. Raises `InputError`; no partial file is left."""
    file = Path(constants.HF_HOME) / "sslzoo" / f"{checkpoint.name}.ckpt"
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")  # one per process, as several may download at once
    name, url = checkpoint.name, checkpoint.url
    try:
        with urlopen(url, timeout=60) as response, open(partial, "wb") as output:
            length = response.headers.get("Content-Length")
            if length is None:
                raise InputError(f"cannot download {name} from {url}: the server does not say how long the file is")
            with tqdm(desc=name, total=int(length), unit="B", unit_scale=True, disable=None) as bar:
                while chunk := response.read(_CHUNK):
                    output.write(chunk)
                    bar.update(len(chunk))
        size = partial.stat().st_size
        if size != int(length):
            raise InputError(f"the download of {name} broke off after {size:,} of {int(length):,} bytes: import it again")
        os.replace(partial, file)
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot download {name} from {url}: {first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return file
