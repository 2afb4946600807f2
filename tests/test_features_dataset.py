"""Features that `sslzoo embed --push` uploads are a data set with a card, on a Hub on loopback."""

import io

import pyarrow.parquet as parquet
import pytest
import yaml
from hub_server import HubServer
from PIL import Image
from test_card import make_run

from sslzoo.cli import main
from sslzoo.errors import PublishError
from sslzoo.hub import publish_features, upload
from sslzoo.hub.front_matter import split_card

ADA = "hf_adas_secret"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(upload, "_DELAYS", (0, 0))
    with HubServer({ADA: ("ada", "sslzoo")}) as server:
        for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True), ("ENDPOINT", server.url)):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", ADA)
        yield server


def test_features_are_a_data_set_with_a_viewer_and_what_they_are_of(server, tmp_path, capsys):
    run, file = make_run(tmp_path / "run"), tmp_path / "features.parquet"
    arguments = ["embed", str(run.folder), "digits", "--output", str(file), "--cpu", "--push", "ada/digit-features"]
    assert main([*arguments, "--split", "test"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[-1] == f"{server.url}/datasets/ada/digit-features"
    server.add("ada/digit-features", {"data/train.parquet": b"of another split"}, "datasets")
    publish_features(file, "ada/digit-features", str(run.folder), "digits", "test")
    files = server.files("ada/digit-features", "datasets")
    assert files.keys() == {".gitattributes", "README.md", "data/test.parquet"}, "one split, the last one"
    assert files["data/test.parquet"] == file.read_bytes() and parquet.read_table(io.BytesIO(files["data/test.parquet"])).num_rows == 500
    front_matter, text = split_card(files["README.md"].decode())
    metadata = yaml.safe_load(front_matter)
    assert metadata["configs"] == [{"config_name": "default", "data_files": [{"split": "test", "path": "data/test.parquet"}]}]
    for fact in ("| Model | run |", f"| SHA-256 of its weights | {run.weights_sha256} |", "| Data set | digits |", "| Split | test |"):
        assert fact in text
    assert str(tmp_path) not in text and "a folder, not of the Hub" in text
    server.add("ada/other", {"README.md": "mine"}, "datasets")
    with pytest.raises(PublishError, match="did not make, nothing was uploaded"):
        publish_features(file, "ada/other", str(run.folder), "digits", "test")
    assert server.files("ada/other", "datasets") == {"README.md": b"mine"}


def test_features_of_private_data_need_the_user_s_word(server, tmp_path, capsys):
    (tmp_path / "pets").mkdir()
    for index in range(2):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(tmp_path / "pets" / f"{index}.png")
    run, file = make_run(tmp_path / "run"), tmp_path / "features.parquet"
    arguments = ["embed", str(run.folder), str(tmp_path / "pets"), "--output", str(file), "--cpu", "--push", "ada/pets"]
    assert main(arguments) == 2 and "'pets' is not known to be public" in capsys.readouterr().err
    assert not server.repositories and not file.exists(), "before anything is embedded"
    assert main([*arguments, "--of-private-data", "--private"]) == 0, capsys.readouterr().err
    assert server.repository("ada/pets", "datasets").private
    assert str(tmp_path).encode() not in server.files("ada/pets", "datasets")["README.md"]
