"""What the commands share on the console: one process of a launch prints, and the libraries' progress bars are hidden."""

import os
import sys


def is_main_process() -> bool:
    """From the launcher's environment, as the processes may not be connected yet."""
    return int(os.environ.get("RANK", 0)) == 0


def hide_progress_bars() -> None:
    """Hides the progress bars of transformers and datasets, which would disturb ours."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # Read by datasets when it is imported, which takes a second and which not every command does.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
