"""The end of a run: publishes the weights into the run folder, measures them, and removes the checkpoints."""

import time
from typing import TYPE_CHECKING

from sslzoo.errors import TrainingError, first_line
from sslzoo.evaluation import Preprocessing, data_facts, protocol_named
from sslzoo.memory import peak_memory
from sslzoo.processes import all_or_none, from_all
from sslzoo.run import environment, with_provenance

from .evaluations import PROTOCOL
from .folder import tidy
from .states import save

if TYPE_CHECKING:
    from .loop import Training


def finish(training: "Training") -> None:
    """Leaves the run folder as `Run` describes it. Raises `TrainingError` where the disk does not take it; the last checkpoint stays."""
    if training.saved_step != training.step:
        save(training)
    accelerator, recipe, run = training.accelerator, training.recipe, training.run
    with all_or_none():
        if accelerator.is_main_process:
            _on_disk(training, lambda: _write_model(training))
    numbers = training.evaluations.measure(training.step, recipe.epochs - 1) if training.data is not None else []
    facts = data_facts(training.data) | {"precision": protocol_named(PROTOCOL).precision_on(accelerator)} if numbers else {}
    # In the order of the data set where one process has met all; else with what the others have met behind it.
    skipped = list(dict.fromkeys(name for names in from_all(training.images.skipped) for name in names))
    training.logs.end_trackers()
    with all_or_none():
        if accelerator.is_main_process:
            last = with_provenance(numbers, "last", run.weights_sha256, recipe.seed, accelerator.device, facts)
            best = with_provenance(list(training.evaluations.best.values()), "best", None, recipe.seed, accelerator.device, facts)
            results = {"training": _facts(training, skipped), "numbers": last + best}
            _on_disk(training, lambda: run.write_results(results))
            tidy(run)


def _write_model(training: "Training") -> None:
    training.method.save_pretrained(training.run.folder)
    Preprocessing(training.recipe.eval_resize, training.recipe.eval_crop).write(training.run.folder)


def _on_disk(training: "Training", write) -> None:
    try:
        write()
    except OSError as error:
        kept = f"step {training.saved_step:,} is saved" if training.saved_step else "no checkpoint could be written"
        raise TrainingError(f"{first_line(error)}; {kept}: make room and --resume") from error


def _facts(training: "Training", skipped: list[str]) -> dict[str, object]:
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
