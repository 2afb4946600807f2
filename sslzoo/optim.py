"""Optimisers, parameter groups and learning-rate schedules."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SCHEDULES = ("cosine_per_step", "cosine_per_epoch", "annealing_per_step", "annealing_per_epoch", "constant")
LR_SCALINGS = ("none", "batch/128", "batch/256", "sqrt(batch)")
CLIPS = ("global", "tensor", "network")
OPTIMIZERS = ("sgd", "adam", "adamw", "lars")
# Tokens, positions, and scales that are no norms of torch, by their names in transformers: weight decay would pull what they learned to 0.
UNDECAYED = re.compile(r"token|position|class_embedding|probe|logit_scale|\.grn\.")
_LAYER_SCALE = re.compile(r"(^|\.)(lambda_?[12]|gamma|layer_scale_parameter)$")  # the names in transformers


@dataclass
class ParameterGroup:
    """Parameters that share their optimiser settings.

    decay: whether weight decay applies to them where the recipe exempts norms and biases. never_decay: not even where it does not.
    constant_lr: the learning rate stays at its peak (SimSiam's predictor).
    frozen_epochs: first epochs without updates and without momentum (DINO's last layer, SwAV's prototypes).
    lr_factor: multiplies their learning rate (Barlow Twins' norms and biases).
    network: the sub-network whose gradients are clipped together where the recipe clips by network. None: the encoder, or all around it.
    """

    parameters: list[nn.Parameter]
    decay: bool = True
    never_decay: bool = False
    constant_lr: bool = False
    frozen_epochs: int = 0
    lr_factor: float = 1.0
    network: str | None = None


def decay_groups(module: nn.Module, exclude: Iterable[nn.Parameter] = ()) -> list[ParameterGroup]:
    """The trainable parameters in two groups: weights, and norms with biases. exclude: parameters that have a group of their own.

    LayerScale is a third group where there is any, never decayed: it starts near 0, and weight decay would switch the blocks off.
    """
    norms = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm))
        for parameter in part.parameters(recurse=False)
    }
    excluded = {id(parameter) for parameter in exclude}
    decayed, exempt, scales = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or id(parameter) in excluded:
            continue
        if _LAYER_SCALE.search(name):
            scales.append(parameter)
        else:
            (exempt if id(parameter) in norms or name.endswith("bias") else decayed).append(parameter)
    groups = [ParameterGroup(decayed), ParameterGroup(exempt, decay=False)]
    return [*groups, ParameterGroup(scales, decay=False, never_decay=True)] if scales else groups


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
            "weight_decay": weight_decay if _is_decayed(group, decay_norm_and_bias) else 0.0,
            "decayed": _is_decayed(group, decay_norm_and_bias),
            "constant_lr": group.constant_lr,
            "frozen_epochs": group.frozen_epochs,
            "lr_factor": group.lr_factor,
            "network": group.network,
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


def _is_decayed(group: ParameterGroup, norm_and_bias: bool) -> bool:
    return not group.never_decay and (group.decay or norm_and_bias)


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


def weight_decay_at(start: float, end: float, step: int, steps: int) -> float:
    """The weight decay at step `step` of `steps`: half a cosine that would reach `end` one step after the last (DINO, arXiv:2104.14294)."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Sets the weight decay of the groups that have one."""
    for group in optimizer.param_groups:
        if group["decayed"]:
            group["weight_decay"] = weight_decay


@torch.no_grad()
def clip_gradients(optimizer: torch.optim.Optimizer, clip: str, largest: float) -> None:
    """Scales gradients down to norms of at most `largest`, without synchronising with the device.

    clip: "tensor", each parameter's by itself (iBOT, arXiv:2111.07832), or "network", each sub-network's (DINOv2, arXiv:2304.07193).
    """
    parts: dict[str | int, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parts.setdefault(id(parameter) if clip == "tensor" else group["network"], []).append(parameter.grad)
    gradients = [gradient for part in parts.values() for gradient in part]
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    if clip == "network":
        norms = torch.stack([part.norm() for part in norms.split([len(part) for part in parts.values()])])
    factors = (largest / (norms + 1e-6)).clamp(max=1.0).unbind()  # as in torch's clip_grad_norm_
    torch._foreach_mul_(gradients, [factor for factor, part in zip(factors, parts.values(), strict=True) for _ in part])


def peak_lr(lr: float, scaling: str, batch: int) -> float:
    """The recipe's learning rate for the global batch."""
    scale = {"none": 1.0, "batch/128": batch / 128, "batch/256": batch / 256, "sqrt(batch)": math.sqrt(batch)}
    return lr * scale[scaling]


def lr_factor(
    schedule: str, step: int, steps_per_epoch: int, epochs: int, warmup_epochs: float, final: float, first: float | None = None
) -> float:  # fmt: skip
    """What the peak learning rate is multiplied by at optimiser step `step` (0, 1, ...).

    cosine_per_step, cosine_per_epoch: a linear warm-up, then a cosine that reaches `final` at the last step (epoch).
    annealing_per_step: a linear warm-up, then a cosine that would reach `final` one step after the last (DINO, MoCo v3).
    annealing_per_epoch: a cosine without warm-up that would reach 0 one epoch after the last (torch's CosineAnnealingLR).
    first: the factor of the warm-up's first step, whose last step has 1; None: one part of as many as the warm-up has steps.
    """
    if schedule == "constant":
        return 1.0
    epoch = step // steps_per_epoch
    if schedule == "annealing_per_epoch":
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    per_step = schedule != "cosine_per_epoch"
    now, total = (step, epochs * steps_per_epoch) if per_step else (epoch, epochs)
    warmup = round(warmup_epochs * (steps_per_epoch if per_step else 1))
    if now < warmup:
        return (now + 1) / warmup if first is None else first + (1 - first) * now / max(1, warmup - 1)
    fraction = (now - warmup) / max(1, total - warmup - (schedule != "annealing_per_step"))
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
