"""torch.compile that costs a run a warning at most."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch._functorch import config as autograd_config

from .errors import first_line

_log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result], dynamic: bool | None = None) -> Callable[Arguments, Result]:
    """The function, which torch.compile compiles when it is called; once that has failed, and after one warning, the function as it is.

    dynamic: as of torch.compile; None makes sizes and numbers dynamic once they have changed.
    """
    faster: Callable[Arguments, Result] | None = torch.compile(function, dynamic=dynamic)

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        nonlocal faster
        if faster is None:
            return function(*args, **kwargs)
        try:
            # The gradient's graph is compiled at once too: in the backward pass it would be too late to go on without it.
            with autograd_config.patch(force_non_lazy_backward_lowering=True):
                return faster(*args, **kwargs)
        except Exception as error:  # of the compiler and its backend, or of a C++ compiler or driver that is missing
            result = function(*args, **kwargs)  # which raises what is not the compiler's fault
            faster = None
            cause = getattr(error, "inner_exception", error)  # what a backend has raised
            _log.warning("torch.compile failed on %s, which goes on without it: %s", function.__name__, first_line(cause))
            return result

    return call
