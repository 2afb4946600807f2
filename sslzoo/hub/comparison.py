"""Several runs next to each other: a table of their numbers, and their curves in one picture."""

from collections import Counter
from pathlib import Path
from typing import Any

from sslzoo.data import source_name
from sslzoo.errors import InputError
from sslzoo.run import Run

from .curves import blank_figure, curve, draw_legend, draw_panel, loss_curve
from .markdown import one_line
from .pictures import save_picture
from .results_table import format_percent
from .results_validation import checked_metrics, checked_numbers, checked_training

_KNN = "knn_top1 k=20 T=0.1"


def comparison_table(folders: list[Path]) -> str:
    """A Markdown table of finished runs, one a row: what was trained, and the top-1 of the final weights by each protocol, in percent.

    Of kNN, only numbers at temperature 0.1. Raises `InputError` for a folder that holds no finished run.
    """
    rows: list[dict[str, str]] = []
    for folder in folders:
        run = Run(folder)
        recipe, seconds = run.recipe.public(), checked_training(run)["seconds"]
        row = {
            "run": folder.name, "method": recipe.method, "encoder": recipe.encoder_name, "data set": recipe.dataset,
            "epochs": str(recipe.epochs), "batch": str(recipe.batch_size), "minutes": f"{seconds / 60:.1f}",
        }  # fmt: skip
        for number in checked_numbers(run):
            if number["metric"].endswith("top1") and number["when"] == "last" and number["arguments"].get("temperature", 0.1) == 0.1:
                row[_column(number, recipe.dataset)] = format_percent(number["value"])
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([one_line(row.get(column, "")).replace("|", "\\|") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(number: dict[str, Any], trained_on: str) -> str:
    """ "knn-instdisc-v2, k=20", with the data where the run was not trained on them."""
    settings = [f"{key}={value}" for key, value in number["arguments"].items() if key != "temperature" and not key.startswith("selected_")]
    elsewhere = [] if source_name(number["dataset"]) == trained_on else [f"on {source_name(number['dataset'])}"]
    return ", ".join([number["protocol"], *settings, *elsewhere])


def draw_comparison(folders: list[Path], file: Path) -> Path:
    """A picture of the runs' curves: kNN top-1 and effective rank, and the loss where all are of one method. Raises `InputError`."""
    runs = {folder.name: Run(folder) for folder in folders}
    if len(runs) < len(folders):
        raise InputError("two of the folders have the same name: curves are told apart by it")
    lines = {name: checked_metrics(run) for name, run in runs.items()}
    knn_key = _knn_key(list(lines.values()))
    knn_title = f"kNN top-1, k = 20{knn_key.removeprefix(_KNN)}, in percent"
    panels = {
        knn_title: {name: curve(logged, knn_key, 100) for name, logged in lines.items()},
        "effective rank of the features": {name: curve(logged, "feature_rank") for name, logged in lines.items()},
    }
    if len({run.recipe.method for run in runs.values()}) == 1:
        panels["loss"] = {name: loss_curve(logged, runs[name].recipe.log_every) for name, logged in lines.items()}
    figure = blank_figure(3.2)
    for index, (title, curves) in enumerate(panels.items(), 1):
        draw_panel(figure.add_subplot(1, len(panels), index), title, curves)
    draw_legend(figure.axes[0])
    return save_picture(figure, file)


def _knn_key(logged: list[list[dict[str, Any]]]) -> str:
    """The key of the protocol by which all runs were measured, and most often: the epochs of runs in half precision have their own."""
    found = [Counter(key for line in lines for key in line if key == _KNN or key.startswith(f"{_KNN} ")) for lines in logged]
    shared = [key for key in (found[0] if found else ()) if all(key in counts for counts in found)]
    return max(shared, key=lambda key: sum(counts[key] for counts in found), default=_KNN)
