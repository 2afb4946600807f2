"""The tab "Leaderboard": filters, a table for each data set, and accuracy against time."""

from html import escape

import gradio as gr
from board import Board, Listing
from events import LISTING, QUIET, script
from figures import cost_figure
from leaderboard_page import FEW, few_models, leaderboard
from table import benchmark, filter_rows, make_tables, splits

_ABOUT = """<p>
Accuracies are top-1 in percent, as each model's card has them; <em>kNN</em> is k = 200 at temperature 0.1, <em>vs page</em> the difference
from the number of the page that the recipe repeats. Numbers of different data sets, splits, protocols or settings are never ranked
together.
</p>"""
_IN_PAGE = 100  # models at most whose tables are part of the page itself, so that they show before the first event has been answered
_FILTERS = ("Data set", "Method", "Encoder", "Starts from", "Epochs")


class LeaderboardTab:
    """Builds the tab.

    filters: the components whose choices `choices` gives; inputs, outputs: those whose values `show` takes and gives; models: its tables,
    whose "select" event names a model. The plot is drawn once the end of the tables is seen: its code is four times as much as that of all
    else on the first page.
    """

    def __init__(self, board: Board):
        self._board = board
        listing, first_count, first_tables, first_few = board.current(), "", "", ""
        if len(listing.entries) <= _IN_PAGE:
            first_count, first_tables, first_few = self._show(listing, "", *([] for _ in _FILTERS))
        with gr.Tab("Leaderboard", id="leaderboard"):
            with gr.Row(elem_classes="filters"):
                name = gr.Textbox(label="Search", placeholder="Part of a name", min_width=150, elem_id="search")
                self.filters = [
                    gr.Dropdown(multiselect=True, label=label, min_width=150, elem_id=f"filter-{label.split()[0].lower()}")
                    for label in _FILTERS
                ]  # fmt: skip
            with gr.Row(elem_classes="status"):
                count = gr.HTML(first_count, elem_id="count", padding=False)
                download = gr.Button("Download CSV", size="sm", scale=0, min_width=140, elem_id="download")
            self.models = gr.HTML(
                first_tables, elem_id="models", padding=False, apply_default_css=False,
                js_on_load=script("model_link.js") + script("leaderboard.js"),
            )  # fmt: skip
            gr.HTML(_ABOUT, elem_classes="about", padding=False)
            cost = gr.Plot(show_label=False, elem_id="cost", buttons=[], visible=False)
            few = gr.HTML(first_few, elem_id="few", padding=False)
        self.inputs, self.outputs = [name, *self.filters], [count, self.models, few]
        gr.on([name.change, *(one.input for one in self.filters)], self.show, self.inputs, self.outputs, **LISTING)
        self.models.expand(self._plot, self.inputs, cost, **QUIET)
        download.click(None, None, None, js=script("download.js"), api_visibility="private")

    def choices(self, listing: Listing) -> list[gr.Dropdown]:
        entries = listing.entries.values()
        values = (
            {benchmark(entry, split) for entry in entries for split in splits(entry)}, {entry.method for entry in entries},
            {entry.encoder for entry in entries}, {entry.start for entry in entries}, {entry.epochs for entry in entries},
        )  # fmt: skip
        return [gr.Dropdown(choices=sorted(one)) for one in values]

    def show(self, *filters) -> tuple:
        return self._show(self._board.current(), *filters)

    def _show(self, listing: Listing, *filters) -> tuple:
        rows = filter_rows(listing.entries.values(), *filters)
        shown = len({entry.name for entry, _ in rows})
        status = f"{shown} of {len(listing.entries)} models. From {listing.source}." if rows else "No model passes these filters."
        status = status if listing.entries else f"No models yet. From {listing.source}."
        tables = make_tables(rows)
        return f"<p>{escape(status)}</p>", leaderboard(tables), few_models(tables)

    def _plot(self, *filters) -> gr.Plot:
        tables = make_tables(filter_rows(self._board.current().entries.values(), *filters))
        plotted = [table for table in tables if table.columns and sum(row.values[0] is not None for row in table.rows) >= FEW]
        return gr.Plot(value=cost_figure(plotted), visible=True) if plotted else gr.Plot(visible=False)
