"""Training checkpoints: written atomically, verified by digest when they are read, the newest two kept."""

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sslzoo.errors import first_line
from sslzoo.files import atomic_write, sha256_of

_MODEL, _OPTIMIZER, _STATE, _MANIFEST = "method.safetensors", "optimizer.pt", "state.json", "manifest.json"
_KEPT = 2
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """tensors: the model's state. optimizer: the states of the optimiser and the gradient scaler. state: plain JSON values."""

    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Writes `folder`/step-N atomically, and then removes all but the newest two.

    Raises `OSError`, also for a full disk, and leaves nothing half-written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".step-*.new"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with atomic_write(folder / f"step-{step}") as temporary:
        temporary.mkdir()
        save_file({name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}, temporary / _MODEL)
        torch.save(checkpoint.optimizer, temporary / _OPTIMIZER)
        (temporary / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        manifest = {name: sha256_of(temporary / name) for name in (_MODEL, _OPTIMIZER, _STATE)}
        (temporary / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    for old in checkpoint_folders(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint, None where there is none; damaged ones are skipped with a warning."""
    for path in checkpoint_folders(folder):
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            for name in (_MODEL, _OPTIMIZER, _STATE):
                if sha256_of(path / name) != manifest[name]:
                    raise ValueError(f"{name} is damaged")
            optimizer = torch.load(path / _OPTIMIZER, map_location="cpu", weights_only=True)
            return Checkpoint(load_file(path / _MODEL), optimizer, json.loads((path / _STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
            _log.warning("skipping checkpoint %s: %s", path, first_line(error))
    return None


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, newest first, damaged ones included."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)
