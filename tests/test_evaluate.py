"""`sslzoo evaluate` end to end: data sets and protocols, stored numbers, resuming, and test images that were trained on."""

import errno
import shutil
from types import SimpleNamespace

import pytest
import torch
from test_card import make_run
from test_reproduce import make_pets

from sslzoo import inference
from sslzoo.cli import main
from sslzoo.evaluation import PROTOCOLS
from sslzoo.hub import write_card
from sslzoo.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return make_run(tmp_path / "run")


def numbers_on(run: Run, dataset: str) -> list[dict]:
    return [number for number in run.results()["numbers"] if number["dataset"] == dataset]


def test_test_images_that_were_trained_on_are_counted_and_reported(run, tmp_path, caplog):
    pets = make_pets(tmp_path / "pets")
    for index in range(3):
        shutil.copy(pets / f"train/cats/{index}.png", pets / f"test/cats/again{index}.png")
    assert main(["evaluate", str(run.folder), "--on", str(pets), "--cpu"]) == 0
    assert "3 of the 19 test images are training images too" in caplog.text
    assert {number["provenance"]["test_images_in_train"] for number in numbers_on(run, "pets")} == {3}
    assert "3 test images stand, pixel for pixel, among the training images too" in write_card(run.folder).read_text()


def test_a_card_of_clean_data_does_not_mention_overlap(run):
    assert "pixel for pixel" not in write_card(run.folder).read_text()


def test_a_number_that_is_measured_again_replaces_the_first_whatever_was_selected(run, tmp_path):
    pets = make_pets(tmp_path / "pets")
    for _ in range(2):
        assert main(["evaluate", str(run.folder), "--on", str(pets), "--cpu", "--protocol", "linear-features-v1"]) == 0
        results = run.results()
        (number,) = numbers_on(run, "pets")
        number["arguments"]["selected_lr"] = 77.0
        run.write_results({**results, "numbers": [*(one for one in results["numbers"] if one["dataset"] != "pets"), number]})
    assert main(["evaluate", str(run.folder), "--on", str(pets), "--cpu", "--protocol", "linear-features-v1"]) == 0
    (number,) = numbers_on(run, "pets")
    assert number["metric"] == "linear_top1" and number["arguments"]["selected_lr"] != 77.0


def test_the_default_protocols_are_the_recipes(tmp_path):
    run = make_run(tmp_path / "run", protocols=["linear-features-v1", "knn-instdisc-v2"])
    assert main(["evaluate", str(run.folder), "--on", str(make_pets(tmp_path / "pets")), "--cpu"]) == 0
    assert [number["protocol"] for number in numbers_on(run, "pets")] == ["linear-features-v1"] + 4 * ["knn-instdisc-v2"]


@pytest.mark.parametrize(
    "arguments", [["train", "digits/simclr", "--set", "protocols=[knn-instdisk-v1]"], ["evaluate", "{run}", "--protocol", "knn"]]
)
def test_an_unknown_protocol_is_refused_before_anything_is_done(arguments, run, capsys, monkeypatch):
    monkeypatch.setattr(inference, "load_images", None)
    assert main([argument.replace("{run}", str(run.folder)) for argument in arguments]) == 2
    assert "unknown protocol 'knn" in capsys.readouterr().err


