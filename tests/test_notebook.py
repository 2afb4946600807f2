"""The notebook runs from top to bottom."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from python_server import python_command

NOTEBOOK = Path(__file__).parents[1] / "recipes" / "tour.ipynb"
# The kernel ends itself when its parent is not the one that this variable names, and it is the server's child.
KERNEL = "import os; del os.environ['JPY_PARENT_PID']; from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"


@pytest.fixture
def kernel(tmp_path, monkeypatch) -> str:
    """The name of a kernel with torch and transformers imported."""
    file = tmp_path / "jupyter/kernels/started/kernel.json"
    file.parent.mkdir(parents=True)
    argv = [*python_command(), KERNEL, "-f", "{connection_file}"]
    file.write_text(json.dumps({"argv": argv, "display_name": "Python", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return "started"


@pytest.mark.slow
def test_runs_from_top_to_bottom(kernel, tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    (training,) = [cell for cell in notebook.cells if '{"epochs": 8}' in cell.source]
    training.source = training.source.replace('{"epochs": 8}', '{"epochs": 1}')
    NotebookClient(notebook, timeout=600, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {kind for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs for kind in output.get("data", {})}
    assert {"image/png", "text/markdown"} <= shown
    printed = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "linear_top1" in printed and "knn_top1" in printed
    verdicts = notebook.cells[-1].outputs[-1]["data"]["text/plain"]
    assert "'equal'" in verdicts and "'different'" not in verdicts
