"""The Space: a leaderboard of the zoo's models. It holds no token, runs no repository's code, and accepts nothing but image uploads."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from contextlib import suppress
from pathlib import Path
from threading import Event

import gradio as gr
from board import Board, Listing
from figures import Curve, accuracy_figure, cost_figure, loss_figure
from inspector import Inspector
from lru_cache import LRUCache
from model_files import fetch_curves
from pages import SORTING, comparison, inspection, leaderboard, notice, quarantine, summary
from plotly.graph_objects import Figure
from table import benchmark, columns, filter_rows, make_table, percentage, splits

from sslzoo.errors import InputError
from sslzoo.hub import KNN_SETTING, Entry

_HEADER = """
<header class="top"><h1>sslzoo</h1><p>Self-supervised vision models by one code base: each number with its protocol, each curve as it was
logged.</p></header>
"""
_ABOUT = """
Accuracies are top-1 in percent, as each model's card has them; *Reference* is the number of the page that the recipe repeats. *kNN* is
k = 200 at temperature 0.1. Numbers of different protocols, settings or splits never share a column. Click a heading to sort.
"""
_THEME = gr.themes.Base(
    primary_hue="blue", neutral_hue="slate", radius_size="md", font=("system-ui", "-apple-system", "Segoe UI", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
).set(
    body_background_fill="#ffffff", body_background_fill_dark="#0f1318", block_background_fill_dark="#0f1318", block_border_width="0px",
    block_shadow="none", block_label_background_fill="transparent", body_text_color_subdued="#57606a",
    body_text_color_subdued_dark="#9aa4af",
)  # fmt: skip
# always_last: by default Gradio drops a choice that is made while the previous one is being processed.
_QUIET = {"api_visibility": "private", "trigger_mode": "always_last", "show_progress": "hidden"}
_BUSY = {**_QUIET, "show_progress": "minimal"}


def build(board: Board) -> gr.Blocks:
    """The page with its tabs and events."""
    inspector, cached_curves = Inspector(), LRUCache(64)

    def load_curves(entry: Entry) -> dict[str, Curve]:
        return cached_curves.get((entry.name, entry.weights_sha256), lambda: fetch_curves(entry))

    def load_page():
        listing = board.current()
        entries = listing.entries.values()
        names = list(listing.entries)
        rows = [(entry, split) for entry in entries for split in splits(entry)]
        choices = (
            {benchmark(entry, split) for entry, split in rows}, {entry.method for entry in entries}, {entry.encoder for entry in entries},
            {entry.start for entry in entries}, {entry.epochs for entry in entries},
        )  # fmt: skip
        models = [gr.Dropdown(choices=names, value=names[min(index, len(names) - 1)] if names else None) for index in (0, 0, 0, 1)]
        return [
            *(gr.Dropdown(choices=sorted(values), value=[]) for values in choices), *show_table(listing, rows), *models,
            gr.Tab(visible=bool(listing.quarantined)), quarantine(listing.quarantined),
        ]  # fmt: skip

    def apply_filters(*filters: list):
        listing = board.current()
        return show_table(listing, filter_rows(listing.entries.values(), *filters))

    def show_table(listing: Listing, rows: list[tuple[Entry, str]]):
        status = f"{len(rows)} of {len(listing.entries)} models. From {listing.source}." if rows else "No model passes these filters."
        status = status if listing.entries else f"No models yet. From {listing.source}."
        return status, leaderboard(*make_table(rows)), _cost_plot(rows)

    def show_model(name: str | None):
        entry = board.current().entries.get(name)
        if entry is None:
            return notice("Choose a model."), *_hidden_plots(2)
        try:
            curves = {entry.name: load_curves(entry)}
        except InputError as error:
            return summary(entry) + notice(f"No curves: {error}."), *_hidden_plots(2)
        return summary(entry), *_plots(curves)

    def inspect(name: str | None, upload: str | None, heading: bool = False) -> str:
        entry = board.current().entries.get(name)
        if entry is None or upload is None:
            return notice("Choose a model and upload an image: it is not kept.")
        try:
            return inspection(inspector.inspect(entry, upload), entry.name if heading else None)
        except InputError as error:
            return notice(f"{error}.")

    def compare(one: str | None, other: str | None):
        entries = board.current().entries
        if one not in entries or other not in entries:
            return notice("Choose two models."), *_hidden_plots(2)
        curves, notices = {}, ""
        for entry in (entries[one], entries[other]):
            try:
                curves[entry.name] = load_curves(entry)
            except InputError as error:
                notices += notice(f"No curves: {error}.")
        return comparison(entries[one], entries[other]) + notices, *_plots(curves)

    def inspect_both(one: str | None, other: str | None, upload: str | None):
        if upload is None:
            return notice("Upload an image to see its neighbours by both models."), ""
        return inspect(one, upload, True), inspect(other, upload, True)

    with gr.Blocks(title="sslzoo leaderboard", analytics_enabled=False, delete_cache=(300, 600)) as page:
        gr.HTML(_HEADER, padding=False)
        with gr.Tabs():
            with gr.Tab("Leaderboard", id="leaderboard"):
                with gr.Row(elem_classes="filters"):
                    filters = [
                        gr.Dropdown(multiselect=True, label=label, min_width=150, elem_id=f"filter-{label.split()[0].lower()}")
                        for label in ("Data set", "Method", "Encoder", "Starts from", "Epochs")
                    ]  # fmt: skip
                count = gr.Markdown(elem_id="count")
                models = gr.HTML(elem_id="models", padding=False, apply_default_css=False, js_on_load=SORTING)
                gr.Markdown(_ABOUT, elem_classes="about")
                cost = gr.Plot(show_label=False, elem_id="cost", buttons=[])
            with gr.Tab("Model", id="model") as model_tab:
                model = gr.Dropdown(label="Model", elem_id="model-name")
                model_page = gr.HTML(elem_id="model-page", padding=False)
                model_plots = _plot_row()
            with gr.Tab("Try it", id="try"), gr.Row():
                with gr.Column(scale=1, min_width=260):
                    try_model = gr.Dropdown(label="Model", elem_id="try-name")
                    try_upload = _upload("Image, 10 MB at most", "try-image")
                with gr.Column(scale=3, min_width=300):
                    try_page = gr.HTML(notice("Choose a model and upload an image: it is not kept."), elem_id="try-page", padding=False)
            with gr.Tab("Compare", id="compare") as compare_tab:
                with gr.Row():
                    with gr.Column(min_width=260):
                        one = gr.Dropdown(label="One model", elem_id="one-name")
                        other = gr.Dropdown(label="Another model", elem_id="other-name")
                    compare_upload = _upload("Image for both, 10 MB at most", "compare-image")
                compare_page = gr.HTML(elem_id="compare-page", padding=False)
                compare_plots = _plot_row()
                neighbours = []
                with gr.Row():
                    for side in ("one", "other"):
                        with gr.Column(min_width=300):
                            neighbours.append(gr.HTML(elem_id=f"near-{side}", padding=False))
            with gr.Tab("Quarantine", id="quarantine", visible=False) as quarantine_tab:
                quarantined = gr.HTML(elem_id="quarantined", padding=False)

        table = [count, models, cost]
        page.load(load_page, None, [*filters, *table, model, try_model, one, other, quarantine_tab, quarantined], **_QUIET)
        for dropdown in filters:
            dropdown.input(apply_filters, filters, table, **_QUIET)
        gr.on((model_tab.select, model.input), show_model, model, [model_page, *model_plots], **_BUSY)
        gr.on((try_model.input, try_upload.input), inspect, [try_model, try_upload], try_page, **_BUSY)
        gr.on((compare_tab.select, one.input, other.input), compare, [one, other], [compare_page, *compare_plots], **_BUSY)
        gr.on((compare_upload.input, one.input, other.input), inspect_both, [one, other, compare_upload], neighbours, **_BUSY)
    return page


def serve(board: Board, **arguments) -> str:
    """Starts the page; returns its address. arguments: passed on to `gr.Blocks.launch`."""
    page = build(board).queue(max_size=20, default_concurrency_limit=2, api_open=False)
    return page.launch(
        max_file_size="10mb", strict_cors=True, ssr_mode=False, share=False, footer_links=[], theme=_THEME,
        css_paths=Path(__file__).with_name("style.css"), quiet=True, **arguments,
    )[1]  # fmt: skip


def _upload(label: str, name: str) -> gr.Image:
    """An image input that gives events the path of the uploaded file."""
    image = gr.Image(type="filepath", sources=["upload"], image_mode=None, label=label, height=220, buttons=[], elem_id=name)
    # Else Gradio opens the file before `uploads.open_upload` does, and has no clear message for one that is not an image.
    image.preprocess = lambda payload: payload.path if payload else None
    return image


def _plot_row() -> list[gr.Plot]:
    with gr.Row():
        return [gr.Plot(show_label=False, min_width=320, buttons=[]) for _ in range(2)]


def _plots(curves: dict[str, dict[str, Curve]]) -> list[dict]:
    figures = (loss_figure(curves), accuracy_figure(curves))
    return [gr.Plot(value=figure, visible=True) if figure.data else gr.Plot(visible=False) for figure in figures]


def _hidden_plots(count: int) -> list[dict]:
    return [gr.Plot(visible=False) for _ in range(count)]


def _cost_plot(rows: list[tuple[Entry, str]]) -> Figure | None:
    points = []
    for entry, split in rows:
        for column in columns([entry]):
            percent = percentage(entry, column, split)
            if column.metric == "knn_top1" and column.setting == KNN_SETTING and percent is not None:
                points.append((entry.name, benchmark(entry, split), entry.device_hours, percent, entry.hardware))
    return cost_figure(points) if points else None


if __name__ == "__main__":
    print(f"The leaderboard is at {serve(Board(), prevent_thread_lock=True)} (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        Event().wait()
