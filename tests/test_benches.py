"""The benches: what they print is true of what they ran, and each runs at its smallest size."""

import os
import re
import runpy
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_digits import small_digits
from torch import nn

from sslzoo.inference import evaluate
from sslzoo.methods import method_class, shipped_names
from sslzoo.parts.distillation import DistillationMixin
from sslzoo.recipe import matching_recipes, read_recipe
from sslzoo.run import Run

KNN = "knn_top1 k=20 T=0.1"
BENCHES = Path(__file__).parents[1] / "benches"


def bench(name, *arguments, monkeypatch, capsys) -> str:
    """Runs a bench as its command line does; returns what it prints."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    capsys.readouterr()
    runpy.run_path(str(BENCHES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_training_steps_are_measured_as_they_are(monkeypatch, capsys):
    arguments = ("digits/simclr", "--cpu", "--set", "batch_size=16", "--steps", 2, "--warm-up", 1, "--peak-tflops", 2)
    out = bench("train", *arguments, monkeypatch=monkeypatch, capsys=capsys)
    milliseconds, speed = (float(text.replace(",", "")) for text in re.search(r"^step +([\d.]+) ms, ([\d,]+) images/s", out, re.M).groups())
    batch = int(re.search(r"batch (\d+)", out)[1])
    assert speed == pytest.approx(1000 * batch / milliseconds, abs=1 + 0.05 / milliseconds * speed)
    gflop, tflops, mfu = map(float, re.search(r"^network +([\d.]+) GFLOP a step, ([\d.]+) TFLOP/s, ([\d.]+) % of 2 ", out, re.M).groups())
    assert tflops == pytest.approx(gflop / milliseconds, abs=0.002) and mfu == pytest.approx(100 * tflops / 2, abs=0.1)
    parts = re.findall(r"^(\w+) +([\d.]+) ms, ([\d.]+) %$", out, re.M)
    assert [part for part, _, _ in parts] == ["data", "views", "forward", "backward", "optimiser", "after_step", "logs"]
    assert sum(float(share) for _, _, share in parts) == pytest.approx(100, abs=0.5)
    assert all(float(ms) > 0 or part in ("after_step", "logs", "data") for part, ms, _ in parts)
    assert float(re.search(r"^memory +([\d.]+) GiB", out, re.M)[1]) > 0.05
    assert "reference   none" in out, "the page has no digits"


def test_two_settings_take_turns_and_the_last_line_is_the_ratio_of_their_steps(monkeypatch, capsys):
    """What is compared is the same twice, with a third of a second more in each step of the second."""
    bench_of = runpy.run_path(str(BENCHES / "train.py"))
    slow = bench_of["Steps"].step

    def step(self):
        if self.training.recipe.log_every == 7:
            time.sleep(0.3)
        slow(self)

    monkeypatch.setattr(bench_of["Steps"], "step", step)
    monkeypatch.setattr(sys, "argv", ["train.py", "digits/simclr", "--cpu", "--set", "batch_size=4", f"dataset={small_digits()}",
                                      "--steps", "1", "--warm-up", "1", "--against", "log_every=7"])  # fmt: skip
    bench_of["main"]()
    out = capsys.readouterr().out
    first, second = (float(ms) for ms in re.findall(r"^step +([\d.]+) ms", out, re.M))
    ratio = float(re.search(r"^log_every=7: ([\d.]+) times as fast", out.splitlines()[-1])[1])
    assert second > first and ratio == pytest.approx(first / second, rel=0.5) and ratio < 1


def test_variants_are_listed_with_what_was_measured(monkeypatch, capsys, tmp_path):
    (tmp_path / "variants").write_text("small/a lr=1\nsmall/b\n")
    run = Run(tmp_path / "1")
    run.folder.mkdir()
    for line in ({"step": 0, KNN: 0.25}, {"step": 10, "feature_rank": 3.25, "feature_std": 0.5}, {"step": 10, KNN: 0.5}):
        run.append_metrics(line)
    out = bench("variants", tmp_path / "variants", tmp_path, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert out[2:] == ["| small/a lr=1 | 25.0, 50.0 | 3.2 | 0.500 | 10 |", "| small/b | none | nan | nan | 0 |"]


def test_flops_of_training_steps_are_those_of_the_network_forward_and_backward():
    """A convolution and a linear layer, counted by hand."""
    steps = runpy.run_path(str(BENCHES / "train.py"))["Steps"]

    counter = object.__new__(steps)
    counter.mode, counter.flops = "count", 0
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 8 * 8, 5, bias=False))
    loss = counter.call("forward", lambda images: network(images).sum(), torch.ones(2, 3, 8, 8))
    convolution, linear = 2 * 2 * 64 * 4 * 27, 2 * 2 * 256 * 5
    assert counter.flops == convolution + linear
    counter.call("backward", loss.backward)
    # The convolution's input needs no gradient.
    assert counter.flops == convolution + linear + convolution + 2 * linear
    counter.call("optimiser", lambda: torch.ones(4, 4) @ torch.ones(4, 4))
    assert counter.flops == 2 * convolution + 3 * linear, "only those of the networks count"


@pytest.mark.slow
def test_continued_pretraining_is_compared_with_training_from_scratch(monkeypatch, capsys, tmp_path):
    data = (
        "--first",
        "digits",
        "--then",
        "digits",
        "--image-size",
        8,
        "--epochs",
        1,
        1,
        "--output",
        tmp_path,
        "--plot",
        tmp_path / "curves.png",
    )
    out = bench("continued", *data, monkeypatch=monkeypatch, capsys=capsys)
    curves = {line.split(", ")[1].split(":")[0]: re.findall(r"\d+\.\d", line) for line in out.splitlines() if line.startswith("seed 0")}
    (start, continued), (untrained, alone) = (map(float, curves[way]) for way in ("continued", "scratch"))
    assert float(out.split()[-2]) == pytest.approx(continued - alone, abs=0.15) and start != untrained
    runs = {name: Run(tmp_path / name) for name in ("first", "continued-0", "scratch-0")}
    assert runs["continued-0"].recipe.init_sha256 == runs["first"].weights_sha256 and runs["scratch-0"].recipe.init_from is None
    assert len({run.results()["training"]["steps"] for run in runs.values()}) == 1
    with Image.open(tmp_path / "curves.png") as picture:
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= {colour[:3] for _, colour in picture.getcolors(10**6)}, "a curve of each way"


@pytest.mark.slow
def test_a_table_of_methods_has_the_numbers_of_their_runs(monkeypatch, capsys, tmp_path):
    changes = ("--set", f"dataset={small_digits()}", "epochs=1", "batch_size=16", "warmup_epochs=0", "knn_every=1")
    arguments = ("digits/dcl*", "digits/seed", "--seeds", 0, 1, "--cpu", "--output", tmp_path, *changes)
    out = bench("methods", *arguments, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert len(out) == 4, "digits/seed has no teacher"
    rows = {cells[0]: cells for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in out[2:])}
    for name in ("digits/dcl", "digits/dclw"):
        runs = [Run(tmp_path / f"{name.replace('/', '-')}-{seed}") for seed in (0, 1)]
        curves = [[100 * line[KNN] for line in run.metrics() if KNN in line] for run in runs]
        first, last = ([curve[place] for curve in curves] for place in (0, -1))
        numbers = [[Run(run.folder / part).results()["numbers"] for run in runs] for part in ("untrained", "")]
        linear = [[100 * number["value"] for run in part for number in run if number["metric"] == "linear_top1"] for part in numbers]
        assert rows[name][1:3] == ["res6", "85 x 1"] and rows[name][-1] == "2"
        assert rows[name][4:8] == [f"{sum(v) / 2:.1f} ({min(v):.1f} to {max(v):.1f})" for v in (first, last, *linear)]
        knn = evaluate(str(runs[0].folder / "untrained"), cpu=True)
        assert first[0] == 100 * next(number["value"] for number in knn if number["arguments"] == {"k": 20, "temperature": 0.1})
    means = [float(line.split("|")[6].split()[0]) for line in out[2:]]
    assert means == sorted(means, reverse=True)
    again = bench("methods", *arguments[:1], "digits/simclr", *arguments[2:], "--minutes", 1e-9, monkeypatch=monkeypatch, capsys=capsys)
    assert again.splitlines() == out and not (tmp_path / "digits-simclr-0").exists(), "what is finished is read, nothing is begun"


def test_the_workers_of_a_killed_bench_end():
    start_worker, context, (reading, writing) = runpy.run_path(str(BENCHES / "methods.py"))["start_worker"], get_context("fork"), os.pipe()

    def work():
        start_worker(1)
        os.write(writing, b"started")
        time.sleep(60)
        os.write(writing, b"goes on")

    def run_bench():
        worker = context.Process(target=work)
        worker.start()
        worker.join()

    killed = context.Process(target=run_bench)
    killed.start()
    os.close(writing)
    assert os.read(reading, 7) == b"started"
    killed.kill()
    assert os.read(reading, 7) == b""  # no process holds the other end
    os.close(reading)
    killed.join()


def test_the_table_of_methods_has_every_method_that_needs_no_teacher():
    patterns = runpy.run_path(str(BENCHES / "methods.py"))["_RECIPES"]
    recipes = [read_recipe(name) for pattern in patterns for name in matching_recipes(pattern)]
    found = {recipe.method for recipe in recipes}
    assert found == {name for name in shipped_names() if not issubclass(method_class(name), DistillationMixin)}
    assert {(recipe.image_size, recipe.dataset) for recipe in recipes} == {(32, "uoft-cs/cifar10")}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a part of a process")
def test_memory_of_losses_is_what_they_allocate_at_most_at_once():
    memory_of = runpy.run_path(str(BENCHES / "losses.py"))["memory_of"]
    size, device = 32 * 2**20, torch.device("cpu")

    def run():
        for _ in range(3):  # each is freed before the next
            torch.ones(size, dtype=torch.uint8)
        return [torch.ones(2 * size, dtype=torch.uint8)]

    torch.ones(8 * size, dtype=torch.uint8)  # an earlier peak does not hide it
    held = torch.ones(size, dtype=torch.uint8)  # what is there already does not count
    assert memory_of(run, device) == pytest.approx(2 * size, rel=0.1) and len(held) == size


_LATE_PAGE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<div id=models></div>" + b" " * 102_400 + b"<script>setTimeout(() => models.innerHTML = "
            b"'<table><td><a>1</a></td></table>', 700); setTimeout(() => fetch('/more'), 1500)</script>")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"at http://127.0.0.1:{server.server_port} (Ctrl-C ends it)", flush=True)
server.serve_forever()
"""


