"""A dry run of a recipe's first step on meta tensors: finds what cannot be trained before data are read and memory is allocated."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase as _BatchNorm

from sslzoo.data.memory import default_budget
from sslzoo.errors import InputError, first_line
from sslzoo.method import Progress
from sslzoo.methods import method_class
from sslzoo.parts.distillation import FrozenTeacher
from sslzoo.views import Renderer

from .in_training import prepare_for_training
from .schema import Recipe
from .teacher import load_teacher


def rehearse(recipe: Recipe, images: int, device: torch.device) -> None:
    """Builds the method and takes a step on `meta` tensors, which have shapes but no data.

    images: in a micro-batch of one process. device: whose memory the step must fit into. Call it before processes are connected. Raises
    `InputError`, which names the key at fault if another value of it would do.
    """
    method, views, teacher = method_class(recipe.method), recipe.make_views(), load_teacher(recipe)
    for name, default in method.views(recipe.image_size).items():
        if name not in method.varied_views and views[name].count != default.count:
            raise InputError(f"view.{name}.count is {views[name].count}: {recipe.method} needs {default.count}")
    if images == 1 and any(isinstance(part, _BatchNorm) for part in recipe.method_on_meta().modules()):
        batch = f"batch_size {recipe.batch_size}, accumulate {recipe.accumulate}"
        raise InputError(f"{batch}: {recipe.method} has batch norms here, which cannot train on one image at a time")
    free = 4 * default_budget(device)
    _check_memory(recipe, images, 4 * recipe.channels * images * sum(view.count * view.size**2 for view in views.values()), free)
    try:
        saved_bytes = _step(recipe, images, teacher)
    except Exception as error:  # from whichever layer an invalid value reaches
        raise InputError(_with_key_at_fault(recipe, images, teacher, first_line(error))) from error
    _check_memory(recipe, images, saved_bytes // (1 if recipe.precision == "fp32" else 2), free)


def _check_memory(recipe: Recipe, images: int, needed: int, free: int) -> None:
    if needed > free:
        views = ", ".join(f"view.{name} {view.count} of {view.size} px" for name, view in recipe.make_views().items() if view.count)
        sizes = f"batch_size {recipe.batch_size}, image_size {recipe.image_size}, {views}"
        raise InputError(f"{sizes}: a step with {images} images takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free")


def _step(recipe: Recipe, images: int, teacher: FrozenTeacher | None = None) -> int:
    """Takes the step and returns the bytes that autograd saves for the backward pass, in float32, none for checkpointed blocks.

    Raises any error of the method.
    """
    method = recipe.method_on_meta(teacher).train()
    prepare_for_training(method, recipe)
    views, saved = list(recipe.make_views().values()), {}

    def record(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        renderer = Renderer(views, recipe.seed)
        pixels = [torch.empty(images, recipe.channels, view.size, view.size) for view in views for _ in range(view.count)]
        sizes, samples = torch.empty(images, 2, dtype=torch.int64), torch.empty(images, dtype=torch.int64)
        progress = Progress(0, 1, 0, recipe.seed, samples, partial(renderer.crops, sizes, samples, renderer.words(0)))
        out = method(pixels, progress)
        with torch.no_grad():
            method.after_step({name: value.detach() for name, value in out.items() if value.ndim}, progress)
    return sum(saved.values())


def _with_key_at_fault(recipe: Recipe, images: int, teacher: FrozenTeacher | None, reason: str) -> str:
    """The reason and the key at fault: the one whose default value lets the step succeed."""
    for key, value, other in _with_one_default(recipe):
        with suppress(Exception):
            _step(other, images, teacher)
            return reason if key in reason else f"{key} is {value}: {reason}"
    return f"recipe '{recipe.name}' cannot be trained: {reason}"


def _with_one_default(recipe: Recipe) -> Iterator[tuple[str, Any, Recipe]]:
    """Keys and values that may be at fault, each with the recipe in which the default replaces the value."""
    for view, fields in recipe.views.items():
        for field, value in ((field, fields[field]) for field in ("size", "count") if field in fields):
            others = {name: given for name, given in fields.items() if name != field}
            yield f"view.{view}.{field}", value, dataclasses.replace(recipe, views={**recipe.views, view: others})
    for key, value in recipe.hyperparameters.items():
        others = {name: given for name, given in recipe.hyperparameters.items() if name != key}
        yield key, value, dataclasses.replace(recipe, hyperparameters=others)
    for encoder in ("res6", "vit-xs4"):  # one of each kind
        with suppress(InputError):  # an image size that is no multiple of the patch size
            yield "encoder", recipe.encoder, dataclasses.replace(recipe, encoder=encoder)
