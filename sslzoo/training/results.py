"""The end of a run: saves the model, evaluates it, writes results.json and removes the checkpoints."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sslzoo.errors import TrainingError, first_line
from sslzoo.evaluation import data_facts, protocol_named
from sslzoo.memory import peak_memory
from sslzoo.processes import all_or_none, gather_objects
from sslzoo.provenance import environment, with_provenance

from .checkpoints import save
from .knn_evaluation import PROTOCOL
from .run_folder import remove_checkpoints

if TYPE_CHECKING:
    from .loop import Training


def finish(training: "Training") -> None:
    """Leaves a complete run folder, as `Run` describes it. Raises `TrainingError` on a full disk; the last checkpoint then remains."""
    if training.saved_step != training.step:
        save(training)
    accelerator, recipe, run = training.accelerator, training.recipe, training.run
    with all_or_none():
        if accelerator.is_main_process:
            _write(training, lambda: _save_model(training))
    evaluation = training.evaluation
    numbers = evaluation.measure_final(training.step, recipe.epochs - 1) if training.data is not None else []
    facts = data_facts(training.data) if numbers else {}
    # In data set order with one process; with several, one process's images after the other's.
    skipped = list(dict.fromkeys(name for names in gather_objects(training.images.skipped) for name in names))
    training.logs.end_trackers()
    with all_or_none():
        if accelerator.is_main_process:
            groups = (("last", numbers, run.weights_sha256, PROTOCOL), ("best", evaluation.best.values(), None, evaluation.epoch_protocol))
            measured = []
            for when, group, weights, protocol in groups:
                precision = {"precision": protocol_named(protocol).precision_on(accelerator)}
                measured += with_provenance(list(group), when, weights, recipe.seed, accelerator.device, facts | precision)
            results = {"training": _training_facts(training, skipped), "numbers": measured}
            _write(training, lambda: run.write_results(results))
            remove_checkpoints(run)


def _save_model(training: "Training") -> None:
    training.method.save_pretrained(training.run.folder)
    training.recipe.preprocessing.write(training.run.folder)


def _write(training: "Training", write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        saved = f"step {training.saved_step:,} is saved" if training.saved_step else "no checkpoint could be written"
        raise TrainingError(f"{first_line(error)}; {saved}: free some space and --resume") from error


def _training_facts(training: "Training", skipped: list[str]) -> dict[str, Any]:
    """The "training" part of results.json."""
    trained = training.steps * training.recipe.batch_size
    device = training.accelerator.device
    facts = {
        "steps": training.steps, "images": len(training.images), "skipped_images": skipped,
        "seconds": round(time.perf_counter() - training.started, 1),
        "images_per_second": round(trained / max(training.seconds["steps"], 1e-9), 1),
        "peak_memory_bytes": peak_memory(device), "processes": training.accelerator.num_processes,
        "environment": environment(device), "files": training.run.digests(),
    }  # fmt: skip
    return facts | ({"resumed": training.resumed} if training.resumed else {})
