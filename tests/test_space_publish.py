"""The Space on a Hub on loopback: what is committed, and that pip takes sslzoo from there, with no index."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import HfApi

import sslzoo
from sslzoo.errors import InputError, PublishError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "space"))

from publish import publish  # noqa: E402

ADA = "hf_adas_secret"
WHEEL = f"sslzoo-{sslzoo.__version__}-py3-none-any.whl"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on loopback
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer({ADA: "ada", "hf_eve": "eve"}) as server:
        yield server


def test_the_published_space_installs_sslzoo_from_its_own_commit(server, tmp_path):
    api = HfApi(server.url, ADA)
    assert publish(api, "ada/board") == f"{server.url}/spaces/ada/board"
    newest, *older = server.repository("ada/board", "spaces").history()
    assert len(older) == 1 and newest.title == "Publish the Space", "one commit behind the new repository's own"
    files = server.files("ada/board", "spaces")
    assert {"app.py", "README.md", "style.css", "samples/flower.jpg", WHEEL, "requirements.txt"} < files.keys()
    assert not [name for name in files if "__pycache__" in name or name == "publish.py"]
    first, *pins = files["requirements.txt"].decode().splitlines()
    address = f"{server.url}/spaces/ada/board/resolve/main/{WHEEL}#sha256={hashlib.sha256(files[WHEEL]).hexdigest()}"
    assert first == f"sslzoo @ {address}"
    tested = [line.partition("+")[0].replace("_", "-").lower() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert {"torch", "plotly", "transformers", "simplejpeg"} < {pin.partition("==")[0] for pin in pins}
    assert {pin.replace("_", "-") for pin in pins} <= set(tested), "the versions that the tests ran with"
    gradio = yaml.safe_load(files["README.md"].decode().split("---")[1])["sdk_version"]
    assert f"gradio=={gradio}" in tested
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir"]
    download = [*pip, "download", "--no-deps", "--no-index", "--dest", tmp_path, first]
    done = subprocess.run(download, capture_output=True, text=True, env=server.environment(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / WHEEL).read_bytes() == files[WHEEL]


def test_a_space_that_pip_could_not_read_or_that_is_not_ones_own_is_refused(server):
    server.add("ada/hidden", {"README.md": ""}, "spaces", private=True)
    with pytest.raises(PublishError, match="ada/hidden is private"):
        publish(HfApi(server.url, ADA), "ada/hidden")
    with pytest.raises(InputError, match="unknown namespace of yours 'ada'"):
        publish(HfApi(server.url, "hf_eve"), "ada/board")
    assert set(server.files("ada/hidden", "spaces")) == {"README.md"} and len(server.repositories) == 1
