"""The notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "recipes" / "tour.ipynb"


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    (training,) = [cell for cell in notebook.cells if '{"epochs": 8}' in cell.source]
    training.source = training.source.replace('{"epochs": 8}', '{"epochs": 1}')
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {kind for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs for kind in output.get("data", {})}
    assert {"image/png", "text/markdown"} <= shown
    printed = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "linear_top1" in printed and "knn_top1" in printed
    verdicts = notebook.cells[-1].outputs[-1]["data"]["text/plain"]
    assert "'equal'" in verdicts and "'different'" not in verdicts
