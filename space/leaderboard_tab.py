"""The tab "Leaderboard": filters, a table for each data set, and accuracy against time."""

import gradio as gr
from board import Board, Listing
from events import QUIET, script
from figures import cost_figure
from leaderboard_page import FEW, few_models, leaderboard
from table import benchmark, filter_rows, make_tables, splits

_ABOUT = """
Accuracies are top-1 in percent, as each model's card has them; *kNN* is k = 200 at temperature 0.1, *vs page* the difference from the
number of the page that the recipe repeats. Numbers of different data sets, splits, protocols or settings are never ranked together.
"""
_FILTERS = ("Data set", "Method", "Encoder", "Starts from", "Epochs")


class LeaderboardTab:
    """Builds the tab.

    inputs, outputs: the components whose values `load` takes and gives; models: its tables, whose "select" event names a model.
    """

    def __init__(self, board: Board):
        self._board = board
        with gr.Tab("Leaderboard", id="leaderboard"):
            with gr.Row(elem_classes="filters"):
                name = gr.Textbox(label="Search", placeholder="Part of a name", min_width=150, elem_id="search")
                filters = [
                    gr.Dropdown(multiselect=True, label=label, min_width=150, elem_id=f"filter-{label.split()[0].lower()}")
                    for label in _FILTERS
                ]  # fmt: skip
            with gr.Row(elem_classes="status"):
                count = gr.Markdown(elem_id="count")
                download = gr.Button("Download CSV", size="sm", scale=0, min_width=140, elem_id="download")
            self.models = gr.HTML(
                elem_id="models", padding=False, apply_default_css=False, js_on_load=script("model_link.js") + script("leaderboard.js")
            )
            gr.Markdown(_ABOUT, elem_classes="about")
            cost = gr.Plot(show_label=False, elem_id="cost", buttons=[])
            few = gr.HTML(elem_id="few", padding=False)
        table = [count, self.models, cost, few]
        self.inputs, self.outputs = [name, *filters], [*filters, *table]
        gr.on([name.change, *(dropdown.input for dropdown in filters)], self._filter, self.inputs, table, **QUIET)
        download.click(None, None, None, js=script("download.js"), api_visibility="private")

    def load(self, listing: Listing, *filters) -> list:
        entries = listing.entries.values()
        rows = [(entry, split) for entry in entries for split in splits(entry)]
        choices = (
            {benchmark(entry, split) for entry, split in rows}, {entry.method for entry in entries}, {entry.encoder for entry in entries},
            {entry.start for entry in entries}, {entry.epochs for entry in entries},
        )  # fmt: skip
        return [*(gr.Dropdown(choices=sorted(values)) for values in choices), *self._show(listing, *filters)]

    def _filter(self, *filters) -> tuple:
        return self._show(self._board.current(), *filters)

    def _show(self, listing: Listing, *filters) -> tuple:
        rows = filter_rows(listing.entries.values(), *filters)
        shown = len({entry.name for entry, _ in rows})
        status = f"{shown} of {len(listing.entries)} models. From {listing.source}." if rows else "No model passes these filters."
        status = status if listing.entries else f"No models yet. From {listing.source}."
        tables = make_tables(rows)
        plotted = [table for table in tables if table.columns and sum(row.values[0] is not None for row in table.rows) >= FEW]
        plot = gr.Plot(value=cost_figure(plotted), visible=True) if plotted else gr.Plot(visible=False)
        return status, leaderboard(tables), plot, few_models(tables)
