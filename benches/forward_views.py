"""Views that batch norms see apart: one batch with norms by view against one by one. How many times as fast, for several batch sizes.

    python benches/forward_views.py
    python benches/forward_views.py --cpu --encoders res6 --batches 16

Forward and backward of two views, in bfloat16 on a GPU; both ways take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sslzoo.accelerator import on_cpu
from sslzoo.encoders import build_encoder, encoder_config, features
from sslzoo.parts.networks import forward_apart

TURNS = 5
SIZES = {"res6": 32, "res18": 32, "res50": 224, "vit-xs4": 32}  # px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["res18", "res50"], choices=SIZES)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512], help="images of one view")
    parser.add_argument("--steps", type=int, default=5, help="of each turn")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    device = torch.device("cpu") if on_cpu(options.cpu) else torch.accelerator.current_accelerator()
    torch.backends.cudnn.benchmark = True
    for name in options.encoders:
        network = build_encoder(encoder_config(name, SIZES[name])).to(device, memory_format=torch.channels_last).train()
        for batch in options.batches:
            views = [torch.randn(batch, 3, SIZES[name], SIZES[name], device=device) for _ in range(2)]

            def apart(views: list[Tensor] = views, network: nn.Module = network) -> list[Tensor]:
                return forward_apart(network, lambda view: features(network, view), views)

            def one_by_one(views: list[Tensor] = views, network: nn.Module = network) -> list[Tensor]:
                return [features(network, view) for view in views]

            ratios = []
            for turn in range(TURNS + 1):
                seconds = [seconds_of(way, options.steps, device) for way in (apart, one_by_one)]
                if turn:  # the first warms up
                    ratios.append(seconds[0] / seconds[1])
            print(
                f"{name}, {batch:4} images of {SIZES[name]} px: one by one {1000 * seconds[1]:7.1f} ms, "
                f"{statistics.median(ratios):.2f} times as fast as one batch ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def seconds_of(forward: Callable[[], list[Tensor]], steps: int, device: torch.device) -> float:
    """Of a forward and backward pass."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            outputs = forward()
        torch.cat(outputs).float().square().mean().backward()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return (time.perf_counter() - began) / steps


if __name__ == "__main__":
    main()
