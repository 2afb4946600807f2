"""The model card of imported weights, which others trained: their source, and what was measured on them here."""

from typing import Any

from huggingface_hub import ModelCardData

from sslzoo.evaluation import Preprocessing
from sslzoo.run import Run

from .markdown import one_line
from .metadata import clean, eval_results, number_entry
from .results_table import format_percent, headline, metric_name, provenance_lines, results_table


def imported_values(run: Run, imported: dict[str, Any], repository: str, numbers: list[dict[str, Any]]) -> dict[str, Any]:
    """The values of the template for imported weights, model_cards/imported.md."""
    reported = imported.get("reported") or {"by": "", "numbers": {}}
    return {
        "name": repository.partition("/")[2], "repository": repository, "encoder": imported["encoder"], "source": imported["source"],
        "sha256": imported["sha256"], "layout": imported["layout"], "branch": imported.get("branch"),
        "image_size": Preprocessing.read(run.folder).crop, "rows": results_table(numbers, None),
        "headline": headline(numbers, None),
        "provenance": provenance_lines(numbers), "reported_by": reported["by"],
        "reported": [(metric_name(metric), format_percent(value)) for metric, value in reported["numbers"].items()],
    }  # fmt: skip


def imported_metadata(imported: dict[str, Any], repository: str, numbers: list[dict[str, Any]], weights_sha256: str) -> ModelCardData:
    """`card_metadata` for imported weights, which have no recipe; what others report is kept apart from our numbers."""
    return ModelCardData(
        model_name=repository.partition("/")[2], library_name="transformers", pipeline_tag="image-feature-extraction", license="other",
        eval_results=eval_results(numbers) or None, tags=["sslzoo", "self-supervised-learning", "imported"],
        sslzoo={
            "repository": repository, "encoder": one_line(imported["encoder"]),
            "imported": clean({key: imported.get(key) for key in ("source", "sha256", "reported")}),
            "numbers": [number_entry(number) for number in numbers], "weights_sha256": weights_sha256,
        },
    )  # fmt: skip
