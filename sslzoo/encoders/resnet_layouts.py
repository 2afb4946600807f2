"""Converting ResNets of torchvision, whole or as an nn.Sequential, of CIFAR repositories and of transformers to transformers' ResNet."""

import re

from torch import Tensor
from transformers import ResNetConfig

from sslzoo.errors import InputError

from .named_tensors import ConvertedTensors, NamedTensors
from .names import ENCODERS, encoder_config
from .small_resnet import SmallResNetConfig

_OWN = re.compile(r"((conv|bn|norm|gn)\d+|layer\d+|maxpool|stem)(\.|$)")  # conv2 and conv3 next to conv1 are a deeper stem, as in CLIP
_SMALL_IMAGE, _IMAGE = 32, 224  # px; the usual images for 3x3 and for 7x7 stems
_KNOWN = {
    ("basic", (3, 4, 6, 3)): "ResNet-34", ("bottleneck", (3, 4, 6, 3)): "ResNet-50", ("bottleneck", (3, 4, 23, 3)): "ResNet-101",
    ("bottleneck", (3, 8, 36, 3)): "ResNet-152",
}  # fmt: skip


def convert_resnet(layout: str, state: dict[str, Tensor]) -> ConvertedTensors:
    """The encoder with the tensors `state`, named without their prefix. Raises `InputError` for shapes that transformers lacks."""
    names = {"torchvision": _of_torchvision, "numbered": _of_sequential, "transformers": _of_transformers}[layout](state)
    own = {new: (old, state[old]) for old, new in names.items()}
    config, relu_note = _config(own, _stem_layers(layout, state, own))
    notes = [relu_note] if relu_note else []
    name = _name(config)
    image_size = _SMALL_IMAGE if isinstance(config, SmallResNetConfig) else _IMAGE
    return ConvertedTensors(config, name, image_size, _to_transformers(own, isinstance(config, SmallResNetConfig)), notes)


def _of_torchvision(state: dict[str, Tensor]) -> dict[str, str]:
    return {name: name.replace(".shortcut.", ".downsample.") for name in state if _OWN.match(name)}


def _of_sequential(state: dict[str, Tensor]) -> dict[str, str]:
    stages = _numbers(state)
    heads = {"0": "conv1", "1": "bn1"} | {str(number): f"layer{1 + index}" for index, number in enumerate(stages)}
    split = {name: name.split(".", 1) for name in state if "." in name}
    named = {name: f"{heads[first]}.{rest}" for name, (first, rest) in split.items() if first in heads}
    return {name: new.replace(".shortcut.", ".downsample.") for name, new in named.items()}


def _numbers(state: dict[str, Tensor]) -> list[int]:
    """The indices of the stages in the nn.Sequential."""
    return sorted({int(match[1]) for name in state if (match := re.match(r"(\d{1,3})\.\d+\.conv1\.weight$", name))})


_PARTS = {"conv": "convolution", "bn": "normalization"}
_BACK = {"convolution": "conv", "normalization": "bn"}


def _of_transformers(state: dict[str, Tensor]) -> dict[str, str]:
    named = {}
    for name in state:
        if match := re.fullmatch(r"embedder\.(?:embedder\.)?(\w+)\.(\w+)", name):
            named[name] = f"{_BACK.get(match[1], match[1])}1.{match[2]}"
        elif match := re.fullmatch(r"encoder\.stages\.(\d{1,3})\.layers\.(\d+)\.layer\.(\d)\.(convolution|normalization)\.(\w+)", name):
            stage, block, layer, part, kind = match.groups()
            named[name] = f"layer{int(stage) + 1}.{block}.{_BACK[part]}{int(layer) + 1}.{kind}"
        elif match := re.fullmatch(r"encoder\.stages\.(\d{1,3})\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(\w+)", name):
            stage, block, part, kind = match.groups()
            named[name] = f"layer{int(stage) + 1}.{block}.downsample.{int(part == 'normalization')}.{kind}"
        elif name.startswith(("embedder.", "encoder.")):
            named[name] = f"?{name}"
    return named


def _stem_layers(layout: str, state: dict[str, Tensor], own: NamedTensors) -> tuple[bool, bool | None]:
    """Whether a ReLU and whether pooling follow the stem's norm; None: the names do not tell."""
    if layout == "numbered":
        first = _numbers(state)[0]
        return first > 2, True if first == 4 else first > 4
    if layout == "transformers":
        return "embedder.embedder.convolution.weight" in state, None
    return True, None


