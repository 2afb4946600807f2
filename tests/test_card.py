"""The model card describes the run folder, can be read by the Hub's client, and is refused for numbers of other weights."""

import ast
import copy
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from curves_once import draw_curves_once
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from sslzoo.cli import main
from sslzoo.data import source_name
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import curves, neighbours, write_card
from sslzoo.hub.card import card_text
from sslzoo.hub.curves import draw_curves, loss_curve
from sslzoo.hub.neighbours import draw_neighbours
from sslzoo.hub.results_validation import checked_metrics
from sslzoo.methods import method_class
from sslzoo.recipe import read_recipe, write_recipe
from sslzoo.run import Run

SIMCLR = {"epochs": 4, "reference.knn_top1": 0.9}
EVIL = "a|b`\\<img src=x>[l](u) $z$ *x* \n# head\n---\n&amp;"
FOREVER = "0" * 64  # the digest of no file


def make_run(folder: Path, **changes) -> Run:
    """A finished run of a few kilobytes, without training."""
    recipe = read_recipe("digits/simclr", {**SIMCLR, **changes})
    return finish(folder, recipe)


def finish(folder: Path, recipe, seed: int = 0) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    recipe.make_method().save_pretrained(folder)
    Preprocessing(recipe.eval_resize, recipe.eval_crop).write(folder)
    write_recipe(recipe, folder / "recipe.yaml")
    run = Run(folder)
    run.append_metrics({"step": 10, "epoch": 0, "lr": 0.01, "loss": 5.0})
    run.append_metrics({"step": 20, "epoch": 1, "lr": 0.001, "loss": 4.0})
    run.append_metrics({"step": 20, "epoch": 1, "knn_top1 k=20 T=0.1": 0.7654321, "knn_top5 k=20 T=0.1": 0.9})
    training = {
        "steps": 20, "images": 1297, "skipped_images": ["a.png", "b.png"], "seconds": 4000.0, "images_per_second": 1234.5,
        "peak_memory_bytes": 3 * 2**29, "processes": 2, "environment": {"python": "3.11", "torch": "2.13", "hardware": "Model 7 processor"},
        "files": run.digests(),
    }  # fmt: skip
    numbers = [number(run, k=k, value=value) for k, value in ((20, 0.7654321), (200, 0.5))]
    numbers.append(number(run, when="best", value=0.81, epoch=2))
    run.write_results({"training": training, "numbers": numbers})
    return run


def number(run: Run, when: str = "last", k: int = 20, value: float = 0.5, metric: str = "knn_top1", **arguments) -> dict:
    provenance = {
        "weights_sha256": run.weights_sha256 if when == "last" else None, "train_images": 1297, "test_images": 500, "code": "0.1.0+abc",
        "date": "2026-11-24", "train_fingerprint": FOREVER,
    }  # fmt: skip
    return {
        "protocol": "knn-instdisc-v2", "dataset": source_name(run.recipe.dataset), "split": "test", "metric": metric, "value": value,
        "when": when, "arguments": {"k": k, "temperature": 0.1, **arguments},
        "provenance": provenance,
    }  # fmt: skip


