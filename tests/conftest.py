"""Before anything of Hugging Face is imported: no network, no telemetry, and no cache but the tests' own."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="sslzoo-tests-")
# Small nets run faster on one thread, and two processes then have a core each.
os.environ["OMP_NUM_THREADS"] = "1"
