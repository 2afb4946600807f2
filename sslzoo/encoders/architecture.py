"""Reading an untrusted config.json: it decides the architecture alone, and none larger than its weights."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from sslzoo.errors import InputError

# Keys on how a model is run, where its code comes from and what it is called; a file must not decide these.
_IGNORED = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
    "attn_implementation", "auto_map", "distributed_config", "experts_implementation", "fusion_config", "kernel_config",
    "output_attentions", "per_layer_config", "pruned_heads", "torch_dtype", "torchscript", "tp_plan", "transformers_weights",
    "trust_remote_code", "use_bfloat16", "use_kernels", "use_return_dict",
}  # fmt: skip
_METHODS = "sslzoo-"  # the methods' configurations, which transformers knows once a method is imported; none is an encoder
_OTHER_LIBRARIES = ("timm_wrapper", "timm_backbone")  # which build models that are defined elsewhere
_LAYERS = ("depths", "num_hidden_layers", "num_layers", "encoder_layers", "decoder_num_hidden_layers")
_SLACK = 1 << 24  # elements (64 MiB) for buffers and for parameters that the weights lack
_MOST_LAYERS = 512  # of an encoder whose weights are not at hand
_ALWAYS_ALLOWED = 1 << 16  # integers up to this are never too large, as they may count pixels or tokens


def architecture(values: dict[str, Any], weights: dict[str, Tensor]) -> PreTrainedConfig:
    """The configuration in config.json's `values`, without anything on how the model is run. Raises `InputError`.

    Numbers that cannot belong to these weights are refused: a layer is at most as wide as there are weights, and has at least one tensor.
    """
    return _configuration(values, max(_ALWAYS_ALLOWED, sum(value.numel() for value in weights.values())), len(weights))


def _configuration(values: dict[str, Any], most: int, layers: int) -> PreTrainedConfig:
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise InputError(f"its configuration has the model_type {model_type!r}, which transformers does not know")
    if model_type.startswith(_METHODS):
        raise InputError(f"its configuration is that of a method, '{model_type}', and an encoder is needed")
    if model_type in _OTHER_LIBRARIES:
        raise InputError(
            f"'{model_type}' is built by timm, which cannot be imported without torchvision: `sslzoo import` converts its ResNets and ViTs"
        )
    if values.get("quantization_config"):
        raise InputError("its weights are quantised: take the model they were made from")
    values = _architecture_only(values, CONFIG_MAPPING[model_type])
    _check_sizes(values, most, layers)
    return CONFIG_MAPPING[model_type](**values)


def describe(config: PreTrainedConfig, name: str) -> dict[str, Any]:
    """The configuration as plain keys and values, for `from_description`: the architecture alone.

    name: what the encoder is called, such as "dinov2-small"; stands first.
    """
    values = _architecture_only(config.to_diff_dict(), type(config))
    derived = ("model_type", "stage_names")
    return {"name": name, "model_type": config.model_type, **{key: value for key, value in values.items() if key not in derived}}


def from_description(description: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that `describe` described, or that a config.json holds. Anyone may have written it. Raises `InputError`."""
    values = {key: value for key, value in description.items() if key != "name"}
    return _configuration(values, _ALWAYS_ALLOWED, _MOST_LAYERS)


def _architecture_only(values: dict[str, Any], config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    own = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map) | {"rope_scaling"}
    kept = {}
    for key, value in values.items():
        if key.startswith("_") or key in _IGNORED or hasattr(config_class, key) and key not in own:
            continue
        part = config_class.sub_configs.get(key)
        if part is not None and isinstance(value, dict):
            if part is AutoConfig:
                if value.get("model_type") not in CONFIG_MAPPING:
                    raise InputError(f"its configuration has a '{key}' of the model_type {value.get('model_type')!r}")
                kept[key] = {"model_type": value["model_type"], **_architecture_only(value, CONFIG_MAPPING[value["model_type"]])}
                continue
            value = _architecture_only(value, part)
        kept[key] = value
    return kept


def _check_sizes(value: Any, most: int, layers: int, key: str = "") -> None:
    """Raises `InputError` for an integer above `most`, or a number of layers above `layers`; `value` is a part of config.json."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_sizes(inner, most, layers, name)
    elif isinstance(value, list):
        for inner in value:
            _check_sizes(inner, most, layers, key)
    elif isinstance(value, int) and abs(value) > (limit := layers if key in _LAYERS else most):
        raise InputError(f"its configuration has {key} {value}, more than its weights can be of ({limit})")


@contextmanager
def limit_size(weights: dict[str, Tensor]) -> Iterator[None]:
    """Limits modules built inside, on the meta device, to about the size of `weights`; larger ones raise `InputError` at once.

    A number in an untrusted file thus costs neither memory nor time.
    """
    elements = 2 * sum(value.numel() for value in weights.values()) + _SLACK
    count = 64 * len(weights) + 4096
    thread, used, built = threading.get_ident(), 0, 0

    def check(module: nn.Module, name: str, value: Tensor | nn.Module | None) -> None:
        nonlocal used, built
        if threading.get_ident() != thread:
            return
        if isinstance(value, nn.Module):
            built += 1
        elif value is not None and value.is_meta:  # tensors loaded later come from the file
            used += value.numel()
        if used > elements or built > count:
            raise InputError("its config.json describes a far larger model than its weights are of")

    handles = (
        hooks.register_module_parameter_registration_hook(check), hooks.register_module_buffer_registration_hook(check),
        hooks.register_module_module_registration_hook(check),
    )  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
