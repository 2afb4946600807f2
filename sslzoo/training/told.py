"""What a run tells its user: what it is going to do, and what came of it. All of it on standard error, by the main process."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from sslzoo.data import source_name
from sslzoo.run import environment

if TYPE_CHECKING:
    from .loop import Training

_SHOWN = "knn_top1 k=20 T=0.1"


def first_lines(training: "Training") -> None:
    """Images, classes, device, precision, parameters, steps, views, and where the run is written."""
    recipe, accelerator, method = training.recipe, training.accelerator, training.method
    if not accelerator.is_main_process:
        return
    data = training.data
    measured = f", {data.classes.count} classes; measured on {len(data.test):,} ({recipe.test_split})" if data else "; nothing is measured"
    views = ", ".join(f"{view.count} x {view.size} px ({name})" for name, view in training.views.items() if view.count)
    lines = {
        "method": f"{type(method).__name__} with {recipe.encoder}, {_millions(method.encoder.parameters())} parameters",
        "trained": f"{_millions(parameter for parameter in method.parameters() if parameter.requires_grad)} parameters, with the heads",
        "images": f"{len(training.images):,} of {source_name(recipe.dataset)} ({recipe.train_split}){measured}",
        "views": views,
        "steps": f"{training.steps:,}, {training.steps_per_epoch:,} an epoch of {recipe.batch_size} images"
        + (f", from step {training.step:,}" if training.step else ""),
        "device": f"{accelerator.num_processes} x {environment(accelerator.device)['hardware']}, {recipe.precision}",
        "output": f"{training.run.folder}, a checkpoint every {recipe.checkpoint_every:,} steps",
    }
    if recipe.accumulate > 1:
        size = recipe.batch_size // recipe.accumulate
        lines["accumulate"] = f"{recipe.accumulate} micro-batches of {size}: the loss compares images within one, lr_scaling counts all"
    if training.resumed:
        lines["changed at"] = "; ".join(training.resumed)
    _tell(recipe.name, lines)


def last_lines(training: "Training") -> None:
    """kNN before and after, effective rank, the verdict on collapse, the time, and what to run next."""
    recipe, run = training.recipe, training.run
    if not training.accelerator.is_main_process:
        return
    metrics, results = run.metrics(), run.results()["training"]
    lines = {}
    measured = [line for line in metrics if _SHOWN in line]
    if measured:
        before = next((line[_SHOWN] for line in measured if not line["step"]), None)
        untrained = "" if before is None else f"{100 * before:.1f} % untrained, "
        lines["kNN top-1, k=20"] = f"{untrained}{100 * measured[-1][_SHOWN]:.1f} % trained"
    ranks = [line["feature_rank"] for line in metrics if "feature_rank" in line]
    verdict = f"likely collapsed: {training.logs.collapse}" if training.logs.collapse else "no sign of collapse"
    lines["effective rank"] = f"{ranks[-1]:.1f}, {verdict}"
    lines["time"] = f"{results['seconds'] / 60:.1f} min, {results['images_per_second']:,.0f} images/s while training"
    if results["skipped_images"]:
        lines["broken images"] = f"{len(results['skipped_images']):,}, left out"
    lines["next"] = f"sslzoo card {run.folder}; sslzoo evaluate {run.folder} --protocol linear-features-v1"
    _tell(f"{recipe.name} is trained", lines)


def _tell(title: str, lines: dict[str, str]) -> None:
    print(title, *(f"  {what:18} {said}" for what, said in lines.items()), sep="\n", file=sys.stderr, flush=True)


def _millions(parameters: Iterable[nn.Parameter]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:.2f} M"
