"""Optimisers, parameter groups and learning-rate schedules."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SCHEDULES = ("cosine_per_step", "cosine_per_epoch", "annealing_per_epoch", "constant")
LR_SCALINGS = ("none", "batch/128", "batch/256", "sqrt(batch)")
OPTIMIZERS = ("sgd", "adam", "adamw", "lars")


@dataclass
class ParameterGroup:
    """Parameters that share their optimiser settings.

    decay: whether weight decay applies to them where the recipe exempts norms and biases.
    constant_lr: the learning rate stays at its peak (SimSiam's predictor).
    frozen_epochs: first epochs without updates and without momentum (DINO's last layer, SwAV's prototypes).
    lr_factor: multiplies their learning rate (Barlow Twins' norms and biases).
    """

    parameters: list[nn.Parameter]
    decay: bool = True
    constant_lr: bool = False
    frozen_epochs: int = 0
    lr_factor: float = 1.0


def decay_groups(module: nn.Module, exclude: Iterable[nn.Parameter] = ()) -> list[ParameterGroup]:
    """The trainable parameters in two groups: weights, and norms with biases. exclude: parameters that have a group of their own."""
    norms = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm))
        for parameter in part.parameters(recurse=False)
    }
    excluded = {id(parameter) for parameter in exclude}
    decayed, exempt = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in excluded:
            (exempt if id(parameter) in norms or name.endswith("bias") else decayed).append(parameter)
    return [ParameterGroup(decayed), ParameterGroup(exempt, decay=False)]


def make_optimizer(
    groups: list[ParameterGroup], name: str, weight_decay: float, momentum: float, betas: tuple[float, float], decay_norm_and_bias: bool
) -> torch.optim.Optimizer:
    """SGD with momentum, Adam (whose weight decay is added to the gradient), AdamW or LARS over the groups.

    Learning rates are set by `set_learning_rates` before each step. A step drops the gradients of groups whose rate is 0, as DINO and SwAV
    do for frozen layers.
    """
    settings = [
        {
            "params": group.parameters,
            "weight_decay": weight_decay if group.decay or decay_norm_and_bias else 0.0,
            "constant_lr": group.constant_lr,
            "frozen_epochs": group.frozen_epochs,
            "lr_factor": group.lr_factor,
        }
        for group in groups
        if group.parameters
    ]
    # One kernel for all tensors and all of the update on CUDA, one for each of its operations elsewhere.
    kernels = {"fused" if all(parameter.is_cuda for group in groups for parameter in group.parameters) else "foreach": True}
    if name == "adamw":
        optimizer = torch.optim.AdamW(settings, lr=0.0, betas=betas, **kernels)
    elif name == "adam":
        optimizer = torch.optim.Adam(settings, lr=0.0, betas=betas, **kernels)
    elif name == "lars":
        optimizer = LARS(settings, momentum=momentum)
    else:
        optimizer = torch.optim.SGD(settings, lr=0.0, momentum=momentum, **kernels)
    optimizer.register_step_pre_hook(_drop_frozen_gradients)
    return optimizer


def set_learning_rates(optimizer: torch.optim.Optimizer, peak: float, factor: float, epoch: int) -> None:
    """Sets each group's learning rate: `peak * factor` times its own factor, without `factor` where it is constant, 0 while frozen."""
    for group in optimizer.param_groups:
        frozen = epoch < group["frozen_epochs"]
        group["lr"] = 0.0 if frozen else peak * group["lr_factor"] * (1.0 if group["constant_lr"] else factor)


def _drop_frozen_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Without this, momentum would build up while the parameters are frozen and be released in the first steps after."""
    for group in optimizer.param_groups:
        if group["lr"] == 0:
            for parameter in group["params"]:
                parameter.grad = None


def peak_lr(lr: float, scaling: str, batch: int) -> float:
    """The recipe's learning rate for the global batch."""
    scale = {"none": 1.0, "batch/128": batch / 128, "batch/256": batch / 256, "sqrt(batch)": math.sqrt(batch)}
    return lr * scale[scaling]


def lr_factor(schedule: str, step: int, steps_per_epoch: int, epochs: int, warmup_epochs: float, final: float) -> float:
    """What the peak learning rate is multiplied by at optimiser step `step` (0, 1, ...).

    cosine_per_step, cosine_per_epoch: a linear warm-up that starts above 0, then a cosine that reaches `final` at the last step (epoch).
    annealing_per_epoch: a cosine without warm-up that would reach 0 one epoch after the last (torch's CosineAnnealingLR).
    """
    if schedule == "constant":
        return 1.0
    epoch = step // steps_per_epoch
    if schedule == "annealing_per_epoch":
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    per_step = schedule == "cosine_per_step"
    now, total = (step, epochs * steps_per_epoch) if per_step else (epoch, epochs)
    warmup = round(warmup_epochs * (steps_per_epoch if per_step else 1))
    if now < warmup:
        return (now + 1) / warmup
    fraction = (now - warmup) / max(1, total - warmup - 1)
    return final + (1 - final) * (1 + math.cos(math.pi * fraction)) / 2


class LARS(torch.optim.Optimizer):
    """SGD with momentum, scaled for each tensor by the ratio of its norm to its gradient's (You, Gitman and Ginsburg, 2017).

    Groups without weight decay are not scaled, nor are tensors that are all zero or have an all-zero gradient. All tensors of a group are
    updated together, without synchronising with the device.
    """

    def __init__(self, params, lr: float = 0.0, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.001, eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step. `closure` must be None; callers such as Accelerate pass it."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            updates = [parameter.grad for parameter in parameters]
            if group["weight_decay"]:
                updates = _scale_updates(parameters, updates, group["weight_decay"], group["trust"], group["eps"])
            for parameter in parameters:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(parameters, buffers, alpha=-group["lr"])


def _scale_updates(parameters: list[Tensor], gradients: list[Tensor], decay: float, trust: float, eps: float) -> list[Tensor]:
    weight_norms = torch.stack(torch._foreach_norm(parameters))
    gradient_norms = torch.stack(torch._foreach_norm(gradients))
    ratio = trust * weight_norms / (gradient_norms + decay * weight_norms + eps)
    scaled = (weight_norms > 0) & (gradient_norms > 0)
    # g' = ratio * (g + decay * w), or g where either norm is 0
    ratio, decays = torch.where(scaled, ratio, 1.0), torch.where(scaled, decay, 0.0)
    updates = torch._foreach_mul(parameters, list(decays.unbind()))
    torch._foreach_add_(updates, gradients)
    torch._foreach_mul_(updates, list(ratio.unbind()))
    return updates
