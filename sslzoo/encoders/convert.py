"""Converting published weights to transformers' encoders, by the names and shapes of their tensors.

A file may hold more than an encoder: heads, a queue, an optimiser, and several encoders, each under a prefix, called a branch.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.errors import InputError, first_line, printable

from .branches import branch_names, choose, find_branches, listed
from .named_tensors import NamedTensors
from .plain import build_encoder
from .resnet_layouts import convert_resnet
from .vit_layouts import convert_vit


class ConvertedEncoder(NamedTuple):
    """An encoder, and how its weights were converted."""

    encoder: PreTrainedModel  # in evaluation mode
    name: str  # short, such as "res50", or a description of the shape
    layout: str  # of the tensor names: "torchvision", "timm" or "transformers"
    branch: str  # its prefix in the file, "" without one
    image_size: int  # px, of the images for evaluation
    notes: tuple[str, ...]  # what was used, ignored, converted and assumed, a line each


def convert_weights(state: Mapping[str, Tensor], branch: str | None = None, heads: int | None = None) -> ConvertedEncoder:
    """The encoder in a state dict.

    Every tensor of the encoder must be in `state` with the same shape, and `state` must have no other tensor under the encoder's prefix.
    Tensors outside of the encoder are ignored and counted.

    branch: which of several encoders; None: the one that its authors evaluate (DINO's teacher, MoCo's query encoder, BYOL's online encoder,
    and "backbone" in lightly's benchmarks, whatever its role).
    heads: the attention heads of a ViT, which its tensors do not tell; None: the usual number for its width.
    Raises `InputError`.
    """
    state = _without_wrappers(state)
    branches = find_branches(state)
    if not branches:
        raise InputError(_explain_unknown(state))
    chosen = choose(branches, branch)
    path, layout, is_vit = branches[chosen]
    encoder_state = {name.removeprefix(path): value for name, value in state.items() if name.startswith(path)}
    converted = convert_vit(layout, encoder_state, path, heads) if is_vit else convert_resnet(layout, encoder_state)
    encoder, changed = _load_tensors(converted.config, converted.tensors, converted.name)

    names = branch_names(branches)
    others = {branch.path[:-1]: name for branch, name in zip(branches, names, strict=True) if not path.startswith(branch.path)}
    front = f" of branch '{printable(names[chosen])}'" if names[chosen] else ""
    rest = [name for index, name in enumerate(names) if index != chosen]
    notes = [converted.name + front + (f"; others are: {listed(rest)}" if rest else "")]
    used = {path + old for old, _ in converted.tensors.values()}
    ignored = _summarize_ignored([name for name in state if name not in used], path, others)
    notes += [ignored] if ignored else []
    notes += [changed] if changed else []
    layout = "torchvision" if layout == "numbered" else layout
    return ConvertedEncoder(encoder, converted.name, layout, names[chosen], converted.image_size, (*notes, *converted.notes))


_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # of torch.compile, FSDP and checkpointing


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, value in state.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in plain:
            raise InputError(f"two tensors are called '{printable(short)}'")
        plain[short] = value
    return plain


_OTHER_ARCHITECTURES = {  # by the end of a tensor's name
    "conv1.0.weight": "a ResNet whose stem has several convolutions",
    "patch_embed.proj.0.weight": "a ViT whose stem has several convolutions",
    "downsample_layers.0.0.weight": "a ConvNeXt",
    "stages.0.blocks.0.conv_dw.weight": "a ConvNeXt",
    "layers.0.blocks.0.attn.qkv.weight": "a Swin transformer",
    "visual.proj": "a CLIP",
    "features.0.weight": "a VGG or AlexNet",
}


def _explain_unknown(state: Mapping[str, Tensor]) -> str:
    for end, what in _OTHER_ARCHITECTURES.items():
        if name := next((name for name in state if f".{name}".endswith(f".{end}")), None):
            return f"by '{printable(name)}' this is {what}: ResNets with a stem of one convolution, and ViTs, are known"
    first = ", ".join(map(printable, sorted(state)[:3])) or "nothing"
    return f"neither a ResNet as torchvision names its tensors nor a ViT as timm or transformers do: there is {first}"


_MAX_LISTED = 8  # names in a note


def _summarize_ignored(names: list[str], path: str, others: dict[str, str]) -> str | None:
    """A note on the tensors outside the encoder, counted by branch, or else by the first part of their names that is not in its prefix.

    others: names of the other branches, by prefix.
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
    most = counts.most_common(_MAX_LISTED)
    counted = [printable(name) if count == 1 else f"{printable(name)} ({count})" for name, count in most]
    rest = len(names) - sum(count for _, count in most)
    counted += [f"and {rest} more"] if rest else []
    return f"{len(names)} tensor{'s' * (len(names) > 1)} outside the encoder left aside: {', '.join(counted)}"


def _load_tensors(config, tensors: NamedTensors, name: str) -> tuple[PreTrainedModel, str | None]:
    """The encoder with these tensors, and a note on converted dtypes. Raises an `InputError` that lists what does not fit."""
    try:
        with torch.device("meta"):
            encoder = build_encoder(config)
    except Exception as error:  # any layer may raise its own for a size
        raise InputError(f"cannot build '{name}': {first_line(error)}") from error
    expected = encoder.state_dict()
    # Files from before torch 0.4.1 lack num_batches_tracked, which is not used.
    counters = {new: (new, torch.tensor(0)) for new in expected if new.endswith(".num_batches_tracked")}
    tensors = counters | tensors
    missing = [new for new in expected if new not in tensors]
    unexpected = [printable(old) for new, (old, _) in tensors.items() if new not in expected]
    shapes = [
        f"{printable(old)} {tuple(value.shape)} for {tuple(expected[new].shape)}"
        for new, (old, value) in tensors.items()
        if new in expected and value.shape != expected[new].shape
    ]
    wrong = {"missing (by the name in transformers)": missing, "unexpected": unexpected, "of the wrong shape": shapes}
    if any(wrong.values()):
        problems = [
            f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for kind, names in wrong.items() if names
        ]
        raise InputError(f"the tensors do not fit '{name}': {'; '.join(problems)}")
    kinds = Counter()
    filling, broken = {}, []
    for new, (old, value) in tensors.items():
        if expected[new].is_floating_point():
            if value.is_meta or value.is_quantized or value.layout != torch.strided or not value.is_floating_point():
                raise InputError(f"'{printable(old)}' holds no floating-point numbers of its own but {_kind(value)}: save it as float32")
            kinds[_kind(value)] += 1
        filling[new] = value.detach().to(expected[new].dtype, copy=True)
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
