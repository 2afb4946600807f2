"""The multi-layer perceptrons behind a backbone: projectors and predictors."""

from collections.abc import Callable, Sequence

from torch import nn


def mlp(
    widths: Sequence[int],
    norm: Callable[[int], nn.Module] | None = nn.BatchNorm1d,
    activation: Callable[[], nn.Module] = nn.ReLU,
    last_norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1]: `norm` and `activation` behind all but the last, `last_norm` behind that.

    A linear layer has a bias exactly where no norm follows it.
    """
    layers: list[nn.Module] = []
    for index, (width, following) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        last = index == len(widths) - 1
        layer_norm = last_norm if last else norm
        layers.append(nn.Linear(width, following, bias=layer_norm is None))
        if layer_norm is not None:
            layers.append(layer_norm(following))
        if not last:
            layers.append(activation())
    return nn.Sequential(*layers)
