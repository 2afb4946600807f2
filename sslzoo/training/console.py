"""What a run prints for its user, on standard error and by the main process alone: its plan at the start, a summary at the end."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from sslzoo.accelerator import emulates_bf16
from sslzoo.data import source_name
from sslzoo.provenance import environment

if TYPE_CHECKING:
    from .loop import Training

_COMPILE = {True: "on", False: "off", "auto": "off (auto; compile=true may be faster on a GPU)"}
_SUMMARY_KEY = "knn_top1 k=20 T=0.1"


def print_plan(training: "Training") -> None:
    """Images, classes, device, precision, parameters, steps, views and the run folder."""
    recipe, accelerator, method = training.recipe, training.accelerator, training.method
    if not accelerator.is_main_process:
        return
    data = training.data
    measured = f", {data.classes.count} classes; measured on {len(data.test):,} ({recipe.test_split})" if data else "; nothing is measured"
    views = ", ".join(f"{view.count} x {view.size} px ({name})" for name, view in training.views.items() if view.count)
    lines = {
        "method": f"{type(method).__name__} with {recipe.encoder_name}, {_millions(method.encoder.parameters())} parameters",
        "starts from": recipe.init_from or "random weights",
        "trained": f"{_millions(parameter for parameter in method.parameters() if parameter.requires_grad)} parameters, with the heads",
        "images": f"{len(training.images):,} of {source_name(recipe.dataset)} ({recipe.train_split}){measured}",
        "views": views,
        "steps": f"{training.steps:,}, {training.steps_per_epoch:,} an epoch of {recipe.batch_size} images"
        + (f", from step {training.step:,}" if training.step else ""),
        "device": f"{accelerator.num_processes} x {environment(accelerator.device)['hardware']}, {recipe.precision}",
        "compile": _COMPILE[recipe.compile],
        "output": f"{training.run.folder}, a checkpoint every {recipe.checkpoint_every:,} steps",
    }
    if recipe.precision == "bf16" and emulates_bf16(accelerator.device):
        lines["precision"] = "this CPU has no instructions for bf16: --set precision=fp32 is several times as fast"
    if recipe.adaptation:
        lines["first convolution"] = recipe.adaptation
    if recipe.channels != 3:
        lines["channels"] = (
            f"{recipe.channels}, normalised with their own mean and std; colour jitter, greyscale and solarisation are left out"
        )
    if recipe.teacher is not None:
        lines["teacher"] = f"{recipe.teacher}, licence {recipe.teacher_license or 'not stated'}"
    if recipe.accumulate > 1:
        size = recipe.batch_size // recipe.accumulate
        lines["accumulate"] = f"{recipe.accumulate} micro-batches of {size}: the loss compares images within one, lr_scaling counts all"
    if training.resumed:
        lines["changed at"] = "; ".join(training.resumed)
    _print_table(recipe.name, lines)


def print_summary(training: "Training") -> None:
    """kNN before and after, effective rank, whether the encoder has collapsed, the time, and which commands come next."""
    recipe, run = training.recipe, training.run
    if not training.accelerator.is_main_process:
        return
    metrics, results = run.metrics(), run.results()["training"]
    lines = {}
    measured = [line for line in metrics if _SUMMARY_KEY in line]
    if measured:
        before = next((line[_SUMMARY_KEY] for line in measured if not line["step"]), None)
        first = "" if before is None else f"{100 * before:.1f} % {'before' if recipe.init_from else 'untrained'}, "
        lines["kNN top-1, k=20"] = f"{first}{100 * measured[-1][_SUMMARY_KEY]:.1f} % {'after' if recipe.init_from else 'trained'}"
    ranks = [line["feature_rank"] for line in metrics if "feature_rank" in line]
    collapse = f"likely collapsed: {training.logs.collapse}" if training.logs.collapse else "no sign of collapse"
    lines["effective rank"] = f"{ranks[-1]:.1f}, {collapse}"
    lines["time"] = f"{results['seconds'] / 60:.1f} min, {results['images_per_second']:,.0f} images/s while training"
    if results["skipped_images"]:
        lines["broken images"] = f"{len(results['skipped_images']):,}, left out"
    lines["next"] = f"sslzoo card {run.folder}; sslzoo evaluate {run.folder} --protocol linear-features-v1"
    _print_table(f"{recipe.name} is trained", lines)


def _print_table(title: str, lines: dict[str, str]) -> None:
    print(title, *(f"  {label:18} {value}" for label, value in lines.items()), sep="\n", file=sys.stderr, flush=True)


def _millions(parameters: Iterable[nn.Parameter]) -> str:
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:.2f} M"
