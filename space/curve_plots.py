"""Plots of the curves that were logged while models were trained: loss, and kNN accuracy."""

import gradio as gr
from figures import Curve, accuracy_figure, loss_figure
from html_parts import notice
from lru_cache import LRUCache
from model_files import fetch_curves

from sslzoo.errors import InputError
from sslzoo.hub import Entry


class CurvePlots:
    """Keeps the curves of the models that were shown last."""

    def __init__(self):
        self._cached = LRUCache(64)

    def row(self) -> list[gr.Plot]:
        """The components for a plot of losses and one of accuracies."""
        with gr.Row():
            return [gr.Plot(show_label=False, min_width=320, buttons=[], visible=False) for _ in range(2)]

    def of(self, entries: list[Entry]) -> tuple[list[gr.Plot], str]:
        """New values for `row`, and notices about models without curves."""
        curves, notices = {}, ""
        for entry in entries:
            try:
                curves[entry.name] = self._load(entry)
            except InputError as error:
                notices += notice(f"No curves: {error}.")
        if not curves:
            return self.none(), notices
        figures = loss_figure(curves, {entry.name: entry.method for entry in entries}), accuracy_figure(curves)
        return [gr.Plot(value=figure, visible=True) if figure.data else gr.Plot(visible=False) for figure in figures], notices

    def none(self) -> list[gr.Plot]:
        return [gr.Plot(visible=False) for _ in range(2)]

    def _load(self, entry: Entry) -> dict[str, Curve]:
        return self._cached.get((entry.name, entry.weights_sha256), lambda: fetch_curves(entry))
