"""One training step of each method: where its time goes, and how many operations it dispatches.

python benches/step.py                          the digits recipes that need no teacher, tiny encoders
python benches/step.py --recipes cifar10/simclr --set batch_size=64
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sslzoo.accelerator import make_accelerator
from sslzoo.method import Progress
from sslzoo.methods import method_class, method_names
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.parts.distillation import DistillationMixin
from sslzoo.recipe import parse_changes, read_recipe
from sslzoo.training.setup import make_training_method
from sslzoo.views import Renderer

PARTS = ("views", "forward", "backward", "optimiser", "after_step")


class Count(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
        self.operations += 1
        return function(*arguments, **(keywords or {}))


class Step:
    """A method in training on random images."""

    def __init__(self, name: str, changes: dict[str, Any]):
        self.recipe = read_recipe(name, changes)
        self.method = make_training_method(self.recipe, make_accelerator("fp32", cpu=True))
        recipe = self.recipe
        self.optimizer = make_optimizer(
            self.method.parameter_groups(), recipe.optimizer, recipe.weight_decay, recipe.momentum, recipe.betas, recipe.decay_norm_and_bias
        )
        set_learning_rates(self.optimizer, 1e-3, 1.0, 1)
        self.renderer = Renderer(list(recipe.make_views().values()), recipe.seed)
        size = recipe.image_size
        self.pixels = torch.randint(0, 256, (recipe.batch_size, 3, size, size), dtype=torch.uint8)
        self.sizes = torch.full((recipe.batch_size, 2), size)
        self.samples = torch.arange(recipe.batch_size)

    def run(self) -> list[float]:
        """Seconds of each of PARTS."""
        clock = [time.perf_counter()]
        views = self.renderer(self.pixels, self.sizes, self.samples, 1)
        clock.append(time.perf_counter())
        progress = Progress(1, 100, 1, 0, self.samples)
        out = self.method(views, progress)
        clock.append(time.perf_counter())
        out["loss"].backward()
        clock.append(time.perf_counter())
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.append(time.perf_counter())
        with torch.no_grad():
            self.method.after_step({name: value.detach() for name, value in out.items() if value.ndim}, progress)
        clock.append(time.perf_counter())
        return [end - begin for begin, end in zip(clock, clock[1:], strict=False)]


def main() -> None:
    taught = [name for name in method_names() if issubclass(method_class(name), DistillationMixin)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[f"digits/{name}" for name in method_names() if name not in taught])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to all of the recipes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {name: Step(name, parse_changes(options.set)) for name in options.recipes}
    seconds = {name: [] for name in steps}
    operations = {}
    for name, step in steps.items():
        step.run()
        with Count() as count:
            step.run()
        operations[name] = count.operations
    for _ in range(options.rounds):  # in turn, so that a slow moment of the machine meets all of them
        for name, step in steps.items():
            seconds[name].append(step.run())
    print(f"{'recipe':24} {'batch':>5} {'ms':>8} {'images/s':>9} {'operations':>10}  " + "  ".join(f"{part:>10}" for part in PARTS))
    for name, rounds in seconds.items():
        parts = [statistics.median(column) for column in zip(*rounds, strict=True)]
        total, batch = sum(parts), steps[name].recipe.batch_size
        shares = "  ".join(f"{100 * part / total:8.1f} %" for part in parts)
        print(f"{name:24} {batch:5} {1000 * total:8.1f} {batch / total:9.0f} {operations[name]:10}  {shares}")


if __name__ == "__main__":
    main()
