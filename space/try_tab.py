"""The tab "Try it": what a model makes of a visitor's image."""

import gradio as gr
from board import Board
from events import BUSY
from html_parts import notice
from image_input import image_input
from inspection_page import inspection
from lru_cache import LRUCache

from sslzoo.errors import InputError

_ASK = "Choose a model and an image: it is not kept."


class Trial:
    """Runs models on images. torch is imported for the first image: the page is there seconds earlier."""

    def __init__(self, board: Board):
        self._board, self._inspector = board, LRUCache(1)

    def show(self, name: str | None, upload: str | None, heading: bool = False) -> str:
        entry = self._board.current().entries.get(name)
        if entry is None or upload is None:
            return notice(_ASK)
        try:
            found = self._inspector.get("inspector", _make_inspector).inspect(entry, upload)
        except InputError as error:
            return notice(f"{error}.")
        return inspection(found, entry.name if heading else None)


class TryTab:
    """Builds the tab."""

    def __init__(self, trial: Trial):
        with gr.Tab("Try it", id="try") as tab, gr.Row():
            with gr.Column(scale=1, min_width=260):
                self.model = gr.Dropdown(label="Model", elem_id="try-name")
                upload = image_input("An image, 10 MB at most", "try-image", tab)
            with gr.Column(scale=3, min_width=300):
                page = gr.HTML(notice(_ASK), elem_id="try-page", padding=False)
        gr.on((self.model.input, upload.change), trial.show, [self.model, upload], page, **BUSY)


def _make_inspector():
    from inspector import Inspector

    return Inspector()