@pytest.mark.slow
def test_first_pages_are_measured_until_their_leaderboard_is_visible(monkeypatch, capsys, tmp_path):
    (tmp_path / "app.py").write_text(_LATE_PAGE)
    out = bench("space", "--space", tmp_path, "--loads", 1, monkeypatch=monkeypatch, capsys=capsys)
    line = re.search(r"visible after ([\d.]+) s .*, (\d+) requests, (\d+) KiB; (\d+) KiB in all", out)
    seconds, requests, before, in_all = map(float, line.groups())
    assert 0.7 <= seconds < 60 and 1 <= requests <= 2 and before >= 100 and in_all > before
    assert out.splitlines()[1].startswith("empty page"), "Gradio's part of it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("decode", ["40x30", "--threads", 1, "--rounds", 1], "x Pillow"),
        ("decode", ["40x30", "--threads", 1, "--rounds", 1, "--batches"], "x DataLoader"),
        ("embedding", ["res6:16", "--images", 40, "--rounds", 1], "as fast as in batches of 256"),
        ("forward_views", ["--cpu", "--encoders", "res6", "--batches", 2, "--steps", 1], "times as fast as one batch"),
        ("knn", ["--rows", 400, "--width", 16, "--rounds", 1], "top-1 of all settings is the same"),
        ("linear", ["--images", 60, "--width", 8, "--epochs", 1, "--rounds", 1], "x"),
        ("listing", ["--files", 20, "--classes", 2], "most memory"),
        ("losses", ["--encoder", "res6", "--rounds", 1, "--prototypes", 16384], "peak memory"),
        ("step", ["--recipes", "digits/simclr", "--set", "batch_size=8", "--rounds", 1], "digits/simclr"),
        ("views", ["2x32", "--rounds", 1], "x Pillow"),
    ],
)
def test_each_bench_runs_at_its_smallest_size(name, arguments, said, monkeypatch, capsys):
    threads = torch.get_num_threads()
    try:
        assert said in bench(name, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    finally:
        torch.set_num_threads(threads)
