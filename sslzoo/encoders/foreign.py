"""Weights of others, by the names and shapes of their tensors, as transformers' encoders.

A file may hold more than an encoder: heads, a queue, an optimiser, and several encoders, each under a path, here called a branch.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.errors import InputError, first_line, printable

from .branches import branch_names, choose, find_branches, listed
from .layout import Named
from .plain import build_encoder
from .resnet_layouts import convert_resnet
from .vit_layouts import convert_vit


class Foreign(NamedTuple):
    """An encoder made of weights of others."""

    encoder: PreTrainedModel  # in evaluation mode
    name: str  # the short one, "res50", or a description of its shape
    layout: str  # "torchvision", "timm" or "transformers": who names tensors so
    branch: str  # where in the file it was, "" for the whole of it
    image_size: int  # px, of the images that it is evaluated on
    said: tuple[str, ...]  # what was taken, left aside, converted and assumed, a line each


def convert_weights(state: Mapping[str, Tensor], branch: str | None = None, heads: int | None = None) -> Foreign:
    """The encoder that `state` holds.

    Every tensor of the encoder is filled by one of the same shape, and every tensor inside it has its place. What lies outside of it is
    left aside and counted.

    branch: which of several encoders; None: the one that its authors evaluate (DINO's teacher, MoCo's query, BYOL's online encoder, and
    "backbone" of lightly's benchmarks, whatever role it has).
    heads: a ViT's attention heads, which no tensor tells; None: as many as usual for its width.
    Raises `InputError`.
    """
    state = _without_wrappers(state)
    branches = find_branches(state)
    if not branches:
        raise InputError(_why_nothing(state))
    chosen = choose(branches, branch)
    path, layout, is_vit = branches[chosen]
    behind = {name.removeprefix(path): value for name, value in state.items() if name.startswith(path)}
    converted = convert_vit(layout, behind, path, heads) if is_vit else convert_resnet(layout, behind)
    encoder, changed = _filled(converted.config, converted.tensors, converted.name)

    names = branch_names(branches)
    others = {branch.path[:-1]: name for branch, name in zip(branches, names, strict=True) if not path.startswith(branch.path)}
    front = f" of branch '{printable(names[chosen])}'" if names[chosen] else ""
    rest = [name for index, name in enumerate(names) if index != chosen]
    said = [converted.name + front + (f"; others are: {listed(rest)}" if rest else "")]
    used = {path + old for old, _ in converted.tensors.values()}
    aside = _counted([name for name in state if name not in used], path, others)
    said += [aside] if aside else []
    said += [changed] if changed else []
    layout = "torchvision" if layout == "numbered" else layout
    return Foreign(encoder, converted.name, layout, names[chosen], converted.image_size, (*said, *converted.notes))


_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # of torch.compile, FSDP and checkpointing


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, value in state.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in plain:
            raise InputError(f"two tensors are called '{printable(short)}'")
        plain[short] = value
    return plain


_ELSEWHERE = {  # the end of a name that tells what it is instead
    "conv1.0.weight": "a ResNet whose stem has several convolutions",
    "patch_embed.proj.0.weight": "a ViT whose stem has several convolutions",
    "downsample_layers.0.0.weight": "a ConvNeXt",
    "stages.0.blocks.0.conv_dw.weight": "a ConvNeXt",
    "layers.0.blocks.0.attn.qkv.weight": "a Swin transformer",
    "visual.proj": "a CLIP",
    "features.0.weight": "a VGG or AlexNet",
}


def _why_nothing(state: Mapping[str, Tensor]) -> str:
    for end, what in _ELSEWHERE.items():
        if name := next((name for name in state if f".{name}".endswith(f".{end}")), None):
            return f"by '{printable(name)}' this is {what}: ResNets with a stem of one convolution, and ViTs, are known"
    first = ", ".join(map(printable, sorted(state)[:3])) or "nothing"
    return f"neither a ResNet as torchvision names its tensors nor a ViT as timm or transformers do: there is {first}"


_LISTED = 8  # names in a line


def _counted(names: list[str], path: str, others: dict[str, str]) -> str | None:
    """One line on the tensors outside the encoder, by the branch they are in, or by the first part of their name that is not its path's.

    others: what the other branches are called, by their paths.
    """
    counts = Counter()
    mine = path.split(".")[:-1]
    for name in names:
        theirs = name.split(".")
        fronts = (".".join(theirs[:end]) for end in range(1, len(theirs)))
        shared = next((index for index, part in enumerate(mine) if theirs[index : index + 1] != [part]), len(mine))
        counts[next((others[front] for front in fronts if front in others), theirs[min(shared, len(theirs) - 1)])] += 1
    if not counts:
        return None
    most = counts.most_common(_LISTED)
    told = [printable(name) if count == 1 else f"{printable(name)} ({count})" for name, count in most]
    rest = len(names) - sum(count for _, count in most)
    told += [f"and {rest} more"] if rest else []
    return f"{len(names)} tensor{'s' * (len(names) > 1)} outside the encoder left aside: {', '.join(told)}"


def _filled(config, tensors: Named, name: str) -> tuple[PreTrainedModel, str | None]:
    """The encoder with the tensors in it, and a line on those of another type. Raises `InputError` that lists what does not fit."""
    try:
        with torch.device("meta"):
            encoder = build_encoder(config)
    except Exception as error:  # of whatever layer a size is none for
        raise InputError(f"cannot build '{name}': {first_line(error)}") from error
    wanted = encoder.state_dict()
    # Files from before torch 0.4.1 do not count batches; nothing here does either.
    counters = {new: (new, torch.tensor(0)) for new in wanted if new.endswith(".num_batches_tracked")}
    tensors = counters | tensors
    missing = [new for new in wanted if new not in tensors]
    unexpected = [printable(old) for new, (old, _) in tensors.items() if new not in wanted]
    shapes = [
        f"{printable(old)} {tuple(value.shape)} for {tuple(wanted[new].shape)}"
        for new, (old, value) in tensors.items()
        if new in wanted and value.shape != wanted[new].shape
    ]
    wrong = {"missing (by the name in transformers)": missing, "unexpected": unexpected, "of the wrong shape": shapes}
    if any(wrong.values()):
        told = [f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for kind, names in wrong.items() if names]
        raise InputError(f"the tensors do not fit '{name}': {'; '.join(told)}")
    kinds = Counter()
    filling, broken = {}, []
    for new, (old, value) in tensors.items():
        if wanted[new].is_floating_point():
            if value.is_meta or value.is_quantized or value.layout != torch.strided or not value.is_floating_point():
                raise InputError(f"'{printable(old)}' holds no floating-point numbers of its own but {_kind(value)}: save it as float32")
            kinds[_kind(value)] += 1
        filling[new] = value.detach().to(wanted[new].dtype, copy=True)
        if not filling[new].isfinite().all():
            broken.append(f"'{new}', '{printable(old)}' in the file")
    if broken:
        raise InputError(f"the weights are not finite: {len(broken)} tensors, the first is {broken[0]}")
    encoder.load_state_dict(filling, assign=True)
    kinds.pop("float32", None)
    changed = f"converted to float32: {', '.join(f'{count} of {kind}' for kind, count in kinds.items())}" if kinds else None
    return encoder.eval(), changed


def _kind(value: Tensor) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    return f"{kind} without values" if value.is_meta else kind
