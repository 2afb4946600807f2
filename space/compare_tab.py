"""The tab "Compare": two models side by side, and what both make of an image."""

import gradio as gr
from board import Board
from compare_page import comparison
from curve_plots import CurvePlots
from events import BUSY
from html_parts import notice
from image_input import image_input
from try_tab import Trial


class CompareTab:
    """Builds the tab. models: the two dropdowns."""

    def __init__(self, board: Board, curves: CurvePlots, trial: Trial):
        self._board, self._curves, self._trial = board, curves, trial
        with gr.Tab("Compare", id="compare") as tab:
            with gr.Row():
                one = gr.Dropdown(label="One model", min_width=300, elem_id="one-name")
                other = gr.Dropdown(label="Another model", min_width=300, elem_id="other-name")
            page = gr.HTML(elem_id="compare-page", padding=False)
            plots = self._curves.row()
            gr.HTML("<h3>What both make of an image</h3>", padding=False)
            with gr.Row():
                with gr.Column(scale=1, min_width=260):
                    upload = image_input("An image for both, 10 MB at most", "compare-image", tab)
                answers = []
                for side in ("one", "other"):
                    with gr.Column(scale=2, min_width=300):
                        answers.append(gr.HTML(elem_id=f"near-{side}", padding=False))
        self.models = [one, other]
        gr.on((tab.select, one.input, other.input), self._compare, self.models, [page, *plots], **BUSY)
        gr.on((upload.change, one.input, other.input), self._inspect, [*self.models, upload], answers, **BUSY)

    def _compare(self, one: str | None, other: str | None) -> tuple:
        entries = self._board.current().entries
        if one not in entries or other not in entries:
            return notice("Choose two models."), *self._curves.none()
        plots, notices = self._curves.of([entries[one], entries[other]])
        return comparison(entries[one], entries[other]) + notices, *plots

    def _inspect(self, one: str | None, other: str | None, upload: str | None) -> tuple[str, str]:
        if upload is None:
            return notice("Choose an image to see its neighbours by both models."), ""
        return self._trial.show(one, upload, True), self._trial.show(other, upload, True)
