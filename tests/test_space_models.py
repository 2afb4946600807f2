"""The Space's "Try it" with encoders that are no short name of ours: runs that went on from published weights."""

import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path

import pytest
from families import FAMILIES, SIZE, random_encoder
from PIL import Image

from sslzoo.encoders import load_pretrained, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import Entry

sys.path.insert(0, str(Path(__file__).parents[1] / "space"))  # as when its app.py is run

from inspector import Inspector
from model_checks import checked_preprocessing


def published(folder, encoder):
    """A folder with the encoder, and the entry of its card."""
    to_plain(encoder).save_pretrained(folder)
    Preprocessing(SIZE, SIZE).write(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return Entry(
        name="ada/run", method="simclr", encoder="theirs", start="ada/theirs", dataset="digits", image_size=SIZE, epochs=1, batch_size=8,
        images=8, seconds=1.0, processes=1, hardware="none", reference={}, measurements=(), weights_sha256=digest, license="",
        downloads=None, created="", folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("image") / "red.png"
    Image.new("RGB", (40, 30), "red").save(file)
    return str(file)


@pytest.mark.parametrize(
    ("family", "second"), [("dinov2_with_registers", "Attention"), ("siglip", "Length"), ("swin", "Length"), ("convnext", "Length")]
)  # fmt: skip
def test_encoders_that_are_described_can_be_tried(family, second, tmp_path, image, monkeypatch):
    monkeypatch.setattr("inspector._BANK_SIZE", 12)
    inspection = Inspector().inspect(published(tmp_path, random_encoder(family)), image)
    assert len(inspection.neighbours) == 8 and len(inspection.maps) == 2 and inspection.maps[1][0].startswith(second)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_checks(family, tmp_path):
    entry = published(tmp_path, random_encoder(family))
    assert checked_preprocessing(tmp_path, entry) == Preprocessing.read(tmp_path)
    assert load_pretrained(tmp_path).device.type == "cpu", "and the encoder can still be made"


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("vit", {"model_type": "bert"}, "says model_type: bert, which this page does not run"),
        ("vit", {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil"}}, "says model_type: evil, which"),
        ("vit", {"hidden_size": 10**9}, "hidden_size 1000000000, more than"),
        ("vit", {"hidden_size": 60_000, "intermediate_size": 60_000}, "M parameters, this page takes 100 M at most"),
        ("vit", {"num_hidden_layers": 10**6}, "num_hidden_layers 1000000, more than"),
        ("vit", {"patch_size": 1, "image_size": 512}, "makes 262,144 patches"),
        ("beit", {"image_size": 60_000}, "says patch_size: 8, image_size: 60000"),
        ("dinov2", {"num_attention_heads": 0}, "describes no encoder that runs"),
        ("convnext", {"hidden_sizes": [4096, 8]}, "M parameters, this page"),
        ("resnet", {"hidden_sizes": [2, 2], "depths": [1, 60_000]}, "depths 60000, more than"),
    ],
)
def test_what_would_take_too_much_is_refused_before_it_is_built(family, change, said, tmp_path, image):
    entry = published(tmp_path, random_encoder(family))
    (tmp_path / "config.json").write_text(json.dumps({**json.loads((tmp_path / "config.json").read_text()), **change}))
    began = time.process_time()
    with pytest.raises(InputError, match=said):
        Inspector().inspect(entry, image)
    assert time.process_time() - began < 20


def test_an_encoder_that_computes_too_long_is_refused(tmp_path, image, monkeypatch):
    entry = published(tmp_path, random_encoder("vit"))
    for name, least in (("_MAX_FLOPS", 100_000), ("_MAX_ELEMENTS", 100)):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="GFLOPs an image, or too much memory for this page"):
            patch.setattr(f"model_checks.{name}", least)
            Inspector().inspect(entry, image)
    with pytest.raises(InputError, match="for images of 600 px, this page gives up to 512"):
        Inspector().inspect(dataclasses.replace(entry, image_size=600), image)
