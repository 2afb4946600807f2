"""Before the first step: the size of micro-batches, the method on its device, its optimiser, and what is compiled."""

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from sslzoo.accelerator import to_device
from sslzoo.compilation import compiled
from sslzoo.encoders import depths, embedding_parts, fit_channels, fit_image_size, load_pretrained
from sslzoo.errors import InputError
from sslzoo.method import Method
from sslzoo.optim import UNDECAYED, ParameterGroup, make_optimizer, peak_lr
from sslzoo.processes import rank
from sslzoo.recipe import Recipe, load_teacher, pinned_folder, prepare_for_training

# Peak learning rates above these are taken for ones of training from scratch: a rule of thumb, not measured.
_HIGHEST_CONTINUED_LR = {"adamw": 2e-4, "adam": 2e-4, "sgd": 0.02, "lars": 0.5}
_log = logging.getLogger(__name__)


def divide_batch(recipe: Recipe, images: int, processes: int) -> tuple[int, int]:
    """Images per micro-batch of one process, and steps per epoch. Raises `InputError` if the batch cannot be divided or filled."""
    if recipe.batch_size % (processes * recipe.accumulate):
        parts = f"{processes} processes with {recipe.accumulate} micro-batches each"
        raise InputError(f"batch_size {recipe.batch_size} cannot be divided over {parts}")
    if recipe.batch_size > images:
        raise InputError(f"batch_size {recipe.batch_size} is more than the {images} images of {recipe.dataset}")
    return recipe.batch_size // processes // recipe.accumulate, images // recipe.batch_size


def make_training_method(recipe: Recipe, accelerator: Accelerator) -> Method:
    """A freshly initialised method on the accelerator's device, in training mode; its weights follow from the recipe's seed.

    With its teacher, if it learns from one. Raises `InputError`.
    """
    teacher = load_teacher(recipe)
    torch.manual_seed(recipe.seed)
    method = recipe.make_method()
    if teacher is not None:
        method.set_teacher(teacher)
    method = to_device(method, accelerator.device)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # every step has the same shapes
        if accelerator.num_processes > 1:
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    prepare_for_training(method, recipe)
    if compiles(recipe):
        method.loss = compiled(method.loss)
    return method.train()


def compiles(recipe: Recipe) -> bool:
    """Whether the loss and the views are compiled: "auto" is off, until most methods have been seen faster on a GPU."""
    return recipe.compile is True


def load_starting_weights(method: Method, recipe: Recipe) -> None:
    """Gives the encoders the weights that the recipe starts from, if it names any. Raises `InputError`."""
    if recipe.init_from is not None:
        folder = pinned_folder("init_from", recipe.init_from, recipe.init_sha256, recipe.init_license)
        peak = peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size) * recipe.encoder_lr_factor
        if peak > _HIGHEST_CONTINUED_LR[recipe.optimizer] and rank() == 0:
            _log.warning(
                "the encoder's learning rate is %g at its peak, one for training from scratch, which soon overwrites what was learned: "
                "encoder_lr_factor=%g is usual for continued pretraining", peak, _HIGHEST_CONTINUED_LR[recipe.optimizer] / peak,
            )  # fmt: skip
        encoder = fit_channels(load_pretrained(folder), recipe.channels)
        method.init_encoders(fit_image_size(encoder, recipe.image_size))


def encoder_groups(method: Method, recipe: Recipe) -> list[ParameterGroup]:
    """The method's parameter groups, with the learning rates that the recipe gives the encoder's parameters.

    In continued pretraining, weight decay, which would pull what was learned towards 0, is for the weights of the encoder's layers alone:
    never for its tokens, positions, norms and biases, whatever the recipe says of those of the heads.
    Raises `InputError` for layer_decay or patch_lr_factor on an encoder without blocks.
    """
    factors: dict[int, float] = {}
    exempt: set[int] = set()
    for module in method.modules():
        if type(module) is not type(method.encoder):
            continue
        depth = depths(module) if (recipe.layer_decay, recipe.patch_lr_factor) != (1, 1) else {}
        patches = {id(parameter) for parameter in embedding_parts(module).projection.parameters()} if depth else set()
        for name, parameter in module.named_parameters():
            factors[id(parameter)] = recipe.encoder_lr_factor * recipe.layer_decay ** (max(depth.values(), default=0) - depth.get(name, 0))
            if id(parameter) in patches:
                factors[id(parameter)] *= recipe.patch_lr_factor
            if recipe.init_from is not None and UNDECAYED.search(name):
                exempt.add(id(parameter))
    groups: list[ParameterGroup] = []
    for group in method.parameter_groups():
        parts: dict[tuple, ParameterGroup] = {}
        for parameter in group.parameters:
            own = id(parameter) in factors
            frozen = max(group.frozen_epochs, recipe.encoder_frozen_epochs) if own else group.frozen_epochs
            decay, factor = group.decay and id(parameter) not in exempt, group.lr_factor * factors.get(id(parameter), 1.0)
            never_decay = group.never_decay or (own and not decay and recipe.init_from is not None)
            network = (group.network or ("encoder" if own else "heads")) if recipe.clip == "network" else None
            part = replace(
                group, parameters=[], decay=decay, never_decay=never_decay, frozen_epochs=frozen, lr_factor=factor, network=network
            )  # fmt: skip
            parts.setdefault((decay, never_decay, frozen, factor, network), part).parameters.append(parameter)
        groups += parts.values() or [group]
    return groups


def wrap(method: Method, recipe: Recipe, accelerator: Accelerator) -> tuple[nn.Module, AcceleratedOptimizer]:
    """The method as Accelerate calls it (wrapped in DDP for several processes), and its optimiser."""
    optimizer = make_optimizer(
        encoder_groups(method, recipe), recipe.optimizer, recipe.weight_decay, recipe.momentum, recipe.betas, recipe.decay_norm_and_bias
    )
    with warnings.catch_warnings():
        # torch warns of a new name for broadcast_buffers, which Accelerate's handler does not have yet.
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare(method, optimizer)


@contextmanager
def frozen_objects() -> Iterator[None]:
    """The garbage collector leaves alone what exists already: going through all of it would stop the steps again and again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