def test_the_name_of_a_data_set_with_recipes_is_read_like_theirs_unless_a_folder_has_that_name(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = []
    load = inference.load_images
    monkeypatch.setattr(inference, "load_images", lambda source, split, **how: loaded.append((source, split)) or load(source, split, **how))
    assert main(["evaluate", str(run.folder), "--on", "imagenet1k", "--cpu"]) == 2
    assert "cannot load the data set 'ILSVRC/imagenet-1k'" in capsys.readouterr().err and loaded == [("ILSVRC/imagenet-1k", "train")]
    make_pets(tmp_path / "imagenet1k")
    assert main(["evaluate", str(run.folder), "--on", "imagenet1k", "--cpu"]) == 0
    assert loaded[1:] == [("imagenet1k", "train"), ("imagenet1k", "test")]


def test_the_state_of_an_interrupted_measurement_is_used_by_the_same_one_only_and_then_removed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(inference.constants, "HF_ASSETS_CACHE", str(tmp_path / "cache"))
    pets, places = make_pets(tmp_path / "pets"), []

    def stopped(encoder, data, protocol, session):
        assert session.state.exists() == (session.state in places), "created only by protocols that store something"
        places.append(session.state)
        session.state.mkdir(parents=True, exist_ok=True)
        (session.state / "half").touch()
        raise KeyboardInterrupt

    command = ["evaluate", str(run.folder), "--on", str(pets), "--cpu", "--protocol"]
    with monkeypatch.context() as patch:
        patch.setattr(inference, "measure", stopped)
        for protocol in ("linear-features-v1", "linear-features-v1", "knn-instdisc-v2"):
            assert main([*command, protocol]) == 130
        assert places[0] == places[1] != places[2] and (places[0] / "half").exists()
        shutil.copy(pets / "test/cats/0.png", pets / "test/cats/more.png")
        assert main([*command, "linear-features-v1"]) == 130 and places[3] not in places[:3]
    assert main([*command, "linear-features-v1"]) == 0
    assert not places[3].exists() and places[0].exists(), "only its own is removed"


def test_numbers_that_cannot_be_stored_are_printed_with_a_warning(run, tmp_path, capsys, caplog, monkeypatch):
    """A file is in the place of the cache folder, and the run folder is not writable."""

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "results.json")

    monkeypatch.setattr(inference.constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    command = ["evaluate", str(run.folder), "--on", str(make_pets(tmp_path / "pets")), "--cpu", "--protocol"]
    assert main([*command, "knn-instdisc-v2", "linear-features-v1"]) == 0, "no cache is needed"
    before = (run.folder / "results.json").read_bytes()
    monkeypatch.setattr(Run, "write_results", refused)
    caplog.clear()
    assert main([*command, "knn-instdisc-v2"]) == 0
    assert "knn_top1" in capsys.readouterr().out and (run.folder / "results.json").read_bytes() == before
    assert [record.getMessage() for record in caplog.records] == [
        f"the numbers of knn-instdisc-v2 are not stored in {run.folder / 'results.json'}: [Errno 13] Permission denied: 'results.json'"
    ]


def test_every_protocol_has_what_a_card_and_reproduce_need():
    for name, protocol in PROTOCOLS.items():
        assert name.rpartition("-v")[2].isdigit() and 0 < protocol.tolerance < 0.05 and protocol.precision in ("fp32", "fp16", "bf16")


def test_provenance_has_the_precision_that_was_used_not_the_protocols(run, tmp_path):
    command = ["evaluate", str(run.folder), "--on", str(make_pets(tmp_path / "pets")), "--cpu", "--protocol"]
    assert main([*command, "knn-instdisc-v2", "linear-features-v1"]) == 0
    assert {number["provenance"]["precision"] for number in numbers_on(run, "pets")} == {"fp32"}
    for name, on_a_gpu in (("knn-instdisc-v2", "fp32"), ("linear-features-v1", "fp32"), ("finetune-mae-v1", "fp16")):
        found = [PROTOCOLS[name].precision_on(SimpleNamespace(mixed_precision=mixed)) for mixed in ("fp16", "no")]
        assert found == [on_a_gpu, "fp32"], name


def test_environment_variables_of_accelerate_do_not_change_a_measurement(run, tmp_path, monkeypatch):
    seen = []

    def measured(encoder, data, protocol, session):
        seen.append(session.accelerator)
        return [{"protocol": protocol, "dataset": "pets", "split": "test", "metric": "linear_top1", "arguments": {}, "value": 0.5}]

    monkeypatch.setattr(inference, "measure", measured)
    for name, value in (("GRADIENT_ACCUMULATION_STEPS", "4"), ("MIXED_PRECISION", "bf16"), ("DYNAMO_BACKEND", "EAGER")):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    command = ["evaluate", str(run.folder), "--on", str(make_pets(tmp_path / "pets")), "--protocol", "linear-simclr-v1", "--cpu"]
    assert main(command) == 0
    (accelerator,) = seen
    assert (accelerator.gradient_accumulation_steps, accelerator.mixed_precision, accelerator.device.type) == (1, "no", "cpu")
    assert type(accelerator.prepare(torch.nn.Linear(1, 1))) is torch.nn.Linear, "not compiled"
    assert [number["provenance"]["precision"] for number in numbers_on(run, "pets")] == ["fp32"], "and not the protocol's fp16"
