"""Whole training steps of a recipe on this machine's device: images/s, FLOPs, and where the time goes. What to run first on a GPU.

    python benches/train.py digits/simclr
    python benches/train.py cifar10/simclr --set dataset=path/to/parquet encoder=res6 --peak-tflops 155
    python benches/train.py cifar10/simclr --against compile=true

With --against the recipe and the recipe with these further changes take turns, and the last line is the ratio of their speeds.
Warm-up steps are not counted. Each part is timed on its own in further steps, with the device waited for around it, which is why the parts
together may take longer than the steps do. FLOPs are those of the networks, forward and backward, without views and optimiser.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sslzoo.accelerator import make_accelerator
from sslzoo.data import Batch
from sslzoo.memory import peak_memory
from sslzoo.provenance import environment
from sslzoo.recipe import parse_changes, read_recipe
from sslzoo.run import Run
from sslzoo.training.loop import Training
from sslzoo.training.setup import compiles

# Dense TFLOP/s by a part of the device's name, of the matrix products that the recipe's precision uses: (half precision, float32 as TF32).
PEAKS = {"H200": (989, 495), "H100": (989, 495), "A100": (312, 156), "A6000": (155, 77), "4090": (165, 83), "L4": (121, 60), "T4": (65, 8)}
TURNS = 3
RECIPES = Path(__file__).parent.parent / "recipes"


class Steps:
    """Steps of a training, one after the other, in as many epochs as it takes."""

    def __init__(self, training: Training):
        self.training = training
        self.mode = ""  # "count": FLOPs, "time": seconds of each part
        self.flops = 0
        self.seconds: dict[str, float] = defaultdict(float)
        self._batches = iter(())
        self._left = 0
        parts = {
            "views": (training, "renderer"), "forward": (training, "model"), "backward": (training.accelerator, "backward"),
            "optimiser": (training.optimizer, "step"), "after_step": (training.method, "after_step"), "logs": (training.logs, "add"),
        }  # fmt: skip
        for part, (owner, name) in parts.items():
            owner.__dict__[name] = Part(self, part, getattr(owner, name))

    def step(self) -> None:
        """One step, as the training loop takes it."""
        training = self.training
        epoch = training.step // training.steps_per_epoch
        if not self._left:
            positions = training._positions(epoch)
            self._left, self._batches = len(positions), training.images.batches(positions.flatten(0, 1).unbind())
        training._set_schedules(epoch)
        training._train_step(epoch, self)
        training.step += 1
        self._left -= 1

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.call("data", next, self._batches)

    def call(self, part: str, function: Callable, *arguments: Any) -> Any:
        """The function's result. Counts its FLOPs, or adds how long it takes with the device's work."""
        if self.mode == "count" and part in ("forward", "backward"):
            with FlopCounterMode(display=False) as counter:
                out = function(*arguments)
            self.flops += counter.get_total_flops()
        elif self.mode == "time":
            wait(self.training.accelerator.device)
            began = time.perf_counter()
            out = function(*arguments)
            wait(self.training.accelerator.device)
            self.seconds[part] += time.perf_counter() - began
        else:
            out = function(*arguments)
        return out


class Part:
    """A part of the step, in the place of the training's own."""

    def __init__(self, steps: Steps, name: str, part: Any):
        self._steps, self._name, self._part = steps, name, part

    def __call__(self, *arguments: Any) -> Any:
        return self._steps.call(self._name, self._part, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def wait(device: torch.device) -> None:
    """Waits for the device's work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def known_peak(device: torch.device, precision: str) -> float | None:
    """TFLOP/s of the device; None where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peaks[precision == "fp32"] for key, peaks in PEAKS.items() if key in name), None)