def change(run: Run, at: int = 0, **values) -> None:
    """Changes one number in results.json."""
    results = run.results()
    results["numbers"][at] |= values
    (run.folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module", autouse=True)
def curves_once():
    """`write_card` draws the curves of equal metrics once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sslzoo.hub.card.draw_curves", draw_curves_once)
        yield


@pytest.fixture
def real_curves(monkeypatch):
    """Drawn each time, for tests that depend on it."""
    monkeypatch.setattr("sslzoo.hub.card.draw_curves", draw_curves)


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> str:
    run = make_run(tmp_path_factory.mktemp("card") / "run")
    return write_card(run.folder).read_text()


def test_metadata_is_read_back_by_the_hubs_client(card):
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-feature-extraction", "apache-2.0")
    assert data.tags == ["sslzoo", "self-supervised-learning", "simclr", "arxiv:2002.05709"]
    assert data.datasets is None, "'digits' is no data set of the Hub"
    assert data.model_name == "simclr-res6-digits"
    found = [(one.metric_name, one.metric_value, one.metric_args, one.metric_config) for one in data.eval_results]
    arguments = [{"k": k, "temperature": 0.1} for k in (20, 200)]
    assert found == [
        ("kNN top-1 (k=20, T=0.1)", 76.54, arguments[0], "knn-instdisc-v2"),
        ("kNN top-1 (k=200, T=0.1)", 50.0, arguments[1], "knn-instdisc-v2"),
    ], "the last numbers, in percent, and not the best ones"
    assert {(one.dataset_type, one.dataset_split, one.metric_type) for one in data.eval_results} == {("digits", "test", "accuracy")}


def test_leaderboard_block_survives_the_hubs_client(card, tmp_path):
    assert "!!" not in card.split("\n---\n")[0], "plain values alone"
    ModelCard(card).save(tmp_path / "again.md")
    block = ModelCard.load(tmp_path / "again.md").data["sslzoo"]
    assert block == yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))["sslzoo"]
    own = {"method": "simclr", "encoder": "res6", "dataset": "digits", "image_size": 16, "epochs": 4, "batch_size": 128, "seconds": 4000.0}
    own |= {"images_per_second": 1234.5, "peak_memory_bytes": 3 * 2**29, "hardware": "Model 7 processor", "reference": {"knn_top1": 0.9}}
    assert own.items() <= block.items()
    assert [(one["metric"], one["when"], one["arguments"]["k"], one["value"]) for one in block["numbers"]] == [
        ("knn_top1", "last", 20, 0.7654321), ("knn_top1", "last", 200, 0.5), ("knn_top1", "best", 20, 0.81)
    ]  # fmt: skip
    assert block["numbers"][2]["arguments"]["epoch"] == 2 and len(block["weights_sha256"]) == 64


def test_card_says_what_the_model_is_how_to_load_it_and_its_numbers(card):
    idea = Path(__import__("sslzoo.methods.simclr", fromlist=["_"]).__file__).read_text().split('"""')[1].splitlines()[0]
    assert idea in card
    paper = method_class("simclr").paper
    assert f"[{paper.title}](https://arxiv.org/abs/2002.05709)" in card and "arXiv preprint arXiv:2002.05709" in card
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| kNN")]
    assert rows == [
        ["kNN top-1, k=20", "**76.54**", "–", "digits, test", "knn-instdisc-v2"],
        ["kNN top-1, k=200", "**50.00**", "90.00", "digits, test", "knn-instdisc-v2"],
        ["kNN top-1", "k=20, T=0.1", "76.54", "81.00 (3)", "–", "digits, test", "1,297 / 500", "knn-instdisc-v2"],
        ["kNN top-1", "k=200, T=0.1", "50.00", "–", "90.00", "digits, test", "1,297 / 500", "knn-instdisc-v2"],
    ]
    blocks = re.findall(r"```(\w+)\n(.*?)```", card, re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", "bash", "bibtex"]
    for _, code in blocks[:2]:
        ast.parse(code)
    assert 'AutoModel.from_pretrained("sslzoo/simclr-res6-digits")' in blocks[0][1]
    assert 'sslzoo.load("sslzoo/simclr-res6-digits")' in blocks[1][1]
    assert 'pipeline("image-feature-extraction"' in blocks[0][1] and "sslzoo train recipe.yaml" in blocks[2][1]
    details = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", card, re.MULTILINE))
    assert details["Time"] == "67 min, 1,234 images/s while training" and details["Peak memory"] == "1.50 GiB"
    assert details["Broken images left out"] == "2" and details["Hardware"] == "Model 7 processor, 2 processes"
    assert "(curves.png)" in card and "(neighbours.png)" in card and "(maps.png)" in card
    assert "`sslzoo reproduce sslzoo/simclr-res6-digits`" in card
    assert "| linear top-1 | 64.50 | res50 | 100 | 4096 | [google-research/simclr](https://github.com/google-research/simclr) |" in card
    assert "the small one that comes with sslzoo (1,297 images)" in card


def test_only_the_small_image_stem_needs_remote_code(card, tmp_path):
    run = make_run(tmp_path, encoder="vit-xs4")
    plain = write_card(run.folder, "someone").read_text()
    assert card.count("trust_remote_code=True") == 2 and "import sslzoo  # or" in card
    assert "trust_remote_code" not in plain and "stem" not in plain
    assert 'from_pretrained("someone/simclr-vit-xs4-digits")' in plain and "sslzoo/simclr" not in plain


def test_texts_come_from_the_methods_file(tmp_path):
    run = make_run(tmp_path)
    values = {**run.recipe.flat(), "method": "mae", "encoder": "vit-xs4", "name": "mae-vit"}
    hyperparameters = method_class("mae").config_class.hyperparameters()
    small = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    own = {key: value for key, value in values.items() if not key.startswith("view.") and key not in run.recipe.hyperparameters}
    file = tmp_path / "mae.yaml"
    file.write_text(yaml.safe_dump({**own, **hyperparameters, **small}))
    text = write_card(finish(tmp_path / "mae", read_recipe(file)).folder).read_text()
    module = __import__("sslzoo.methods.mae", fromlist=["_"])
    assert module.__doc__.splitlines()[0] in text and module.MAE.paper.title in text and "sslzoo.MAE" in text
    assert ModelCard(text).data.tags[2:] == ["mae", "arxiv:2111.06377"]


@pytest.mark.parametrize("values, message", [
    ({"provenance": {"weights_sha256": FOREVER}}, "was measured on weights 000000000000..., but"),
    ({"provenance": {}}, "was measured on weights that it does not name"),
    ({"value": 76.5}, "is 76.5: must be a fraction"),
    ({"when": "sometimes"}, "must be 'last' or 'best'"),
    ({"arguments": None}, "a number must hold"),
    ({"arguments": {"k": 20, "temperature": 0.1, "epoch": "2"}}, "has epoch: '2', must be a whole number"),
    ({"provenance": {"environment": "a machine"}}, "has environment: 'a machine'"),
    ({"provenance": {"train_fingerprint": 5}}, "has train_fingerprint: 5, must be text"),
    ({"value": 10**400}, "is a huge number: must be a fraction"),
])  # fmt: skip
def test_wrong_numbers_are_refused_before_anything_is_written(tmp_path, values, message):
    run = make_run(tmp_path)
    change(run, **values)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        write_card(run.folder)
    error = str(caught.value)
    assert "results.json" in error and "\n" not in error
    assert "kNN top-1 (k=20, T=0.1)" in error or "arguments" in values
    assert sorted(tmp_path.iterdir()) == before


def test_other_weights_and_unfinished_or_mixed_folders_are_refused(tmp_path):
    run = make_run(tmp_path / "weights")
    data = bytearray((run.folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (run.folder / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="model.safetensors is .* evaluate again"):
        write_card(run.folder)
    run = make_run(tmp_path / "unfinished")
    (run.folder / "results.json").unlink()
    with pytest.raises(InputError, match="the training has not finished"):
        write_card(run.folder)
    run = make_run(tmp_path / "mixed")
    write_recipe(read_recipe("digits/simclr", {"method": "simclr", "dataset": "digits"}), run.folder / "recipe.yaml")
    config = json.loads((run.folder / "config.json").read_text())
    config["sslzoo"]["model_type"] = "sslzoo-dino"
    (run.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="'simclr', config.json 'dino'"):
        write_card(run.folder)
    with pytest.raises(InputError, match="is not a valid name for a Hub repository"):
        write_card(make_run(tmp_path / "name").folder, "not a namespace")
    with pytest.raises(InputError, match="no run folder"):
        write_card(tmp_path)


def test_a_run_without_numbers_gets_a_card_that_says_so(tmp_path):
    run = make_run(tmp_path)
    run.write_results({**run.results(), "numbers": []})
    text = write_card(run.folder).read_text()
    assert "No number was measured" in text and "how good the features are is not known" in text
    assert ModelCard(text).data.eval_results is None and "model-index" not in text


def test_untrusted_text_breaks_neither_markdown_nor_metadata(tmp_path):
    def parsed(dataset: str, hardware: str) -> tuple[list[str], dict, str]:
        run = make_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", dataset=dataset, name="same")
        results = run.results()
        results["training"]["environment"]["hardware"] = hardware
        odd = {"metric": hardware, "protocol": hardware, "split": hardware}
        results["numbers"].append({**number(run, value=0.25), **odd})
        run.write_results(results)
        text = write_card(run.folder).read_text()
        body = ModelCard(text).text
        tokens = _tokens(body)
        inside = [child.type for token in tokens for child in token.children or []]
        return [token.type for token in tokens] + [kind for kind in inside if kind != "text"], ModelCard(text).data.to_dict(), body

    harmless, evil = parsed("/nowhere/aa", "b"), parsed(f"/nowhere/{' '.join(EVIL.split())}", EVIL)
    assert evil[0] == harmless[0], "the same headings, tables, links and code, whatever the names are"
    assert "html_inline" not in evil[0] and set(_html(evil[2])) == set(_html(harmless[2])), "no HTML but the template's own"
    shown = " ".join(EVIL.split())
    assert f"{shown}, 2 processes" in map(_text, _tokens(evil[2])), "a cell of a table shows the complete name literally"
    assert evil[1].keys() == harmless[1].keys() and evil[1]["sslzoo"].keys() == harmless[1]["sslzoo"].keys()
    assert evil[1]["sslzoo"]["hardware"] == shown
    assert "/nowhere" not in harmless[2] and "/nowhere" not in str(harmless[1]), "the path of a local folder is not in the card"


def _tokens(markdown: str) -> list:
    return MarkdownIt("commonmark").enable("table").parse(markdown)


def _html(markdown: str) -> list[str]:
    return [token.content for token in _tokens(markdown) if token.type == "html_block"]


def test_all_but_the_top_1_of_the_published_weights_is_folded(tmp_path):
    run = make_run(tmp_path)
    results = run.results()
    results["numbers"] += [
        {**number(run, value=0.61, temperature=0.07)}, number(run, metric="knn_top5", value=0.62),
        number(run, metric="linear_top1", value=0.63) | {"protocol": "linear-features-v1", "arguments": {"selected_lr": 0.1}},
    ]  # fmt: skip
    run.write_results(results)
    shown, folded = "", ""
    for token in _tokens(ModelCard(card_text(run, "ada/run", {})).text):
        is_open = folded.count("<details>") > folded.count("</details>") or "<details>" in token.content
        folded, shown = (folded + token.content, shown) if is_open else (folded, shown + token.content)
    assert [value in shown for value in ("76.54", "50.00", "63.00")] == [True] * 3, "kNN at k = 20 and 200, linear"
    assert [(value in shown, value in folded) for value in ("61.00", "62.00", "81.00")] == [(False, True)] * 3, "T = 0.07, top-5, best"
    assert folded.count("<details>") == folded.count("</details>") == 3


def _text(token) -> str:
    return "".join(child.content for child in token.children or [])


def test_a_data_set_of_the_hub_is_named_and_a_missing_one_costs_pictures(tmp_path, caplog):
    run = make_run(tmp_path, dataset="someone/pictures@small", name="gone")
    with caplog.at_level(logging.WARNING, "sslzoo"):
        text = write_card(run.folder).read_text()
    data = ModelCard(text).data
    assert data.datasets == ["someone/pictures"], "without the configuration"
    assert {(one.dataset_type, one.dataset_config) for one in data.eval_results} == {("someone/pictures", "small")}
    assert "https://huggingface.co/datasets/someone/pictures)" in text
    assert "neighbours.png" not in text and "curves.png" in text and not (run.folder / "neighbours.png").exists()
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("sslzoo")]
    assert len(warnings) == 1 and "no neighbours.png and maps.png" in warnings[0] and "someone/pictures" in warnings[0]


def test_writing_again_changes_no_byte_and_other_weights_another_picture(tmp_path, caplog, real_curves):
    run = make_run(tmp_path / "run")

    def written() -> dict[str, bytes]:
        write_card(run.folder)
        return {name: (run.folder / name).read_bytes() for name in ("README.md", "curves.png", "neighbours.png", "maps.png")}

    first = written()
    drawn = (run.folder / "neighbours.png").stat().st_mtime_ns
    assert written() == first and (run.folder / "neighbours.png").stat().st_mtime_ns == drawn, "not drawn again"
    (run.folder / "neighbours.png").unlink()
    assert written() == first, "drawn again, it has the same bytes"
    (run.folder / "metrics.jsonl").unlink()
    finish(run.folder, run.recipe, seed=1)
    other = written()
    assert other["neighbours.png"] != first["neighbours.png"] and other["curves.png"] == first["curves.png"]
    run.append_metrics({"step": 30, "epoch": 2, "lr": 0.0, "loss": 3.0})
    assert written()["curves.png"] != first["curves.png"]
    leftovers = [file.name for file in run.folder.iterdir() if file.name.startswith(".")]
    assert leftovers == []


def test_a_picture_of_other_weights_is_removed(tmp_path):
    run = make_run(tmp_path / "run", dataset="someone/gone", name="gone")
    Image.new("RGB", (8, 8)).save(run.folder / "neighbours.png")
    assert "neighbours.png" not in write_card(run.folder).read_text() and not (run.folder / "neighbours.png").exists()


def test_images_of_a_folder_are_shown_on_request(tmp_path, caplog):
    _paint(tmp_path / "data/train", {"red": "a", "blue": "b"}, 4)
    _paint(tmp_path / "data/test", {"red": "a", "blue": "b"}, 2)
    run = make_run(tmp_path / "run", dataset=str(tmp_path / "data"), name="colours")
    with caplog.at_level(logging.WARNING, "sslzoo"):
        text = write_card(run.folder).read_text()
    assert "(curves.png)" in text and "neighbours.png" not in text and "maps.png" not in text
    assert not (run.folder / "neighbours.png").exists() and not (run.folder / "maps.png").exists()
    assert "'data' is not known to be public: --with-images shows them" in caplog.text and str(tmp_path / "data") not in caplog.text
    assert main(["card", str(run.folder), "--with-images"]) == 0
    text = (run.folder / "README.md").read_text()
    assert "(neighbours.png)" in text and "(maps.png)" in text and (run.folder / "maps.png").is_file()
    assert main(["card", str(run.folder)]) == 0
    assert ".png" not in (run.folder / "README.md").read_text().replace("(curves.png)", ""), "an earlier picture is not shown"


def test_the_card_says_how_small_resnets_are_initialised(card, tmp_path):
    assert "| Initialisation | transformers' own, whose convolutions start about 2.45 times as large" in card
    assert "2.45" not in card_text(make_run(tmp_path, encoder="vit-xs4"), "ada/vit", {})


def test_curves_need_a_loss(tmp_path):
    run = make_run(tmp_path)
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="metrics.jsonl holds no loss"):
        write_card(run.folder)


def test_a_point_of_the_loss_stands_for_equally_many_steps():
    losses = {50: 4.0, 100: 3.0, 150: 2.0, 195: 1.0, 200: 9.0, 250: 5.0, 260: 8.0}
    steps, values = loss_curve([{"step": step, "loss": loss} for step, loss in losses.items()], log_every=50)
    assert steps == [50, 100, 150, 200, 260], "the last point of an epoch goes into the next, and the rest at the end into the last"
    assert values == pytest.approx([4, 3, 2, (45 * 1 + 5 * 9) / 50, (50 * 5 + 10 * 8) / 60])
    epochs = [{"step": 10 * epoch, "loss": float(epoch)} for epoch in range(1, 4)]
    assert loss_curve(epochs, log_every=50) == ([10, 20, 30], [1, 2, 3]), "epochs shorter than log_every"


def test_what_was_logged_once_has_no_panel(tmp_path):
    run = make_run(tmp_path)
    lines = run.metrics()
    assert list(curves._panels(lines, 50)) == ["loss", "learning rate"], "kNN was logged once"
    (run.folder / "metrics.jsonl").write_text("")
    run.append_metrics(lines[0])
    assert draw_curves(run) is None and "curves.png" not in card_text(run, "ada/run", {}), "one line alone"


def test_no_two_knn_curves_share_their_k():
    keys = ("k=20 T=0.1", "k=200 T=0.1", "k=20 T=0.07", "k=200 T=0.07")
    lines = [{"step": step, **{f"knn_top1 {key}": 0.5 for key in keys}} for step in (0, 10)]
    assert list(curves._panels(lines, 50)["kNN top-1 in percent"]) == ["k=20 T=0.1", "k=200 T=0.1"]
    lines.insert(1, {"step": 5, "knn_top1 k=20 T=0.07": 0.5})
    assert list(curves._panels(lines, 50)["kNN top-1 in percent"]) == ["k=20 T=0.07", "k=200 T=0.1"], "the one that was logged most often"


def paths(value, at: tuple = ()) -> Iterator[tuple]:
    """The paths to all values of nested lists and mappings."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*at, key)
        yield from paths(value[key], (*at, key))


NONSENSE = (None, [], {}, [[1]], {"a": [{}]}, 10**30, 10**4000, -1, float("nan"), float("inf"), True, "x" * 5000, "a\nb", "\ud800", 0.5)


def test_arbitrary_results_and_metrics_give_a_card_or_a_one_line_error(tmp_path, real_curves):
    run = make_run(tmp_path / "run")
    results = run.results()
    results["numbers"][0]["provenance"]["environment"] = {"hardware": "x"}
    results["numbers"] = results["numbers"][::2]
    all_paths, refused = [path for path in paths(results) if "files" not in path], 0
    assert len(all_paths) > 50
    for count, (*path, last) in enumerate(all_paths):
        for value in NONSENSE[count % 3 :: 3]:
            values = inside = copy.deepcopy(results)
            for key in path:
                inside = inside[key]
            inside[last] = value
            (run.folder / "results.json").write_text(json.dumps(values))
            try:
                text = card_text(run, "ada/run", {})
                assert ModelCard(text).data["sslzoo"]["method"] == "simclr"
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 500
                refused += 1
    assert refused > 100
    lines = (run.folder / "metrics.jsonl").read_text()
    for line in ('5', '[]', '{"loss": 1}', '{"step": "1", "loss": 1}', '{"step": 1e400, "loss": 1}', '{"step": -1}', "null"):
        (run.folder / "metrics.jsonl").write_text(lines + line + "\n")
        with pytest.raises(InputError, match="metrics.jsonl.* line 4"):
            checked_metrics(run)


COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250)}


def _area(folder: Path, colour: tuple[int, int, int] | str) -> float:
    """How many cells' worth of a colour the picture of neighbours shows."""
    wanted = np.array(colour if isinstance(colour, tuple) else [int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    with Image.open(folder / "neighbours.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        inch = picture.width / 10
    return float((np.abs(pixels - wanted).max(axis=-1) < 8).sum() / (neighbours.CELL * inch) ** 2)


def _paint(folder: Path, names: dict[str, str], copies: int) -> None:
    """Images of one colour in the folder of a class: {"red": "class of red"}."""
    for colour, name in names.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(copies):
            Image.new("RGB", (16, 16), COLOURS[colour]).save(folder / name / f"{colour}{index}.png")


def test_neighbours_are_the_nearest_and_frames_show_their_class(tmp_path):
    areas = {}
    for case, test in (("right", {"red": "a", "blue": "b"}), ("swapped", {"red": "b", "blue": "a"})):
        _paint(tmp_path / case / "data/train", {"red": "a", "blue": "b"}, 7)
        _paint(tmp_path / case / "data/test", test, 4)
        run = make_run(tmp_path / case / "run", dataset=str(tmp_path / case / "data"), name="colours")
        draw_neighbours(run.folder, torch.device("cpu"))
        colours = (COLOURS["red"], COLOURS["blue"], neighbours.SAME_CLASS, neighbours.OTHER_CLASS)
        areas[case] = [_area(run.folder, colour) for colour in colours]
    for red, blue, _, _ in areas.values():
        assert 23 < red < 28 and 23 < blue < 28, "half of the 56 cells each, without their frames"
    right, wrong = areas["right"][2:]
    assert right > 2 > 0.1 > wrong and areas["swapped"][3] > 2 > 0.1 > areas["swapped"][2]


def test_without_labels_an_image_is_not_its_own_neighbour(tmp_path):
    (tmp_path / "data").mkdir()
    colours = {**COLOURS, "green": (0, 250, 0)}
    for colour, value in colours.items():
        Image.new("RGB", (16, 16), value).save(tmp_path / "data" / f"{colour}.png")
    run = make_run(tmp_path / "run", dataset=str(tmp_path / "data"), name="colours")
    text = write_card(run.folder, with_images=True).read_text()
    assert "(neighbours.png)" in text and "(maps.png)" in text and (run.folder / "maps.png").is_file(), "maps need no labels either"
    for colour in colours.values():
        assert 2.5 < _area(run.folder, colour) < 3, "once a query, and once the neighbour of each of the other two"
    assert _area(run.folder, neighbours.SAME_CLASS) == _area(run.folder, neighbours.OTHER_CLASS) == 0
