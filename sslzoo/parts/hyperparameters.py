"""What a hyper-parameter may be: fields of a method's configuration that refuse values which no run can use.

    temperature: float | int = positive(0.1)
"""

from collections.abc import Callable
from typing import Any

from huggingface_hub.dataclasses import as_validated_field


def _between(low: float, high: float) -> Callable[..., Any]:
    """Makes fields, from their default, whose values are from `low` to `high`."""

    @as_validated_field
    def field(value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"is {value!r:.60}: must be from {low} to {high}")

    return field


dim = _between(1, 2**17)  # the width of a layer
rows = _between(1, 2**24)  # prototypes, groups, the length of a queue
rows_or_none = _between(0, 2**24)
layers = _between(0, 100)  # also rounds of something done one after the other
count = _between(1, 10**6)
count_or_none = _between(0, 10**6)
positive = _between(1e-4, 1e4)  # temperatures, and other divisors
share = _between(0, 1)  # momentums, ratios
weight = _between(0, 1e6)  # of a term of the loss
