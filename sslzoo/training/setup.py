"""Before the first step: the size of micro-batches, the method on its device, and its optimiser."""

import warnings

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from transformers import PreTrainedModel

from sslzoo.encoders import compiled_parts
from sslzoo.errors import InputError
from sslzoo.method import Method
from sslzoo.optim import make_optimizer
from sslzoo.recipe import Recipe


def divide_batch(recipe: Recipe, images: int, processes: int) -> tuple[int, int]:
    """Images per micro-batch of one process, and steps per epoch. Raises `InputError` if the batch cannot be divided or filled."""
    if recipe.batch_size % (processes * recipe.accumulate):
        parts = f"{processes} processes with {recipe.accumulate} micro-batches each"
        raise InputError(f"batch_size {recipe.batch_size} cannot be divided over {parts}")
    if recipe.batch_size > images:
        raise InputError(f"batch_size {recipe.batch_size} is more than the {images} images of {recipe.dataset}")
    return recipe.batch_size // processes // recipe.accumulate, images // recipe.batch_size


def make_training_method(recipe: Recipe, accelerator: Accelerator) -> Method:
    """A freshly initialised method on the accelerator's device, in training mode; its weights follow from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    method = recipe.make_method().to(accelerator.device)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        method = method.to(memory_format=torch.channels_last)  # pyrefly: ignore[missing-argument]
        if accelerator.num_processes > 1:
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    if recipe.compile:
        for encoder in [module for module in method.modules() if isinstance(module, PreTrainedModel) and module is not method]:
            for part in compiled_parts(encoder):
                part.compile()
    return method.train()


def wrap(method: Method, recipe: Recipe, accelerator: Accelerator) -> tuple[nn.Module, AcceleratedOptimizer]:
    """The method as Accelerate calls it (wrapped in DDP for several processes), and its optimiser."""
    optimizer = make_optimizer(
        method.parameter_groups(), recipe.optimizer, recipe.weight_decay, recipe.momentum, recipe.betas, recipe.decay_norm_and_bias
    )
    with warnings.catch_warnings():
        # torch warns of a new name for broadcast_buffers, which Accelerate's handler does not have yet.
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare(method, optimizer)
