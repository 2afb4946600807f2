"""Drop path while a method trains: each image skips residual branches of its student (stochastic depth, arXiv:1603.09382)."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.encoders import ResidualBranch, residual_branches
from sslzoo.errors import InputError
from sslzoo.views import hash_words, uniform

GROUP = 32  # consecutive images, of which a branch keeps equally many
_DRAWN_BELOW = 0.1  # up to this rate each image is dropped by itself, above it exactly so many of a group (DINOv2)
_KEY = -6  # of the first view's random numbers, then downwards; other keys stand in views and evaluation


def add_drop_path(method: PreTrainedModel, rate: float, seed: int, *, is_uniform: bool) -> None:
    """Makes the encoders that the method trains drop residual branches in each of its forward passes; teachers and evaluation drop none.

    The rate rises linearly from 0 in the first block to `rate` in the last, or is the same in all. Above 0.1, int(32 (1 - rate)) of every
    32 consecutive images of a view are kept, and the branch is computed for them alone where its input can be chosen. What is kept is
    divided by the share that is kept. Images, views and branches decide independently, in each epoch anew, whatever the device.
    Raises `InputError` for encoders without such branches.
    """
    for encoder in [module for module in method.modules() if type(module) is type(method.encoder)]:
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            blocks = residual_branches(encoder)
            rates = [rate] * len(blocks) if is_uniform else [rate * index / max(1, len(blocks) - 1) for index in range(len(blocks))]
            dropped = [_Branch(branch, share) for block, share in zip(blocks, rates, strict=True) for branch in block]
            method.register_forward_pre_hook(_Start(dropped, seed))
            method.register_forward_hook(_Stop(dropped), always_call=True)


class _Start:
    """Before the method's forward pass: draws for each branch which images of each view keep it."""

    def __init__(self, branches: list["_Branch"], seed: int):
        self.branches, self.seed = branches, seed

    def __call__(self, method: nn.Module, arguments: tuple) -> None:
        views, progress = arguments
        words = torch.tensor([hash_words(self.seed, progress.epoch, _KEY - view) for view in range(len(views))])
        numbers = uniform(progress.samples, len(self.branches), words)  # (images, views, branches)
        grouped = any(branch.kept_of_group is not None for branch in self.branches)
        if grouped and len(numbers) % GROUP:
            raise InputError(
                f"drop_path over {_DRAWN_BELOW} keeps equally many of every {GROUP} images, and a process has {len(numbers)} at a time: "
                f"make batch_size a multiple of {GROUP} images for each process and micro-batch"
            )
        order = numbers.unflatten(0, (-1, GROUP)).argsort(dim=1, stable=True) if grouped else None
        for index, branch in enumerate(self.branches):
            branch.start(numbers[:, :, index], None if order is None else order[..., index])


class _Stop:
    """After the method's forward pass, also when it failed: the branches compute for all images again."""

    def __init__(self, branches: list["_Branch"]):
        self.branches = branches

    def __call__(self, *_: object) -> None:
        for branch in self.branches:
            branch.stop()


class _Branch:
    """A residual branch of the student, hooked for good, as `torch.compile` does not look at hooks again.

    rows, factors: of each view, the images that keep the branch, int64 (kept,), or what each image's output is multiplied by, (images,).
    One is there during the method's forward pass. next_view: the first view of the branch's next call, which may have several.
    """

    def __init__(self, branch: ResidualBranch, rate: float):
        self.rate = rate
        self.kept_of_group = int(GROUP * (1 - rate)) if rate > _DRAWN_BELOW and branch.first is not None else None
        self.stop()
        if self.kept_of_group is not None:
            branch.first.register_forward_pre_hook(self.choose_rows, with_kwargs=True)
        if rate:
            branch.last.register_forward_hook(self.drop)

    def start(self, numbers: Tensor, order: Tensor | None) -> None:
        """numbers: (images, views). order: int64 (groups, GROUP, views), a group's images in the order of their numbers."""
        self.images = len(numbers)
        if self.kept_of_group is None:
            self.factors = list(((numbers >= self.rate) / (1 - self.rate)).unbind(1))
        elif order is not None:
            first = torch.arange(0, self.images, GROUP, device=order.device)[:, None, None]
            self.rows = list((order[:, : self.kept_of_group] + first).flatten(0, 1).unbind(1))

    def stop(self) -> None:
        self.images, self.next_view = 0, 0
        self.rows: list[Tensor] = []
        self.factors: list[Tensor] = []

    def choose_rows(self, module: nn.Module, arguments: tuple, options: dict) -> tuple[tuple, dict] | None:
        """The branch's input, and what else has a row for each image, for those that are kept."""
        if not (self.rows and module.training and torch.is_grad_enabled()):
            return None
        hidden = arguments[0] if arguments else options["hidden_states"]
        count = len(hidden)
        rows = self._joint(self.rows, count)
        return (
            tuple(_of_rows(value, rows, count, always=index == 0) for index, value in enumerate(arguments)),
            {key: _of_rows(value, rows, count, always=key == "hidden_states") for key, value in options.items()},
        )

    def drop(self, module: nn.Module, arguments: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
        """The branch's output with zeros for images that drop it."""
        if not (self.images and module.training and torch.is_grad_enabled()):
            return None
        tokens, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if self.kept_of_group is None:
            factors = self._joint(self.factors, len(tokens))
            tokens = tokens * factors.view(-1, *[1] * (tokens.ndim - 1)).to(tokens.dtype)
            self.next_view += len(factors) // self.images
        else:
            count = len(tokens) * GROUP // self.kept_of_group
            rows = self._joint(self.rows, count)
            kept = tokens * (GROUP / self.kept_of_group)
            tokens = tokens.new_zeros(count, *tokens.shape[1:]).index_copy(0, rows, kept)
            self.next_view += count // self.images
        return tokens if rest is None else (tokens, *rest)

    def _joint(self, of_views: list[Tensor], count: int) -> Tensor:
        """Those of the views in a batch of `count` images; views that go through the student again have the same."""
        views = [(self.next_view + index) % len(of_views) for index in range(count // self.images)]
        if self.kept_of_group is None:
            return torch.cat([of_views[view] for view in views])
        return torch.cat([of_views[view] + index * self.images for index, view in enumerate(views)])


def _of_rows(value: object, rows: Tensor, count: int, *, always: bool = False) -> object:
    """The rows of a tensor that has one for each of `count` images, such as rotations of kept patches; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_of_rows(part, rows, count) for part in value)
    if isinstance(value, Tensor) and (always or (value.ndim == 4 and len(value) == count)):
        return value.index_select(0, rows)
    return value
