"""The tab "Model": one model's numbers, how to load it, its curves, its neighbours and its relatives."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import gradio as gr
from board import Board
from curve_plots import CurvePlots
from events import MODEL, script
from html_parts import notice
from model_files import fetch_neighbours
from model_page import facts, headline, loading_code, measurements, relatives
from table import make_tables, splits

from sslzoo.errors import InputError
from sslzoo.hub import Entry


def best_model(entries: Iterable[Entry]) -> str | None:
    """The name of the first of the project's own models on the leaderboard, of any if it has none; None where there is no model.

    What a stranger claims is in the table, but is not what the page opens on.
    """
    tables = make_tables([(entry, split) for entry in entries for split in splits(entry)])
    ranked = [row.entry for table in tables for row in table.rows]
    return next((entry.name for entry in sorted(ranked, key=lambda entry: not entry.own)), None)


class ModelTab:
    """Builds the tab. model: its dropdown; outputs: the components of `show`; relatives: HTML whose "select" event names a model."""

    def __init__(self, board: Board, curves: CurvePlots):
        self._board, self._curves = board, curves
        with gr.Tab("Model", id="model") as tab:
            self.model = gr.Dropdown(label="Model", elem_id="model-name")
            top = gr.HTML(elem_id="model-page", padding=False)
            code = gr.Code(
                language="python", label="Load it", buttons=["copy"], show_line_numbers=False, lines=3, wrap_lines=True,
                visible=False, elem_id="model-code",
            )  # fmt: skip
            notices = gr.HTML(elem_id="model-notices", padding=False)
            plots = self._curves.row()
            neighbours = gr.Image(
                show_label=False, alt_text="Test images and their nearest training images", buttons=["fullscreen"],
                visible=False, elem_id="model-neighbours",
            )  # fmt: skip
            self.relatives = gr.HTML(elem_id="model-relatives", padding=False, js_on_load=script("model_link.js"))
            with gr.Accordion("Every number, with how it was measured", open=False, elem_id="model-numbers"):
                numbers = gr.HTML(padding=False)
            with gr.Accordion("How it was trained", open=False, elem_id="model-facts"):
                training = gr.HTML(padding=False)
        self.outputs = [top, code, notices, *plots, neighbours, self.relatives, numbers, training]
        gr.on((tab.select, self.model.input), self.show, self.model, self.outputs, **MODEL)

    def show(self, name: str | None) -> tuple:
        entries = self._board.current().entries
        entry = entries.get(name)
        if entry is None:
            return notice("Choose a model."), gr.Code(visible=False), "", *self._curves.none(), gr.Image(visible=False), "", "", ""
        tables = make_tables([(one, split) for one in entries.values() for split in splits(one)])
        plots, notices = self._curves.of([entry])
        with tempfile.TemporaryDirectory() as folder:
            try:
                neighbours = gr.Image(value=fetch_neighbours(entry, Path(folder)), visible=True)
            except InputError:
                neighbours = gr.Image(visible=False)
        return (
            headline(entry, tables), gr.Code(value=loading_code(entry), visible=True), notices, *plots, neighbours,
            relatives(entry, tables), measurements(entry), facts(entry),
        )  # fmt: skip
