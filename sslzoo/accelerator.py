"""Accelerate's `Accelerator`, configured by the recipe or protocol alone, whatever the environment says."""

import logging
import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin, parse_flag_from_env
from torch import nn

from sslzoo.errors import InputError, first_line
from sslzoo.memory import keep_freed_memory

_log = logging.getLogger(__name__)
# Environment variables that Accelerate prefers to its arguments, and the recipe's key for each.
_IGNORED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "accumulate",
    "ACCELERATE_MIXED_PRECISION": "precision",
    "ACCELERATE_DYNAMO_BACKEND": "compile",
}
_SHARDED = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")


def make_accelerator(precision: str, cpu: bool, *, tracker: str | None = None, folder: Path | None = None) -> Accelerator:
    """An accelerator that computes in `precision` ("fp32", "bf16" or "fp16") and connects the processes of a launch.

    cpu: use the CPU even where there is an accelerator. tracker, folder: Accelerate's tracker and the folder of its files.
    Raises `InputError` for a precision that the device does not support, and for a launch that shards the model.
    """
    sharded = [name for name in _SHARDED if parse_flag_from_env(name)]
    if sharded:
        raise InputError(f"{sharded[0]} is set: the model is whole on every device here; launch with one of recipes/accelerate/*.yaml")
    if on_cpu(cpu) and precision == "fp16":
        raise InputError("precision fp16 needs an accelerator, as no CPU trains in it: take bf16 or fp32")
    for name, key in _IGNORED.items():
        value = os.environ.get(name, "no")
        if value.lower() not in ("", "0", "1", "no", "false", precision):
            _log.warning("%s=%s is ignored: '%s' of the recipe, or the protocol, decides", name, value, key)
    if on_cpu(cpu):
        keep_freed_memory()
    # Accelerate keeps an earlier run's settings, such as its precision, for the whole process.
    AcceleratorState._reset_state()
    try:
        return Accelerator(
            # Without cpu=True, Accelerate does not connect the processes on a machine without accelerators.
            cpu=on_cpu(cpu), mixed_precision="no" if precision == "fp32" else precision, step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)], log_with=tracker, project_dir=folder,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1), dynamo_plugin=TorchDynamoPlugin(backend="no"),
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"Accelerate does not take what it was launched with: {first_line(error)}") from error


def on_cpu(cpu: bool) -> bool:
    """Whether to compute on the CPU: because of `cpu`, of how the run was launched, or as there is no accelerator."""
    return cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, with the channels last in the weights of convolutions on CPUs and CUDA, where that is faster for most."""
    memory_format = torch.channels_last if device.type in ("cpu", "cuda") else torch.preserve_format
    return model.to(device, memory_format=memory_format)  # pyrefly: ignore[missing-argument]


def emulates_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are far slower than in fp32 there: on CPUs without the instructions that oneDNN needs for them."""
    return device.type == "cpu" and not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
