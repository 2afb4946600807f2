"""Finding a model: a local folder, or a repository on the Hub, which is downloaded; and reading its JSON files."""

import json
import math
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sslzoo.errors import InputError, first_line

CONFIG = "config.json"
_RUNS = Path("runs")  # where training writes by default


def model_folder(
    name: str | Path, *, revision: str | None = None, subfolder: str = "", token: str | bool | None = None, cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Path:  # fmt: skip
    """The local folder of a model: `name` if it is one, otherwise the downloaded configuration and weights of the Hub repository.

    name: a folder, or a Hub id, which may name a revision: "id@revision". subfolder: of either, where the
        model lies in one.
    Raises `InputError` if there is neither, and says what to do.
    """
    folder = Path(name).expanduser()
    if _is_folder(folder):
        if not _is_folder(folder / subfolder):
            raise InputError(f"no folder '{subfolder}' in '{name}'")
        return folder / subfolder
    if str(name).startswith((".", "/", "~")):
        raise InputError(f"no folder '{name}'{_near(folder.parent, folder.name)}")
    name, _, own_revision = str(name).partition("@")
    revision = revision or own_revision or None
    try:
        inside = f"{subfolder.strip('/')}/" if subfolder else ""
        snapshot = snapshot_download(
            name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            allow_patterns=[inside + files for files in ("*.json", "*.jsonl", "*.safetensors", "recipe.yaml", "README.md")],
            ignore_patterns=[f"{inside}*/*"],  # subfolders hold other models, or checkpoints of the same one
        )  # fmt: skip
    except Exception as error:  # the client, its HTTP library and the file system each raise their own
        raise InputError(_reason(name, revision, error)) from error
    if not _is_folder(Path(snapshot) / subfolder):
        raise InputError(f"the model '{name}' has no folder '{subfolder}' on the Hub")
    return Path(snapshot) / subfolder


def _reason(name: str | Path, revision: str | None, error: Exception) -> str:
    """Why the Hub does not provide the model, and what to do, in one line."""
    near = _near(folder.parent, folder.name) if _is_folder((folder := Path(name)).parent) else ""
    near = near or _near(_RUNS, folder.name)
    if isinstance(error, HFValidationError):
        return f"'{name}' is neither a folder nor a Hub id such as 'sslzoo/dino-res50-imagenet'{near}"
    if isinstance(error, GatedRepoError):
        return f"the model '{name}' is gated: ask for access on https://huggingface.co/{name}, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        hint = near or ": is it spelt right, and a model, not a data set? Is it private? Then `hf auth login` first"
        return f"there is no model '{name}', neither as a folder here nor on the Hub{hint}"
    if isinstance(error, RevisionNotFoundError):
        return f"the model '{name}' has no revision '{revision}' on the Hub: give one of its branches, tags or commits"
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return (
            f"the model '{name}' is neither a folder here nor in the cache of the Hub's client, and the Hub cannot be reached "
            f"({first_line(error.__cause__ or error)[:120]}): is there a network, and is HF_HUB_OFFLINE unset?{near}"
        )
    return f"cannot get the model '{name}' from the Hub: {first_line(error)}{near}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long for the file system, or with a zero byte
        return False


def _near(folder: Path, name: str) -> str:
    """ ": did you mean 'runs/simclr-res6-digits'?" if `folder` holds a model of a similar name, else ""."""
    try:
        names: Iterable[str] = [found.name for found in folder.iterdir() if (found / CONFIG).is_file()]
    except (OSError, ValueError):
        return ""
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f": did you mean '{(folder / near[0]).as_posix()}'?" if near else ""


def read_config(folder: Path) -> dict:
    """The values in the folder's config.json. Raises `InputError`."""
    return read_json(folder / CONFIG)


def read_json(file: Path) -> dict:
    """The object in a JSON file. Raises `InputError`, also for NaN, infinities and numbers beyond the range of floats."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"cannot read {file}: it must hold an object of keys and values")
    return values


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number that can be computed with")
    return number