def reference(name: str) -> tuple[float, float] | None:
    """Minutes of the whole run and GiB on the reference page's A6000, from the recipe's second line; None where there are none."""
    path = RECIPES / f"{name}.yaml"
    found = path.exists() and re.search(r"([\d.]+) min, ([\d.]+) GiB on A6000", path.read_text(encoding="utf-8"))
    return (float(found[1]), float(found[2])) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as for sslzoo train")
    parser.add_argument("--against", nargs="+", default=[], metavar="KEY=VALUE", help="further changes, to compare with")
    parser.add_argument("--steps", type=int, default=20, help="of each turn")
    parser.add_argument("--warm-up", type=int, default=5, help="steps")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in the recipe's precision, for the MFU")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    options = parser.parse_args()
    recipe = read_recipe(options.recipe, parse_changes(options.set))
    recipes = [recipe, read_recipe(options.recipe, parse_changes(options.set + options.against))] if options.against else [recipe]
    with tempfile.TemporaryDirectory() as folder:
        trainings = [Steps(Training(recipe, Run(folder), make_accelerator(recipe.precision, options.cpu))) for recipe in recipes]
        seconds = step_seconds(trainings, options.warm_up, options.steps)
        for steps, each in zip(trainings, seconds, strict=True):
            measure(steps, statistics.median(each), options)
    if options.against:
        ratios = [first / second for first, second in zip(*seconds, strict=True)]
        ends = f"from {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{' '.join(options.against)}: {statistics.median(ratios):.2f} times as fast, {ends} in {TURNS} turns")


def step_seconds(trainings: list[Steps], warm_up: int, count: int) -> list[list[float]]:
    """Seconds of a step of each training, in turns of `count` steps."""
    for steps in trainings:
        for _ in range(warm_up):
            steps.step()
    seconds = [[] for _ in trainings]
    for _ in range(TURNS):
        for steps, each in zip(trainings, seconds, strict=True):
            device = steps.training.accelerator.device
            wait(device)
            began = time.perf_counter()
            for _ in range(count):
                steps.step()
            wait(device)
            each.append((time.perf_counter() - began) / count)
    return seconds


def measure(steps: Steps, seconds: float, options: argparse.Namespace) -> None:
    """Prints what a step takes, which is `seconds`."""
    training = steps.training
    recipe, device = training.recipe, training.accelerator.device
    print(f"{recipe.name}: {environment(device)['hardware']}, {recipe.precision}, batch {recipe.batch_size}, {recipe.encoder}")
    print(f"step        {1000 * seconds:10.1f} ms, {recipe.batch_size / seconds:,.0f} images/s")
    print(f"memory      {peak_memory(device) / 2**30:10.2f} GiB at most{', of both together' if options.against else ''}")
    if not compiles(recipe):  # what is compiled cannot be counted
        steps.mode = "count"
        steps.step()
        tflops, peak = steps.flops / seconds / 1e12, options.peak_tflops or known_peak(device, recipe.precision)
        share = f", {100 * tflops / peak:.1f} % of {peak:g} (MFU)" if peak else "; --peak-tflops gives the MFU"
        print(f"network     {steps.flops / 1e9:10.1f} GFLOP a step, {tflops:.3f} TFLOP/s{share}")
    steps.mode = "time"
    for _ in range(options.steps):
        steps.step()
    for part, total in steps.seconds.items():
        print(f"{part:12}{1000 * total / options.steps:10.1f} ms, {100 * total / sum(steps.seconds.values()):.1f} %")
    if (found := reference(options.recipe)) is None:
        print("reference   none")
        return
    minutes, gib = found
    page = read_recipe(options.recipe)
    setting = f"{page.encoder}, batch {page.batch_size}, {page.epochs} epochs on an A6000"
    each = ""
    if recipe.dataset == page.dataset:  # else the page's run had another number of steps
        each = f"{60_000 * minutes / (page.epochs * (len(training.images) // page.batch_size)):.1f} ms a step, "
    print(f"reference   {each}{minutes:g} min with its kNN, {gib:g} GiB: {setting}")


if __name__ == "__main__":
    main()
