"""Teachers: exponential moving averages of their student."""

import copy
import math

import torch
from torch import nn


def frozen_copy(student: nn.Module) -> nn.Module:
    """A teacher that equals the student now and gets no gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameters only: a teacher's batch norms keep their own statistics."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def linear_momentum_schedule(start: float, end: float, fraction: float) -> float:
    """The momentum `fraction` of the way through the run, on a straight line (I-JEPA, arXiv:2301.08243)."""
    return start + (end - start) * fraction


def momentum_schedule(start: float, end: float, fraction: float) -> float:
    """The momentum `fraction` of the way through the run, from `start` to `end` on half a cosine (BYOL, arXiv:2006.07733)."""
    return end - (end - start) * (1 + math.cos(math.pi * fraction)) / 2
