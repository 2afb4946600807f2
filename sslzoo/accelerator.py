"""Accelerate's `Accelerator`, set by the recipe or protocol alone."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from sslzoo.errors import InputError, first_line

_log = logging.getLogger(__name__)
# Accelerate lets these variables overrule what it is called with; each has a key of the recipe in its place.
_OVERRULED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "accumulate",
    "ACCELERATE_MIXED_PRECISION": "precision",
    "ACCELERATE_DYNAMO_BACKEND": "compile",
}
_SHARDED = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")


def make_accelerator(precision: str, cpu: bool, *, tracker: str | None = None, folder: Path | None = None) -> Accelerator:
    """An accelerator that computes in `precision` ("fp32", "bf16" or "fp16"), whatever the environment asks for.

    cpu: use the CPU even where there is an accelerator. tracker, folder: what logs go to, and where it keeps its files.
    Raises `InputError` for a precision that the device does not have, and for a launch that shards the model.
    """
    sharded = [name for name in _SHARDED if os.environ.get(name, "false").lower() in ("1", "true", "yes", "on")]
    if sharded:
        raise InputError(f"{sharded[0]} is set: the model is whole on every device here; launch with one of recipes/accelerate/*.yaml")
    cpu = cpu or not torch.accelerator.is_available()
    if cpu and precision == "fp16":
        raise InputError("precision fp16 needs an accelerator, as no CPU trains in it: take bf16 or fp32")
    # What an earlier run in this process has set for good, its precision among it.
    AcceleratorState._reset_state()
    try:
        with _overruled(precision):
            # Without cpu=True, Accelerate does not connect the processes of a launch on a machine that has nothing but CPUs.
            return Accelerator(
                cpu=cpu, mixed_precision="no" if precision == "fp32" else precision, step_scheduler_with_optimizer=False,
                kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)], log_with=tracker, project_dir=folder,
            )  # fmt: skip
    except ValueError as error:
        raise InputError(f"Accelerate does not take what it was launched with: {first_line(error)}") from error


@contextmanager
def _overruled(precision: str) -> Iterator[None]:
    """Inside, the variables that would overrule the recipe are not set; a warning names those that would have changed something."""
    asked = {name: os.environ.pop(name) for name in _OVERRULED if name in os.environ}
    for name, value in asked.items():
        if value.lower() not in ("", "1", "no", precision):
            _log.warning("%s=%s is ignored: '%s' of the recipe decides", name, value, _OVERRULED[name])
    try:
        yield
    finally:
        os.environ.update(asked)
