"""Distillation: a student learns from the features that a frozen teacher, a pretrained encoder of any family, gives the same crop."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.encoders import feature_width, features
from sslzoo.errors import InputError
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD

from .hyperparameters import dim


@dataclass(repr=False, eq=False)
class DistillationConfig:
    """teacher_dim: the width of the teacher's features, which follows from a recipe's `teacher`."""

    teacher_dim: int = dim(2048)


class FrozenTeacher(nn.Module):
    """A pretrained encoder: views (n, 3, height, width), as the student sees them, to features (n, width) of length 1, without gradient.

    mean, std: what the encoder's images are normalised with; view_mean, view_std: what the views are. size: px, to which the views are
    resized; None: as they are.
    """

    def __init__(
        self, encoder: PreTrainedModel, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
        view_mean: Sequence[float] = IMAGENET_MEAN, view_std: Sequence[float] = IMAGENET_STD, size: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.size = encoder, size
        own_mean, own_std, given_mean, given_std = torch.tensor([mean, std, view_mean, view_std])[..., None, None]
        self.register_buffer("scale", given_std / own_std)
        self.register_buffer("shift", (given_mean - own_mean) / own_std)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        pixels = views * self.scale + self.shift
        if self.size is not None and views.shape[-1] != self.size:
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        return F.normalize(features(self.encoder, pixels).float(), dim=1)


class DistillationMixin:
    """For a `Method` that learns from a `FrozenTeacher`, whose config has the fields of `DistillationConfig`.

    The teacher follows the method to devices and types, but is none of its submodules: it is not trained, saved or synchronised, and stays
    in evaluation mode. So a method that was loaded has none.
    """

    teacher: FrozenTeacher | None = None

    def set_teacher(self, teacher: FrozenTeacher) -> None:
        """Gives the method its teacher, on its device. Raises `InputError` for features of another width than the configuration's."""
        width = feature_width(teacher.encoder)
        if width != self.config.teacher_dim:
            raise InputError(f"teacher_dim is {self.config.teacher_dim}: the features of the teacher are {width} wide")
        self.__dict__["teacher"] = teacher.to(self.device)

    def teacher_features(self, views: Tensor) -> Tensor:
        """The targets, (n, teacher_dim), of length 1. Raises `InputError` where there is no teacher."""
        if self.teacher is None:
            raise InputError(
                f"the loss of {type(self).__name__} needs its teacher, which is not saved with it: give it one by "
                "set_teacher(FrozenTeacher(encoder)), from sslzoo.parts.distillation"
            )
        return self.teacher(views)

    def _apply(self, fn, recurse=True):
        if self.teacher is not None:
            self.teacher._apply(fn)
        return super()._apply(fn, recurse)
