"""How the tabs' events behave: `QUIET` ones at once, `BUSY` ones with a sign that something is being computed."""

from pathlib import Path

# always_last: by default Gradio drops a choice that is made while the previous one is being processed.
QUIET = {"api_visibility": "private", "trigger_mode": "always_last", "show_progress": "hidden"}
BUSY = {**QUIET, "show_progress": "minimal"}
# Events that fill the same components run one after another: what was requested last is what stays.
LISTING = {**QUIET, "concurrency_id": "listing", "concurrency_limit": 1}
MODEL = {**BUSY, "concurrency_id": "model", "concurrency_limit": 1}


def script(name: str) -> str:
    """The text of a file of JavaScript."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
