"""Lists models: the Hub's repositories tagged "sslzoo", and the model cards that come with the package."""

import re
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, paginate

from sslzoo.errors import InputError, first_line

from .front_matter import read_card

OWN_NAMESPACE = "sslzoo"
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)  # "namespace/name"
_MAX_MODELS = 10_000


class ListedModel(NamedTuple):
    """A model as it was listed, nothing checked yet."""

    name: Any  # "namespace/name"
    metadata: Any  # the card's: a dict, or YAML as text
    downloads: Any = None
    created: Any = None
    folder: Path | None = None  # of its files on this machine; None: they are on the Hub


def cards_folder() -> Path:
    """The folder of the cards that come with sslzoo: in the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "model_cards"
    return installed if installed.is_dir() else package.parent / "model_cards"


def card_models(folder: Path | None = None) -> list[ListedModel]:
    """The models whose cards are in a folder, `<name>/README.md`, listed in the project's own namespace. None: `cards_folder()`."""
    files = sorted((folder or cards_folder()).glob("*/README.md"))
    return [ListedModel(f"{OWN_NAMESPACE}/{file.parent.name}", _front_matter(file), folder=file.parent) for file in files]


def hub_models(timeout: float = 10) -> list[ListedModel]:
    """Every public model on the Hub tagged "sslzoo", at most 10,000; requested page by page, without a token.

    timeout: seconds for each response; the client retries server errors. Raises `ConnectionError`.
    """
    # Not HfApi.list_models: it parses each card's metadata, and a single card with the key "self" ends the whole listing in a TypeError.
    query = [("filter", "sslzoo"), ("limit", 500), *(("expand", field) for field in ("cardData", "createdAt", "downloads"))]
    try:
        rows = paginate(f"{constants.ENDPOINT}/api/models", query, build_hf_headers(token=False), timeout)
        return [
            ListedModel(row.get("id"), row.get("cardData"), row.get("downloads"), row.get("createdAt")) for row in islice(rows, _MAX_MODELS)
        ]
    except Exception as error:  # the client, its transport and the JSON decoder each raise their own types
        raise ConnectionError(f"cannot list the Hub's models: {first_line(error)}") from error


def _front_matter(file: Path) -> str:
    """The YAML at the head of a card, "" where it cannot be read."""
    try:
        return read_card(file)[0] if file.is_file() else ""
    except InputError:
        return ""
