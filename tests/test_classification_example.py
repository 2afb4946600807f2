"""`recipes/finetune_classifier.py`: from a published encoder to a classifier of plain transformers."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline
from transformers.utils import logging

from sslzoo.data import load_images
from sslzoo.encoders import build_encoder, encoder_config, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing

FILE = Path(__file__).parents[1] / "recipes" / "finetune_classifier.py"


@pytest.fixture
def finetune():
    verbosity = logging.get_verbosity()
    spec = spec_from_file_location("finetune_classifier", FILE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.main
    logging.set_verbosity(verbosity)


def published(folder, name, size):
    """As a run leaves it: with the block that says which method it was."""
    torch.manual_seed(0)
    encoder = to_plain(build_encoder(encoder_config(name, size)))
    encoder.config.sslzoo = {"model_type": "sslzoo-simclr"}
    encoder.save_pretrained(folder)
    Preprocessing(16, 16).write(folder)
    return folder


@pytest.mark.parametrize(("name", "size", "kind"), [("res6", 16, "SmallResNet"), ("res6", 96, "ResNet"), ("vit-xs4", 16, "ViT")])
def test_learns_and_leaves_what_the_plain_pipeline_loads(name, size, kind, finetune, tmp_path, capfd):
    folder, output = published(tmp_path / "encoder", name, size), tmp_path / "classifier"
    finetune([str(folder), "digits", str(output), "--epochs", "2", "--lr", "2e-3"])
    before, *_, after = (float(value) / 100 for value in re.findall(r"([\d.]+) %", capfd.readouterr().out))
    assert after > before + 0.2 or kind == "ViT", "which learns next to nothing in 40 steps"

    classify = pipeline("image-classification", model=str(output), device="cpu")
    assert type(classify.model).__name__ == f"{kind}ForImageClassification" and not hasattr(classify.model.config, "sslzoo")
    images = load_images("digits", "test", device=torch.device("cpu"))
    (batch,) = images.batches([torch.arange(500)])
    found = classify([Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in batch.pixels], batch_size=100, top_k=10)
    right = [answers[0]["label"] == str(label) for answers, label in zip(found, batch.labels.tolist(), strict=True)]
    assert sum(right) / 500 == pytest.approx(after, abs=1e-3)
    assert {answer["label"] for answer in found[0]} == {str(digit) for digit in range(10)}


@pytest.mark.parametrize(("name", "prefix"), [("res6", "resnet."), ("vit-xs4", "vit.")])
def test_starts_from_the_encoders_weights(name, prefix, finetune, tmp_path):
    """At a learning rate of 0 all of them are still there."""
    folder, output = published(tmp_path / "encoder", name, 16), tmp_path / "classifier"
    finetune([str(folder), "digits", str(output), "--epochs", "1", "--lr", "0", "--batch-size", "256"])
    theirs, ours = load_file(folder / "model.safetensors"), load_file(output / "model.safetensors")
    theirs = {key: value for key, value in theirs.items() if not key.startswith("pooler.")}
    assert theirs.keys() == {key.removeprefix(prefix) for key in ours if not key.startswith("classifier.")}
    assert all(torch.equal(value, ours[prefix + key]) for key, value in theirs.items() if "running_" not in key and "num_" not in key)


def test_data_without_labels_are_refused(finetune, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (16, 16)).save(photos / "0.png")
    with pytest.raises(InputError, match="no labels"):
        finetune([str(published(tmp_path / "encoder", "res6", 16)), str(photos), str(tmp_path / "classifier"), "--test-split", "train"])
