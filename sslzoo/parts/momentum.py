"""Teachers that follow their student as a moving average."""

import copy
import math

import torch
from torch import nn


def frozen_copy(student: nn.Module) -> nn.Module:
    """A teacher that equals the student now and gets no gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameters only: the teacher's batch norms see for themselves."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def cosine_momentum(start: float, end: float, fraction: float) -> float:
    """From `start` to `end` on half a cosine, `fraction` of the way through the run (BYOL, arXiv:2006.07733)."""
    return end - (end - start) * (1 + math.cos(math.pi * fraction)) / 2
