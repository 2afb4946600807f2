"""A recipe's views: the method's own, with the recipe's values, in whole patches, and colours only for images that have them."""

import dataclasses
from typing import Any

from transformers import PreTrainedConfig

from sslzoo.errors import InputError, unknown
from sslzoo.method import Method
from sslzoo.methods import method_name
from sslzoo.views import View

from .values import pixels

COLOURS = ("jitter", "grayscale", "solarize")  # fields of `View` that need three channels


def patch_size(encoder: PreTrainedConfig) -> int:
    """The side of the encoder's patches, px; 1 where it has none, or several sizes."""
    patch = getattr(encoder, "patch_size", 1)
    return patch if isinstance(patch, int) else 1


def views_of(method: type[Method], encoder: PreTrainedConfig, image_size: int, changes: dict[str, dict[str, Any]]) -> dict[str, View]:
    """The views of the method at `image_size` px, with the fields in `changes` ({view: {field: value}}).

    For an encoder of other than three channels, the method's changes of colours are left out, and those in `changes` are refused.
    Raises `InputError`.
    """
    patch, channels = patch_size(encoder), encoder.num_channels
    views = {
        name: dataclasses.replace(view, size=patch * max(1, round(view.size / patch))) for name, view in method.views(image_size).items()
    }
    if channels != 3:
        views = {name: dataclasses.replace(view, **dict.fromkeys(COLOURS, 0.0)) for name, view in views.items()}
    fields = [field.name for field in dataclasses.fields(View)]
    for name, values in changes.items():
        if name not in views:
            raise unknown(f"view of {method_name(method)}", name, views)
        for field in values:
            if field not in fields:
                raise unknown(f"field of view.{name}", field, fields)
            if channels != 3 and field in COLOURS and values[field]:
                raise InputError(f"view.{name}.{field} is {values[field]}: it needs 3 channels, not {channels}: leave it out")
        if "size" in values:
            values = {**values, "size": pixels(f"view.{name}.size", values["size"], image_size, patch)}
        try:
            views[name] = dataclasses.replace(views[name], **values)
        except InputError as error:
            raise InputError(f"view.{name}: {error}") from error
        if views[name].size % patch and views[name].count:
            size, low = views[name].size, max(patch, views[name].size // patch * patch)
            raise InputError(f"view.{name}.size is {size}: must be a multiple of the encoder's patches, take {low} or {low + patch}")
    return views
