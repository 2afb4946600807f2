"""The Space: a leaderboard of the zoo's models. It holds no token, runs no repository's code, and accepts nothing but image uploads."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from contextlib import suppress
from pathlib import Path
from threading import Event

import gradio as gr
from board import Board, Listing
from compare_tab import CompareTab
from curve_plots import CurvePlots
from events import LISTING, MODEL, QUIET, script
from leaderboard_page import quarantine
from leaderboard_tab import LeaderboardTab
from model_tab import ModelTab, best_model
from try_tab import Trial, TryTab

_HEADER = """
<header class="top"><h1>sslzoo</h1><p>Self-supervised vision models by one code base: each number with its protocol, each curve as it was
logged.</p></header>
"""
_THEME = gr.themes.Base(
    primary_hue="blue", neutral_hue="slate", radius_size="md", font=("system-ui", "-apple-system", "Segoe UI", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
).set(
    body_background_fill="#ffffff", body_background_fill_dark="#0f1318", block_background_fill_dark="#0f1318", block_border_width="0px",
    block_shadow="none", block_label_background_fill="transparent", body_text_color_subdued="#57606a",
    body_text_color_subdued_dark="#9aa4af",
)  # fmt: skip


def build(board: Board) -> gr.Blocks:
    """The page with its tabs and events."""
    curves, trial = CurvePlots(), Trial(board)
    with gr.Blocks(title="sslzoo leaderboard", analytics_enabled=False, delete_cache=(300, 600)) as page:
        gr.HTML(_HEADER, padding=False)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            leaderboard_tab = LeaderboardTab(board)
            model_tab = ModelTab(board, curves)
            try_tab = TryTab(trial)
            compare_tab = CompareTab(board, curves, trial)
            with gr.Tab("Quarantine", id="quarantine", visible=False) as quarantine_tab:
                quarantined = gr.HTML(elem_id="quarantined", padding=False)

        def load(request: gr.Request) -> list:
            listing, linked = board.current(), request.query_params.get("model")
            if linked and linked not in listing.entries:
                listing = board.wait_for_hub()  # which may have it
            names, best = list(listing.entries), best_model(listing.entries.values())
            chosen = linked if linked in listing.entries else best
            second = next((name for name in names if name != best), best)
            return [
                listing.source, *leaderboard_tab.choices(listing), *quarantine_of(listing),
                *(gr.Dropdown(choices=names, value=value) for value in (chosen, chosen, best, second)),
                gr.Tabs(selected="model") if linked in listing.entries else gr.skip(),
            ]  # fmt: skip

        def load_hub(source: str) -> list:
            """What the Hub lists, where the page was loaded before it answered; choices that were made since stay."""
            listing = board.current()
            if listing.source == source:
                return [gr.skip()] * (len(listed) + len(models))
            names = list(listing.entries)
            choices = [gr.Dropdown(choices=names) for _ in models]
            return [listing.source, *leaderboard_tab.choices(listing), *quarantine_of(listing), *choices]

        def wait_for_hub() -> None:
            board.wait_for_hub()

        def quarantine_of(listing: Listing) -> tuple:
            return gr.Tab(visible=bool(listing.quarantined)), quarantine(listing.quarantined)

        def show_linked(name: str | None, request: gr.Request) -> tuple:
            return model_tab.show(name) if name and request.query_params.get("model") == name else (gr.skip(),) * len(model_tab.outputs)

        def open_model(event: gr.EventData) -> tuple:
            return gr.Tabs(selected="model"), event.model

        models = [model_tab.model, try_tab.model, *compare_tab.models]
        source = gr.State("")  # of the listing that is shown
        listed = [source, *leaderboard_tab.filters, quarantine_tab, quarantined]
        loaded = page.load(load, None, [*listed, *models, tabs], **QUIET)
        loaded.then(show_linked, model_tab.model, model_tab.outputs, **MODEL)
        waited = loaded.then(wait_for_hub, concurrency_limit=None, **QUIET)
        hub_loaded = waited.then(load_hub, source, [*listed, *models], **QUIET)
        for event in (loaded, hub_loaded):  # an event of its own, as the filters are read when an event begins
            event.then(leaderboard_tab.show, leaderboard_tab.inputs, leaderboard_tab.outputs, **LISTING)
        page.load(None, None, None, js=script("tabs.js"), api_visibility="private")
        for links in (leaderboard_tab.models, model_tab.relatives):
            opened = links.select(open_model, None, [tabs, model_tab.model], **QUIET)
            opened.then(model_tab.show, model_tab.model, model_tab.outputs, **MODEL)
            opened.then(None, model_tab.model, None, js=script("address.js"), api_visibility="private")
        model_tab.model.input(None, model_tab.model, None, js=script("address.js"), api_visibility="private")
    return page


def serve(board: Board, **arguments) -> str:
    """Starts the page; returns its address. arguments: passed on to `gr.Blocks.launch`."""
    page = build(board).queue(max_size=20, default_concurrency_limit=2, api_open=False)
    return page.launch(
        max_file_size="10mb", strict_cors=True, ssr_mode=False, share=False, footer_links=[], theme=_THEME,
        css_paths=Path(__file__).with_name("style.css"), quiet=True, **arguments,
    )[1]  # fmt: skip


if __name__ == "__main__":
    print(f"The leaderboard is at {serve(Board(), prevent_thread_lock=True)} (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        Event().wait()
