"""Checkpoints that are whole or not there."""

import hashlib
import json
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sslzoo.errors import first_line

_MODEL, _OPTIMIZER, _STATE, _MANIFEST = "method.safetensors", "optimizer.pt", "state.json", "manifest.json"
_KEPT = 2
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """tensors: every one of the model. optimizer: what the optimiser and the gradient scaler keep. state: plain values."""

    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def sha256_of(file: Path) -> str:
    """In hex."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Writes `folder`/step-N beside its place, syncs it to the disk, renames it, and only then removes all but the newest two."""
    beside = folder / f".step-{step}.new"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}, beside / _MODEL)
    torch.save(checkpoint.optimizer, beside / _OPTIMIZER)
    (beside / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
    manifest = {name: sha256_of(beside / name) for name in (_MODEL, _OPTIMIZER, _STATE)}
    (beside / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    for file in beside.iterdir():
        _sync(file)
    _sync(beside)
    place = folder / f"step-{step}"
    shutil.rmtree(place, ignore_errors=True)  # of the same step, from a run that was resumed before it
    os.rename(beside, place)
    _sync(folder)
    for old in _steps(folder)[_KEPT:]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written; damaged ones are named in a warning and passed over."""
    for place in _steps(folder):
        try:
            manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
            for name in (_MODEL, _OPTIMIZER, _STATE):
                if sha256_of(place / name) != manifest[name]:
                    raise ValueError(f"{name} is damaged")
            optimizer = torch.load(place / _OPTIMIZER, map_location="cpu", weights_only=True)
            return Checkpoint(load_file(place / _MODEL), optimizer, json.loads((place / _STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
            _log.warning("passing over checkpoint %s: %s", place, first_line(error))
    return None


def _steps(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    found = [place for place in folder.glob("step-*") if place.name[5:].isdigit()]
    return sorted(found, key=lambda place: int(place.name[5:]), reverse=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
