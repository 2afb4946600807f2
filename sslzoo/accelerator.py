"""Accelerate's `Accelerator`, set by the recipe or protocol alone."""

import logging
import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin, parse_flag_from_env

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
    """Connects the processes of a launch; computes in `precision` ("fp32", "bf16" or "fp16"), whatever the environment asks for.

    cpu: use the CPU even where there is an accelerator. tracker, folder: what logs go to, and where it keeps its files.
    Raises `InputError` for a precision that the device does not have, and for a launch that shards the model.
    """
    sharded = [name for name in _SHARDED if parse_flag_from_env(name)]
    if sharded:
        raise InputError(f"{sharded[0]} is set: the model is whole on every device here; launch with one of recipes/accelerate/*.yaml")
    if on_cpu(cpu) and precision == "fp16":
        raise InputError("precision fp16 needs an accelerator, as no CPU trains in it: take bf16 or fp32")
    for name, key in _OVERRULED.items():
        value = os.environ.get(name, "no")
        if value.lower() not in ("", "0", "1", "no", "false", precision):
            _log.warning("%s=%s is ignored: '%s' of the recipe, or the protocol, decides", name, value, key)
    # What an earlier run in this process has set for good, its precision among it.
    AcceleratorState._reset_state()
    try:
        return Accelerator(
            # Without cpu=True, Accelerate does not connect the processes of a launch on a machine that has nothing but CPUs.
            cpu=on_cpu(cpu), mixed_precision="no" if precision == "fp32" else precision, step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)], log_with=tracker, project_dir=folder,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1), dynamo_plugin=TorchDynamoPlugin(backend="no"),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"Accelerate does not take what it was launched with: {first_line(error)}") from error


def on_cpu(cpu: bool) -> bool:
    """Whether the work is done on the CPU: `cpu` says so, the launch does, or there is nothing else."""
    return cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
