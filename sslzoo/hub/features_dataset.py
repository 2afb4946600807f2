"""Publishes the features that `sslzoo embed` wrote as a data set on the Hub, which its viewer shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from sslzoo import __version__
from sslzoo.data import EMBEDDED, hub_id, source_name
from sslzoo.encoders import model_folder, weights_digest
from sslzoo.errors import InputError, PublishError
from sslzoo.evaluation import read_origin
from sslzoo.run import CARD

from .card import checked_repo_id
from .hub_errors import explain
from .listing import cards_folder
from .markdown import one_line, render
from .results_table import format_count
from .upload import is_public_dataset, make_api, with_retries

_TAG = "sslzoo-features"
_Result = TypeVar("_Result")


def check_may_be_published(source: str, repository: str, of_private_data: bool) -> None:
    """Raises `InputError` for an invalid name, and for data that not everybody may see unless `of_private_data`; `PublishError`."""
    checked_repo_id(repository)
    found = hub_id(source)
    public = source == EMBEDDED or found is not None and _request(repository, lambda: is_public_dataset(found[0]))
    if not public and not of_private_data:
        raise InputError(
            f"'{source_name(source)}' is not known to be public, and its features, labels and the names of its images are not published: "
            f"--of-private-data publishes them"
        )


def publish_features(file: Path, repository: str, model: str, source: str, split: str, *, private: bool = False) -> str:
    """Uploads a file of `write_features` and its card as one commit of a data set; returns the address.

    A repository holds the features of one model on one split: those that it held before are replaced. It is created if it does not
    exist; one that holds anything else is refused. private: create a private one; one that exists must be private already.
    model, source, split: what was embedded. Raises `InputError` and `PublishError`.
    """
    path, api = f"data/{_split_name(split)}.parquet", make_api(None)
    card = features_card(file, repository, model, source, split)

    def upload() -> str:
        address = str(api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True))
        info = api.dataset_info(repository)
        if private and not info.private:
            raise PublishError(f"{repository} exists and is public, nothing was uploaded: make it private, or take another name")
        files = {sibling.rfilename for sibling in info.siblings or []}
        if files - {".gitattributes"} and _TAG not in (info.tags or []):
            raise PublishError(f"{repository} is a data set that `sslzoo embed` did not make, nothing was uploaded: take another name")
        operations = [CommitOperationAdd(path, str(file)), CommitOperationAdd(CARD, card.encode())]
        operations += [CommitOperationDelete(name) for name in files if re.fullmatch(r"data/\w+\.parquet", name) and name != path]
        api.create_commit(repository, operations, repo_type="dataset", commit_message="Publish features", parent_commit=info.sha)
        return address

    return _request(repository, upload)


def features_card(file: Path, repository: str, model: str, source: str, split: str) -> str:
    """The card of the data set: metadata for the viewer, and what the features are of. Raises `InputError`."""
    import pyarrow.parquet as parquet

    origin = read_origin(file)
    if origin is None:
        raise InputError(f"{file} holds no features that `sslzoo embed` wrote")
    rows, found, name = parquet.read_metadata(file).num_rows, hub_id(source), _split_name(split)
    metadata: dict[str, Any] = {
        "tags": ["sslzoo", _TAG], "task_categories": ["image-feature-extraction"],
        **({"source_datasets": [found[0]]} if found else {}),
        "configs": [{"config_name": "default", "data_files": [{"split": name, "path": f"data/{name}.parquet"}]}],
    }  # fmt: skip
    prepared = ", ".join(f"{key} {value}" for key, value in origin["preprocessing"].items())
    facts = {
        **_model_facts(model), "Data set": source_name(source), "Split": split, "SHA-256 of the images": origin["data_sha256"],
        "Images": format_count(rows), "Preprocessing": prepared, "Made with": f"sslzoo {__version__}",
    }  # fmt: skip
    values = {
        "name": repository.partition("/")[2], "repository": repository, "patches": origin["patches"], "rows": format_count(rows),
        "source": source_name(source), "source_id": found[0] if found else None, "split": split, "split_name": name, "facts": facts,
    }  # fmt: skip
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n{render(cards_folder() / 'features.md', values)}"


def _model_facts(model: str) -> dict[str, str]:
    """The model's public name, its commit on the Hub, and the digest of its weights."""
    folder = model_folder(model)
    local = Path(model).expanduser().is_dir()
    revision = "a folder, not of the Hub" if local else folder.name  # the Hub's cache names the folder of a snapshot by its commit
    name = folder.absolute().name if local else model.partition("@")[0]
    return {"Model": one_line(name), "Revision": revision, "SHA-256 of its weights": weights_digest(folder)}


def _split_name(split: str) -> str:
    """The split as the Hub's viewer allows it: letters, digits and underscores."""
    return re.sub(r"\W", "_", split, flags=re.ASCII) or "train"


def _request(repository: str, call: Callable[[], _Result]) -> _Result:
    try:
        return with_retries(call)
    except PublishError:
        raise
    except Exception as error:  # the client, its transport and Xet each raise their own types
        raise PublishError(f"cannot publish {repository}: {explain(error)}") from error
