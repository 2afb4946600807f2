"""The model card's metadata in YAML: the Hub's keys, the model-index, and the `sslzoo` block that the leaderboard reads."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from sslzoo.data import hub_id, source_name
from sslzoo.methods import method_class
from sslzoo.recipe import Recipe, run_license

from .markdown import one_line
from .results_table import metric_label


def card_metadata(
    recipe: Recipe, repository: str, training: dict[str, Any], numbers: list[dict[str, Any]], weights_sha256: str
) -> ModelCardData:
    """The Hub's keys, a "model-index" with the numbers of the published weights (percent), and an `sslzoo` block.

    The block holds what a leaderboard needs. Its numbers are fractions and its epochs count from 0, as in results.json, which has the
    rest of their provenance.
    """
    dataset, paper = hub_id(recipe.dataset), method_class(recipe.method).paper
    return ModelCardData(
        model_name=recipe.name, library_name="transformers", pipeline_tag="image-feature-extraction", license=run_license(vars(recipe)),
        **_base_model(recipe),
        datasets=[dataset[0]] if dataset else None, eval_results=eval_results(numbers) or None,
        tags=["sslzoo", "self-supervised-learning", recipe.method, *([f"arxiv:{paper.arxiv}"] if paper.arxiv else [])],
        sslzoo={"repository": repository, **_block(recipe, training, numbers), "weights_sha256": weights_sha256},
    )  # fmt: skip


def _base_model(recipe: Recipe) -> dict[str, str]:
    """The Hub's keys for the model that this one continues, if that is on the Hub."""
    base = None if recipe.init_from is None else hub_id(recipe.init_from)
    return {} if base is None else {"base_model": base[0], "base_model_relation": "finetune"}


def eval_results(numbers: list[dict[str, Any]]) -> list[EvalResult]:
    """The numbers of the published weights for the model-index, in percent."""
    return [_eval_result(number) for number in numbers if number["when"] == "last"]


def _block(recipe: Recipe, training: dict[str, Any], numbers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "method": recipe.method, "encoder": recipe.encoder_name, "dataset": clean(source_name(recipe.dataset)),
        **{key: clean(source_name(value)) for key in ("init_from", "teacher") if (value := getattr(recipe, key)) is not None},
        "image_size": recipe.image_size,
        "epochs": recipe.epochs, "batch_size": recipe.batch_size, "precision": recipe.precision, "seed": recipe.seed,
        "images": training["images"], "seconds": training["seconds"], "images_per_second": training["images_per_second"],
        "peak_memory_bytes": training["peak_memory_bytes"], "processes": training["processes"],
        "hardware": clean(training["environment"]["hardware"]), "reference": _leaderboard_reference(recipe),
        "numbers": [number_entry(number) for number in numbers],
    }  # fmt: skip


def _leaderboard_reference(recipe: Recipe) -> dict[str, float]:
    """The recipe's reference; kNN only at k = 200, the setting that the leaderboard shows."""
    return {metric: value for metric, value in recipe.reference.items() if recipe.reference_k == 200 or not metric.startswith("knn")}


def number_entry(number: dict[str, Any]) -> dict[str, Any]:
    """One number of the `sslzoo` block."""
    provenance = {key: number["provenance"].get(key) for key in ("train_images", "test_images", "code", "date")}
    measurement = {key: number[key] for key in ("metric", "value", "when", "protocol", "split", "arguments")}
    others = {"other_seeds": number["other_seeds"]} if number.get("other_seeds") else {}
    return clean({**measurement, "dataset": source_name(number["dataset"]), **provenance, **others})


def _eval_result(number: dict[str, Any]) -> EvalResult:
    # The Hub groups results by data set and shows only the task name and data set name of a group's first: they are the same for all.
    name, configuration = hub_id(number["dataset"]) or (source_name(number["dataset"]), None)
    return EvalResult(
        task_type="image-classification", task_name="Image Classification", dataset_type=one_line(name),
        dataset_name=one_line(source_name(number["dataset"])), dataset_config=configuration, dataset_split=one_line(number["split"]),
        metric_type="accuracy", metric_name=one_line(metric_label(number)), metric_value=round(100 * float(number["value"]), 2),
        metric_config=one_line(number["protocol"]), metric_args=clean(number["arguments"]),
    )  # fmt: skip


def clean(value: Any) -> Any:
    """A value of JSON with every text on one line."""
    if isinstance(value, dict):
        return {one_line(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return one_line(value) if isinstance(value, str) else value
