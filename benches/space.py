"""The Space's first page in a browser: seconds from the request to the visible leaderboard, nothing cached, and what is transferred.

    python benches/space.py                              this Space, and a page of Gradio's with one line of HTML
    python benches/space.py --space space ../old/space   two states of the Space, load by load in turn

Needs chromium and sslzoo's development packages. The Hub cannot be reached, so the cards that come with sslzoo are listed.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, sync_playwright

_EMPTY = """
import gradio as gr
with gr.Blocks(analytics_enabled=False) as page:
    gr.HTML('<div id="models"><table><tr><td><a>One line</a></td></tr></table></div>')
print(page.launch(server_name="127.0.0.1", prevent_thread_lock=True, ssr_mode=False, quiet=True)[1], flush=True)
input()
"""
_TRANSFERRED = """() => {
  const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  return [entries.length, entries.reduce((sum, entry) => sum + entry.transferSize, 0)];
}"""


class Load(NamedTuple):
    """Of one visit. requests, bytes: until the leaderboard is visible; bytes_in_all: until nothing more is requested."""

    seconds: float
    requests: int
    bytes: int
    bytes_in_all: int


@contextmanager
def serving(*command: str | Path) -> Iterator[str]:
    """The address that a server prints, which ends with the block."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "GRADIO_SERVER_NAME": "127.0.0.1"}
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        try:
            found = re.search(r"http://\S+?:\d+/?", process.stdout.readline())
            if not found:
                raise SystemExit(f"{command[0]} printed no address")
            yield found[0]
        finally:
            process.kill()


def visit(browser: Browser, address: str, width: int) -> Load:
    """Opens the page with an empty cache."""
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(120_000)
    begun = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator("#models td a").first.wait_for(state="visible")
    seconds = time.perf_counter() - begun
    requests, transferred = page.evaluate(_TRANSFERRED)
    seen = 0
    while (now := page.evaluate(_TRANSFERRED)[0]) > seen:  # "networkidle" never comes: Gradio keeps a connection open
        seen = now
        page.wait_for_timeout(1500)
    load = Load(seconds, requests, transferred, page.evaluate(_TRANSFERRED)[1])
    page.context.close()
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, nargs="+", default=[Path(__file__).parents[1] / "space"], metavar="FOLDER")
    parser.add_argument("--loads", type=int, default=5, help="of each page")
    parser.add_argument("--width", type=int, default=1440, help="px")
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    options = parser.parse_args()
    with ExitStack() as stack:
        pages = {f"{folder}": stack.enter_context(serving(folder / "app.py")) for folder in options.space}
        pages["empty page"] = stack.enter_context(serving("-c", _EMPTY))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--disable-background-networking"])
        loads: dict[str, list[Load]] = {name: [] for name in pages}
        for _ in range(options.loads):
            for name, address in pages.items():
                loads[name].append(visit(browser, address, options.width))
        browser.close()
    for name, found in loads.items():
        median, seconds = Load(*map(statistics.median, zip(*found, strict=True))), [load.seconds for load in found]
        print(
            f"{name:32} visible after {median.seconds:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {median.requests:.0f} requests, "
            f"{median.bytes / 1024:,.0f} KiB; {median.bytes_in_all / 1024:,.0f} KiB in all"
        )  # fmt: skip


if __name__ == "__main__":
    main()