def _config(own: NamedTensors, stem_layers: tuple[bool, bool | None]) -> tuple[ResNetConfig, str | None]:
    relu, pools = stem_layers
    stem = _shape(own, "conv1.weight")
    if stem[1] != 3 or stem[2:] not in ((7, 7), (3, 3)):
        raise InputError(f"a ResNet's 'conv1.weight' of shape {stem}: stems of 7x7 or 3x3 on images of 3 channels are known")
    blocks = {match.groups() for name in own if (match := re.match(r"layer(\d{1,3})\.(\d{1,4})\.", name))}
    depths = []
    while count := sum(int(stage) == len(depths) + 1 for stage, _ in blocks):
        depths.append(count)
    kind = "bottleneck" if "layer1.0.conv3.weight" in own else "basic"
    sizes = [_shape(own, f"layer{stage}.0.conv{3 if kind == 'bottleneck' else 2}.weight")[0] for stage in range(1, len(depths) + 1)]
    for stage, size in enumerate(sizes, 1) if kind == "bottleneck" else ():
        outside, inside, *_ = _shape(own, f"layer{stage}.0.conv2.weight")
        if outside != inside:
            raise InputError(f"a ResNeXt (convolutions in groups, {outside} wide of {inside} each): transformers has no such encoder")
        if outside * 4 != size:
            raise InputError(f"a wide ResNet (bottlenecks {outside} wide of {size}): transformers' ResNet has a quarter of it, {size // 4}")
    values = {"embedding_size": stem[0], "hidden_sizes": sizes, "depths": depths, "layer_type": kind}
    if stem[2:] == (7, 7):
        if not relu or pools is False:
            raise InputError("a ResNet with a 7x7 stem and no ReLU or pooling behind it: transformers' ResNet has both")
        return ResNetConfig(**values), None
    note = f"its 3x3 stem is read as stride 1, no pooling, {'with a' if relu else 'without'} ReLU: the file does not say it"
    return SmallResNetConfig(**values, stem_relu=relu), note


def _shape(own: NamedTensors, name: str) -> tuple[int, ...]:
    if name not in own:
        raise InputError(f"the ResNet has no '{name}'")
    old, value = own[name]
    if value.ndim != 4 or 0 in value.shape:
        raise InputError(f"a convolution has four dimensions, '{old}' is {tuple(value.shape)}")
    return tuple(value.shape)


def _name(config: ResNetConfig) -> str:
    values = [(config.embedding_size, list(config.hidden_sizes), list(config.depths), config.layer_type)]
    for name in ENCODERS:
        known = encoder_config(name, _IMAGE)
        if isinstance(known, ResNetConfig):
            values.append((known.embedding_size, list(known.hidden_sizes), list(known.depths), known.layer_type))
            if values.pop() == values[0]:
                return name
    factor = config.embedding_size / 64
    expected = [int(64 * factor * 2**stage) * (4 if config.layer_type == "bottleneck" else 1) for stage in range(len(config.depths))]
    name = _KNOWN.get((config.layer_type, tuple(config.depths)))
    if name and list(config.hidden_sizes) == expected:
        return name if factor == 1 else f"{name}, {factor:g} times as wide"
    return f"ResNet of {config.layer_type} blocks {list(config.depths)}, {list(config.hidden_sizes)} wide"


def _to_transformers(own: NamedTensors, small: bool) -> NamedTensors:
    renamed = {}
    for name, (old, value) in own.items():
        if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
            new = f"embedder.{'' if small else 'embedder.'}{_PARTS[match[1]]}.{match[2]}"
        elif match := re.fullmatch(r"layer(\d{1,3})\.(\d+)\.(conv|bn)([1-9])\.(\w+)", name):
            stage, block, part, layer, kind = match.groups()
            new = f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(layer) - 1}.{_PARTS[part]}.{kind}"
        elif match := re.fullmatch(r"layer(\d{1,3})\.(\d+)\.downsample\.([01])\.(\w+)", name):
            stage, block, part, kind = match.groups()
            new = f"encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{('convolution', 'normalization')[int(part)]}.{kind}"
        else:
            new = f"?{name}"
        renamed[new] = (old, value)
    return renamed
