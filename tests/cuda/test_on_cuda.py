"""Every method on a real CUDA device, and collected only where there is one: what a CPU gives, and runs that go on after a stop.

python -m pytest -n 8 tests/cuda
"""

import copy
import dataclasses

import pyarrow.parquet as parquet
import pytest
import torch
from small_digits import small_digits
from test_contract import LATE, build, every_method, optimizer_of, progress, random_views, without_scalars
from test_training import short_recipe

from sslzoo import method_class
from sslzoo.compilation import compiled
from sslzoo.data import load_images
from sslzoo.encoders import features, load_pretrained
from sslzoo.errors import StoppedError
from sslzoo.evaluation import PROTOCOLS
from sslzoo.hub import write_card
from sslzoo.inference import embed, evaluate
from sslzoo.stopping import TimeLimit
from sslzoo.training import train
from sslzoo.views import Renderer

CUDA = torch.device("cuda")
STEPS = 3
_KNN = "knn_top1 k=20 T=0.1"


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32, whose products have three digits."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def to(device, moment):
    """The progress with its samples on the device, as a batch's are."""
    samples = moment.samples.to(device)
    return dataclasses.replace(moment, samples=samples, crops=lambda: [crop.to(device) for crop in moment.crops()])


def losses(method, name, device, steps=STEPS):
    """Of training steps on random views; the method's state afterwards."""
    optimizer, found = optimizer_of(method), []
    for step in range(steps):
        now = to(device, progress(step, first=4 * step))
        out = method([view.to(device) for view in random_views(name, seed=step)], now)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(without_scalars(out), now)
        found.append(out["loss"].item())
    return found


@every_method
def test_steps_give_a_cpus_losses_and_state(name):
    method, other = build(name), build(name)
    expected, found = losses(method, name, torch.device("cpu")), losses(other.to(CUDA), name, CUDA)
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-4)
    wrong = []
    for key, value in other.state_dict().items():
        mine = method.state_dict()[key]
        if value.is_floating_point() and not torch.allclose(value.cpu(), mine, rtol=2e-2, atol=5e-3):
            wrong.append(f"{key} by {float((value.cpu() - mine).abs().max()):.2g}")
    assert not wrong, f"{len(wrong)} differ, {wrong[:3]}"


@every_method
def test_views_are_a_cpus(name):
    images = load_images(small_digits(), "train", device="cpu", canvas=20)
    batch = next(iter(images.batches([torch.arange(32)])))
    renderer = Renderer(list(method_class(name).views(16).values()), seed=0)
    expected = renderer.render(batch.pixels, batch.sizes, batch.samples, renderer.words(LATE))
    found = renderer(batch.pixels.to(CUDA), batch.sizes.to(CUDA), batch.samples.to(CUDA), LATE)
    assert [view.shape for view in found] == [view.shape for view in expected]
    for mine, other in zip(expected, found, strict=True):
        assert other.device.type == "cuda" and other.dtype == torch.float32
        away = (other.cpu() - mine).abs() > 0.05
        assert away.float().mean() < 0.01, f"{float(away.float().mean()):.3f} of the pixels differ"


@every_method
def test_a_stopped_run_in_bf16_goes_on_to_the_same_end(name, tmp_path):
    recipe = short_recipe(name, precision="bf16", epochs=2, knn_every=1)
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "parts", limit=TimeLimit(0))
    parts = train(recipe, tmp_path / "parts", resume=True)
    assert whole.results()["training"]["environment"]["hardware"].endswith(torch.cuda.get_device_name())
    ends = [[line["loss"] for line in run.metrics() if "loss" in line][-1] for run in (whole, parts)]
    assert ends[0] == pytest.approx(ends[1], rel=0.05, abs=0.02)
    assert 0 <= [line[_KNN] for line in whole.metrics() if _KNN in line][-1] <= 1
    pixels = torch.randn(4, 3, 16, 16)
    encoder = load_pretrained(whole.folder).eval()
    with torch.no_grad():
        expected = features(encoder, pixels)
        assert torch.allclose(features(encoder.to(CUDA), pixels.to(CUDA)).cpu(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["simclr", "byol", "dino", "swav", "mae"])
def test_the_compiled_loss_is_the_eager_one(name):
    method = build(name).to(CUDA)
    other = copy.deepcopy(method)
    other.loss = compiled(other.loss)
    assert losses(other, name, CUDA) == pytest.approx(losses(method, name, CUDA), rel=2e-3, abs=1e-4)


def test_evaluations_and_the_card(tmp_path, monkeypatch):
    run = train(short_recipe("simclr", epochs=1), tmp_path / "run")
    classifiers = ["linear-simclr-v1", "finetune-simclr-v1"]
    for protocol in classifiers:
        monkeypatch.setitem(PROTOCOLS, protocol, dataclasses.replace(PROTOCOLS[protocol], epochs=1))

    def measured(cpu):
        numbers = evaluate(str(run.folder), ["knn-instdisc-v2", "linear-features-v1", *classifiers], cpu=cpu)
        return {(number["protocol"], number["metric"], str(number["arguments"])): number["value"] for number in numbers}

    on_cuda, on_cpu = measured(cpu=False), measured(cpu=True)
    assert on_cuda.keys() == on_cpu.keys()
    assert {key: value for key, value in on_cuda.items() if key[0] not in classifiers} == pytest.approx(
        {key: value for key, value in on_cpu.items() if key[0] not in classifiers}, abs=0.03
    ), "of 80 test images"
    assert torch.cuda.get_device_name() in write_card(run.folder).read_text(encoding="utf-8")


def test_embedded_features_are_a_cpus(tmp_path):
    run = train(short_recipe("simclr", epochs=1), tmp_path / "run")
    tables = []
    for cpu in (True, False):
        embed(str(run.folder), small_digits(), tmp_path / f"{cpu}.parquet", split="test", cpu=cpu)
        tables.append(torch.tensor(parquet.read_table(tmp_path / f"{cpu}.parquet")["feature"].to_pylist()))
    assert torch.allclose(*tables, rtol=1e-2, atol=1e-3)
