"""The Space in a browser, with a Hub on loopback that also holds hostile models."""

import dataclasses
import inspect
import json
import os
import queue
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gradio as gr
import httpx2
import numpy as np
import pytest
import torch
import yaml
from hub_server import HubServer
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from safetensors.torch import load_file, save_file
from test_card import make_run

from sslzoo.data import load_images
from sslzoo.errors import InputError
from sslzoo.evaluation import PROTOCOLS
from sslzoo.hub import Entry, ListedModel, read_entries, write_card
from sslzoo.methods import method_class, shipped_names

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "space"))  # as when its app.py is run

import compare_page  # noqa: E402
import model_page  # noqa: E402
import table  # noqa: E402
from app import build, serve  # noqa: E402
from board import Board  # noqa: E402
from familiarity import Familiarity  # noqa: E402
from figures import accuracy_figure, cost_figure, loss_figure, read_curves  # noqa: E402
from inspector import Inspector  # noqa: E402
from leaderboard_page import few_models, leaderboard  # noqa: E402
from lru_cache import LRUCache  # noqa: E402
from method_notes import METHOD_NOTES  # noqa: E402
from uploads import open_upload  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
RES, VIT, ADA, TAMPERED = "sslzoo/simclr-res6-digits", "sslzoo/simclr-vit-xs4-digits", "ada/dino-res6-digits", "ada/tampered"
CARDS = 500  # shown while the Hub does not answer
WAIT = 600_000  # ms; on a busy machine even the immediate takes a while
EVIL = "<img src=x onerror=alert(1)>"
expect.set_options(timeout=WAIT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The files of two finished runs."""
    made = {}
    for name, encoder in ((RES, "res6"), (VIT, "vit-xs4")):
        run = make_run(tmp_path_factory.mktemp("runs") / encoder, encoder=encoder)
        for step in range(30, 100, 10):
            run.append_metrics({"step": step, "epoch": 2, "lr": 0.001, "loss": 4.0 - step / 50})
        write_card(run.folder)
        made[name] = {file.name: file.read_bytes() for file in run.folder.iterdir() if file.is_file()}
    return made


def card(runs, name: str, weights: str, changes: dict[str, str]) -> str:
    """The run's card with another name, other weights and other words in its metadata."""
    text = re.sub("weights_sha256: .*", f"weights_sha256: {weights * 64}", runs[RES]["README.md"].decode())
    text = text.replace(f"repository: {RES}\n", f"repository: {name}\n")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def one_card(runs, tmp_path) -> Path:
    """A folder with the card of one model."""
    (tmp_path / "simclr-res6-digits").mkdir()
    (tmp_path / "simclr-res6-digits" / "README.md").write_bytes(runs[RES]["README.md"])
    return tmp_path


@pytest.fixture(scope="module")
def addresses(runs, tmp_path_factory):
    """The addresses of the Space with the Hub, without it, and with one that answers once the file given as the fourth exists."""
    folder = tmp_path_factory.mktemp("space")
    cards, few_cards = folder / "cards", folder / "few_cards"
    for index in range(CARDS):
        text = card(runs, f"sslzoo/model-{index}", "a", {"a" * 64: f"{index:062x}ab", "value: 0.5\n": f"value: {index / 1000}\n"})
        for place in (cards, few_cards)[: 2 if index < 3 else 1]:
            (place / f"model-{index}").mkdir(parents=True)
            (place / f"model-{index}" / "README.md").write_text(text)
    other = {"method: simclr": "method: dino", "epochs: 4": "epochs: 800", "value: 0.5\n": "value: 0.625\n"}
    with HubServer({}, page_size=2) as server:  # several pages; the Hub refuses any token
        for name, files in runs.items():
            server.add(name, files)
        server.add(ADA, {"README.md": card(runs, ADA, "b", {**other, "hardware: Model 7": "hardware: Model 8"})})
        weights = folder / "model.safetensors"
        weights.write_bytes(runs[RES]["model.safetensors"])
        changed = {name: value + 1 for name, value in load_file(weights).items()}
        save_file(changed, weights, metadata={"format": "pt"})
        claims = card(runs, TAMPERED, "c", {"value: 0.5\n": "value: 0.999\n"})
        server.add(TAMPERED, {**runs[RES], "README.md": claims, "model.safetensors": weights.read_bytes()})
        server.add("eve/html", {"README.md": card(runs, "eve/html", "d", {"hardware: Model 7 processor": f"hardware: '{EVIL}'"})})
        server.add("eve/copy", {"README.md": runs[RES]["README.md"]})
        # A key that ends HfApi.list_models with a TypeError.
        server.add("eve/self", {"README.md": "---\nself: 1\ntags: [sslzoo]\n---\n"})
        environment = server.environment(folder / "home", token="hf_nobodys")
        with open(folder / "errors", "w") as errors:
            process = subprocess.Popen(
                [sys.executable, TESTS / "space_server.py", cards, few_cards, folder / "answer"], env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        found = [process.stdout.readline().strip() for _ in range(3)]
        assert all(found), (folder / "errors").read_text()
        yield [*found, folder / "answer"]
        process.stdin.close()
        process.wait(timeout=600)
        assert "hf_nobodys" not in (folder / "errors").read_text()


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM.is_file(), f"the Space's tests drive {CHROMIUM}: apt-get install chromium"
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser, addresses):
    """The page on a wide screen; it requests nothing but the Space and logs no errors."""
    page, wrong = visit(browser, addresses[0], 1440)
    yield page
    assert wrong == []


@pytest.fixture
def serve_here():
    """Serves a board from this process until the test ends, and returns its address."""
    yield lambda board: serve(board, server_name="127.0.0.1", prevent_thread_lock=True)
    gr.close_all(verbose=False)


def visit(browser, address: str, width: int, query: str = ""):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(WAIT)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:")) else wrong.append(request.url))
    page.goto(address + query)
    page.locator("#models td a").first.wait_for(state="attached")
    return page, wrong


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def choose(page, place: str, name: str) -> None:
    box = page.locator(f"#{place} input")
    box.click()
    box.fill(name)
    page.get_by_role("option", name=name, exact=True).click()
    box.blur()
    expect(page.get_by_role("option")).to_have_count(0)


def names(page) -> list[str]:
    return page.locator("#models tbody td:first-child").all_inner_texts()


@pytest.fixture(scope="module")
def digit(tmp_path_factory) -> tuple[Path, int]:
    """An image of the bank as a file with metadata, and its class."""
    images = load_images("digits", "train", device=torch.device("cpu"))
    (batch,) = images.batches([torch.tensor([0])])
    file = tmp_path_factory.mktemp("image") / "digit.png"
    Image.fromarray(batch.pixels[0].permute(1, 2, 0).numpy()).save(file)
    return file, int(batch.labels[0])


def test_the_table_lists_valid_models_and_filters_and_sorts(opened):
    page = opened
    expect(page.locator("#count")).to_contain_text("4 of 4 models. From the Hub, asked at")
    own = [name.partition("/")[2] for name in (RES, VIT)]
    assert names(page) == [TAMPERED, ADA, *own], "the best first"
    expect(page.locator("#models h3")).to_have_text("digits4 models")
    assert page.locator("#models th[aria-sort]").all_inner_texts() == ["kNN"], "an arrow at the column that it is sorted by"
    headings = page.locator("#models th").all_inner_texts()
    cells = page.locator("#models tbody tr").nth(1).locator("td").all_inner_texts()
    row = dict(zip(headings, cells, strict=True))
    assert row == {
        "Model": ADA, "kNN": "62.5", "vs page": "−27.5", "Method": "dino", "Encoder": "res6", "Epochs": "800", "Time": "2.2 h",
        "Downloads": "0",
    }  # fmt: skip
    assert page.locator("#models tr", has_text=ADA).locator("td[title*='DINO: the student predicts']").count() == 1, "what a method is"
    for clicks, first in (("kNN", own[0]), ("kNN", TAMPERED), ("Model", ADA), ("Model", own[1]), ("Epochs", ADA)):
        page.locator("#models th button", has_text=clicks).click()
        assert names(page)[0] == first, clicks
    with page.expect_download() as download:
        page.locator("#download").click()
    rows = [line.split(",") for line in Path(download.value.path()).read_text().splitlines()]
    assert rows[0][:4] == ['"Data set"', '"Model"', '"kNN"', '"vs page"'] and rows[1][:4] == ['"digits"', f'"{ADA}"', '"62.5"', '"-27.5"']
    assert len(rows) == 5, "as it is shown: sorted by epochs"
    page.locator("#search textarea, #search input").fill("ADA res6")
    expect(page.locator("#models tbody tr")).to_have_count(1)
    page.locator("#search textarea, #search input").fill("")
    expect(page.locator("#models tbody tr")).to_have_count(4)
    empty = "getComputedStyle(document.querySelector('#filter-method .wrap-inner'), '::before').content"
    assert page.evaluate(empty) == '"All"'
    choose(page, "filter-method", "simclr")
    assert page.evaluate(empty) == "none"
    expect(page.locator("#models tbody tr")).to_have_count(3)
    choose(page, "filter-encoder", "vit-xs4")
    expect(page.locator("#models tbody tr")).to_have_count(1)
    assert names(page) == own[1:]
    page.locator("#models th button", has_text="Model").click()
    assert page.locator("#models th").first.get_attribute("aria-sort") == "ascending", "sorts after a filter too"
    for name in ("method", "encoder"):
        page.locator(f"#filter-{name} .token-remove").first.click()
    expect(page.locator("#models tbody tr")).to_have_count(4)
    expect(page.locator("#cost .js-plotly-plot .point")).to_have_count(4)


def test_what_is_typed_while_the_page_still_loads_filters_its_tables(browser, addresses):
    *_, address, answer = addresses
    page, wrong = visit(browser, address, 1440, "?model=nobodys/model")  # loading goes on until the Hub has answered
    expect(page.locator("#models tbody tr")).to_have_count(3)
    page.locator("#search textarea, #search input").fill("model-2")
    expect(page.locator("#models tbody tr")).to_have_count(1)
    answer.touch()
    page.locator("#filter-method input").click()
    page.get_by_role("option", name="simclr", exact=True).wait_for()  # it has loaded
    assert names(page) == ["model-2"]
    page.close()
    assert wrong == []


def test_hostile_metadata_is_quarantined_and_not_run(opened):
    page = opened
    tab(page, "Quarantine")
    expect(page.locator("#quarantined")).to_contain_text(EVIL)
    told = dict(row.split("\t") for row in page.locator("#quarantined tbody tr").all_inner_texts())
    assert told.keys() == {"eve/html", "eve/copy", "eve/self"}
    assert RES in told["eve/copy"] and "no block 'sslzoo'" in told["eve/self"]


def test_a_model_has_curves_and_numbers_with_their_protocols(opened):
    page = opened
    tab(page, "Model")
    expect(page.locator("#model-name input")).to_have_value(RES)  # the best of the project's own, not what a stranger claims
    for name in (VIT, RES):
        choose(page, "model-name", name)
    expect(page.locator("#model-page h3 a")).to_have_text(RES)
    link = page.locator("#model-page h3 a")
    assert link.get_attribute("href").endswith(f"/{RES}") and link.get_attribute("rel") == "noopener noreferrer"
    page.wait_for_url("**/?model=sslzoo%2Fsimclr-res6-digits")
    linked, wrong = visit(page.context.browser, page.url.partition("?")[0], 1440, "?model=sslzoo%2Fsimclr-vit-xs4-digits")
    expect(linked.locator("#model-page h3 a")).to_have_text(VIT)
    linked.get_by_role("tab", name="Model", exact=True).focus()
    linked.keyboard.press("ArrowRight")
    expect(linked.get_by_role("tab", name="Try it", exact=True)).to_be_focused()
    expect(linked.locator("#try-page")).to_be_visible()
    linked.close()
    assert wrong == []
    expect(page.locator("#model-page")).to_contain_text("SimCLR: two views of an image identify each other")
    expect(page.locator(".tiles div").first).to_have_text("kNN top-1, k = 20050.0 %3 of 4 on digits, −40.0 against the page's 90.0")
    expect(page.locator("#model-code")).to_contain_text(f'model = AutoModel.from_pretrained("{RES}")')
    page.get_by_role("button", name="Every number, with how it was measured").click()
    page.locator("#model-numbers tbody tr").first.wait_for()
    rows = [row.split("\t")[:5] for row in page.locator("#model-numbers tbody tr").all_inner_texts()]
    assert rows == [
        ["kNN top-1", "k=20, temperature=0.1", "76.54", "90.00", "published weights"],
        ["kNN top-1", "k=200, temperature=0.1", "50.00", "90.00", "published weights"],
        ["kNN top-1", "k=20, temperature=0.1", "81.00", "90.00", "best epoch (3)"],
    ]
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(2)
    page.locator("#model-relatives a", has_text=ADA).click()
    expect(page.locator("#model-page")).to_contain_text("community, numbers as its card has them")
    assert page.locator("#model-name input").input_value() == ADA
    expect(page.locator("#model-notices")).to_contain_text(f"No curves: {ADA} has no metrics.jsonl.")
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(0)


def test_try_it_finds_the_image_itself_and_shows_its_maps(opened, digit, tmp_path):
    page, (file, label) = opened, digit
    tab(page, "Try it")
    shown = page.locator("#try-page")
    page.locator("#try-image input[type=file]").set_input_files(file)
    choose(page, "try-name", VIT)  # while the other is still being loaded
    expect(shown).to_contain_text("Attention of the class token")
    expect(shown.locator(".neighbours figcaption").first).to_have_text(f"{label}1.000")
    assert re.fullmatch(r"[\d.]+ %[\d.]+ %", shown.locator(".scale").inner_text().replace("\n", "")), "what the colours mean"
    expect(shown.locator(".far")).to_have_count(0)
    choose(page, "try-name", RES)
    expect(shown).to_contain_text("Length of the features")
    expect(shown.locator(".neighbours figure")).to_have_count(8)
    expect(shown.locator(".neighbours figcaption").first).to_have_text(f"{label}1.000")
    expect(shown).to_contain_text("Nearest of 400 of the 1,297 training images of digits")
    choose(page, "try-name", TAMPERED)
    expect(shown).to_contain_text(f"the weights of {TAMPERED} are not those that its card describes")
    choose(page, "try-name", ADA)
    expect(shown).to_contain_text(f"{ADA} has no config.json, model.safetensors, preprocessor_config.json")
    expect(shown.locator("img")).to_have_count(0)
    choose(page, "try-name", RES)
    expect(shown.locator(".neighbours figure")).to_have_count(8)
    Image.new("1", (8000, 5100)).save(tmp_path / "huge.png")
    page.locator("#try-image-samples .gallery-item").nth(3).click()
    expect(shown).to_contain_text("what this model saw")
    page.locator("#try-image").get_by_role("button", name="Remove Image").click()
    expect(shown.locator(".neighbours figure")).to_have_count(0)
    page.locator("#try-image input[type=file]").set_input_files(tmp_path / "huge.png")
    expect(shown).to_contain_text("8000 x 5100 pixels, this page takes 40 million at most")


def test_compare_shows_two_models_side_by_side(opened, digit):
    page = opened
    tab(page, "Compare")
    choose(page, "one-name", RES)
    choose(page, "other-name", VIT)
    table = page.locator("#compare-page table")
    expect(table.locator("th")).to_have_text(["", RES, VIT])
    rows = dict(row.split("\t", 1) for row in table.locator("tbody tr").all_inner_texts())
    assert rows["Encoder"] == "res6\tvit-xs4"
    setting = "k=200, temperature=0.1, knn-instdisc-v2, digits test"
    assert next(values for what, values in rows.items() if setting in what) == "50.00\t50.00", "none is better"
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(2)
    expect(page.locator(".js-plotly-plot:visible").first.locator(".legend .traces")).to_have_count(2)
    page.locator("#compare-image input[type=file]").set_input_files(digit[0])
    for side, name in (("one", RES), ("other", VIT)):
        shown = page.locator(f"#near-{side}")
        expect(shown.locator("h3")).to_have_text(name)
        expect(shown.locator(".neighbours figcaption").first).to_have_text(f"{digit[1]}1.000")


def test_without_the_hub_five_hundred_cards_are_there(browser, addresses):
    answer = httpx2.get(addresses[1], timeout=600)
    assert answer.status_code == 200 and len(answer.content) < 100_000, "the page itself has as many bytes for 500 models as for 50"
    page, wrong = visit(browser, addresses[1], 1440)
    expect(page.locator("#models tbody tr")).to_have_count(CARDS)
    expect(page.locator("#count")).to_contain_text("the cards that come with sslzoo, as the Hub has not answered")
    assert not page.get_by_role("tab", name="Quarantine").first.is_visible()
    loaded = "performance.getEntriesByType('resource').map((entry) => entry.name).join()"
    assert "Plotly" not in page.evaluate(loaded), "a plot that nobody has scrolled to"
    page.mouse.wheel(0, 10_000)
    page.locator("#models .end").scroll_into_view_if_needed()
    expect(page.locator("#cost .js-plotly-plot")).to_have_count(1)
    page.close()
    assert wrong == []


def test_the_first_page_waits_for_no_hub_and_its_models_are_added_to_what_is_shown(browser, serve_here, runs, one_card):
    answer = threading.Event()
    community = listed(runs, ADA)
    board = Board(lambda: answer.wait(600) and [listed(runs), community], one_card, patience=600)
    try:
        page, wrong = visit(browser, serve_here(board), 1440)
        expect(page.locator("#count")).to_have_text("1 of 1 models. From the cards that come with sslzoo, as the Hub has not answered.")
        page.locator("#search textarea, #search input").fill("dino")
        expect(page.locator("#count")).to_have_text("No model passes these filters.")
    finally:
        answer.set()
    expect(page.locator("#count")).to_contain_text("1 of 2 models. From the Hub, asked at")
    assert names(page) == [ADA]
    page.locator("#models a.model").click()
    page.wait_for_url("**/?model=ada%2Fdino-res6-digits")
    expect(page.locator("#model-page h3 a")).to_have_text(ADA)
    tab(page, "Leaderboard")
    expect(page.locator("#search textarea, #search input")).to_have_value("dino")
    assert "?" not in page.url, "the leaderboard's address names no model"
    page.close()
    assert wrong == []


def test_a_phone_scrolls_down_and_not_sideways(browser, addresses, digit):
    page, wrong = visit(browser, addresses[0], 390)
    for name, ready in (
        ("Leaderboard", "#models td a"), ("Model", "#model-page .tiles"), ("Try it", "#try-page .notice"),
        ("Compare", "#compare-page table"), ("Quarantine", "#quarantined table"),
    ):  # fmt: skip
        tab(page, name)
        page.locator(ready).first.wait_for()
        if name == "Try it":
            page.locator("#try-image input[type=file]").set_input_files(digit[0])
            page.locator("#try-page .neighbours figure").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        if name == "Leaderboard":
            cut = page.evaluate("[...document.querySelectorAll('.board')].map((board) => board.scrollWidth - board.clientWidth)")
            assert max(cut) <= 0, "no column is cut off"
    page.close()
    assert wrong == []


def listed(runs, name: str = RES, **block) -> ListedModel:
    """A model as the Hub lists it, with other keys in its block."""
    metadata = yaml.safe_load(runs[RES]["README.md"].decode().split("---\n")[1])
    metadata["sslzoo"] |= {"repository": name, **block}
    return ListedModel(name, metadata)


def test_numbers_of_different_protocols_settings_and_splits_never_share_a_column_or_a_row(runs, monkeypatch):
    monkeypatch.setattr(table, "_PROTOCOLS", ("knn-instdisc-v2", "linear-a", "linear-b"))
    one = {"metric": "linear_top1", "when": "last", "protocol": "linear-a", "split": "test", "dataset": "digits"}

    def model(name: str, *numbers: dict):
        own = [{**one, "arguments": {}, **number} for number in numbers]
        return listed(runs, name, numbers=own, reference={"knn_top1": 0.9, "linear_top1": 0.95})

    knn = {"metric": "knn_top1", "protocol": "knn-instdisc-v2"}
    sound, broken = read_entries([
        model("a/one", {"value": 0.1}, {**knn, "value": 0.2, "arguments": {"k": 20, "temperature": 0.1}}),
        model("a/two", {"value": 0.3, "protocol": "linear-b"}, {**knn, "value": 0.4, "arguments": {"k": 200, "temperature": 0.1}}),
        model("a/three", {"value": 0.5, "arguments": {"crops": 2}}, {"value": 0.6, "split": "validation"}),
        model("a/four", {"value": 0.7, "protocol": "own"}, {"value": 0.8, "dataset": "easy"}, {"value": 0.9, "split": "train"}),
        model("a/five", {"value": 0.15, "arguments": {"selected_lr": 1}}, {"value": 0.16, "arguments": {"selected_lr": 2}}),
    ])  # fmt: skip
    assert broken == []
    tables = table.make_tables(table.filter_rows(sound, "", [], [], [], [], []))
    headings = {found.benchmark: [table.heading(column, found.columns) for column in found.columns] for found in tables}
    assert headings == {
        "digits": ["kNN", "Linear linear-a", "Linear linear-a crops=2", "Linear linear-b"], "digits (validation)": ["Linear"],
    }  # fmt: skip
    found = {
        (row.entry.name, one.benchmark): ([value and round(value, 9) for value in row.values], row.reference)
        for one in tables for row in one.rows
    }  # fmt: skip
    assert found == {
        ("a/one", "digits"): ([None, 10, None, None], 90), ("a/two", "digits"): ([40, None, None, 30], 90),
        ("a/three", "digits"): ([None, None, 50, None], 90), ("a/four", "digits"): ([None, None, None, None], 90),
        ("a/five", "digits"): ([None, 16, None, None], 90), ("a/three", "digits (validation)"): ([60], 95),
    }  # fmt: skip
    assert [entry.name for entry, _ in table.filter_rows(sound, "", ["digits (validation)"], [], [], [], [])] == ["a/three"]
    assert table.filter_rows(sound, "", [], [], [], [], [sound[0].epochs + 1]) == []


def test_data_sets_never_share_a_ranking_and_few_models_no_axis(runs):
    def model(name: str, dataset: str, value: float, **block):
        number = {"metric": "knn_top1", "value": value, "when": "last", "protocol": "knn-instdisc-v2", "split": "test", "dataset": dataset}
        linear = {"metric": "linear_top1", "value": 1.5 - value, "protocol": "linear-features-v1"}  # the other way round
        numbers = [{**number, "arguments": {"k": 200, "temperature": 0.1}}, {**number, **linear, "arguments": {"of": "last epoch"}}]
        return listed(runs, name, dataset=dataset, processes=1, numbers=numbers, **block)

    digits = [model(f"a/digits-{index}", "digits", 0.9 + index / 100, reference={}, seconds=10.0 + index) for index in range(4)]
    cifar = [
        model("sslzoo/simclr-cifar10", "uoft-cs/cifar10", 0.88, reference={"knn_top1": 0.878}, seconds=7300.0),
        model("a/dino-cifar10", "uoft-cs/cifar10", 0.864, reference={"knn_top1": 0.871}, init_from="facebook/dinov2-small", method="dino"),
    ]
    entries, broken = read_entries([*digits, *cifar])
    assert broken == []
    tables = table.make_tables(table.filter_rows(entries, "", [], [], [], [], []))
    assert [(found.benchmark, len(found.rows)) for found in tables] == [("uoft-cs/cifar10", 2), ("digits", 4)], "references first"
    assert [row.entry.name for row in tables[1].rows] == [f"a/digits-{index}" for index in (3, 2, 1, 0)], "best kNN first"
    assert len(tables[1].columns) == 2
    html = leaderboard(tables)
    assert ">+0.2<" in html and ">−0.7<" in html and ">2.0 h<" in html and ">12 s<" in html
    assert "facebook/dinov2-small<small>apache-2.0</small>" in html, "the base model and its licence"
    assert "a/dino-cifar10" in few_models(tables) and "digits" not in few_models(tables)
    figure = cost_figure(tables[1:])
    assert sum(len(points.x) for points in figure.data) == 4 and figure.layout.xaxis.ticktext == ("10 s",)
    labels = {text for points in figure.data for text in points.text}
    assert {"digits-0", "digits-3"} <= labels, "points have names"
    shown = model_page.relatives(entries[4], tables)
    assert "Next to it on uoft-cs/cifar10" in shown and "a/dino-cifar10" in shown and "a/digits-0" in shown
    sides = compare_page.comparison(entries[4], entries[5])
    assert '<td class="wins">88.00<span> best</span></td><td>86.40</td>' in sides


def test_losses_of_different_methods_have_axes_of_their_own():
    curves = {name: {"loss": ([0, 1], [1.0, 0.5])} for name in ("a", "b")}
    apart = loss_figure(curves, {"a": "simclr", "b": "dino"})
    assert [line.yaxis for line in apart.data] == ["y", "y2"] and "Loss of b" in [title.text for title in apart.layout.annotations]
    assert {line.yaxis for line in loss_figure(curves, {"a": "dino", "b": "dino"}).data} == {None}


def test_the_plot_is_drawn_where_the_first_tables_stay(browser, serve_here):
    def unreachable():
        raise ConnectionError

    page, wrong = visit(browser, serve_here(Board(unreachable)), 1440)
    page.locator("#models .end").scroll_into_view_if_needed()
    expect(page.locator("#cost .scatterlayer").first).to_be_attached()
    page.close()
    assert wrong == []


def test_the_first_tables_are_part_of_the_page(one_card):
    answer = threading.Event()
    try:
        page = build(Board(lambda: answer.wait(600) and [], one_card, patience=600)).get_config_file()
    finally:
        answer.set()
    (models,) = [part for part in page["components"] if part["props"].get("elem_id") == "models"]
    assert "simclr-res6-digits" in models["props"]["value"]


def test_what_the_first_page_shows_is_known_without_torch():
    assert set(table._PROTOCOLS) == set(PROTOCOLS)
    assert METHOD_NOTES.keys() == {*shipped_names()}
    for name in shipped_names():
        note, method = METHOD_NOTES[name], method_class(name)
        assert note.paper == method.paper and note.idea == inspect.getmodule(method).__doc__.splitlines()[0]


def test_an_image_unlike_the_training_images_is_told():
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(100, 8, generator=generator) + 4 * torch.nn.functional.one_hot(torch.arange(100) % 4, 8)
    familiarity, normalised = Familiarity.of(bank), torch.nn.functional.normalize(bank, dim=1)

    def warning(features):
        return familiarity.warning(normalised @ torch.nn.functional.normalize(features, dim=0))

    assert warning(bank[0] + 0.01) == ""
    assert "Far from what this model saw" in warning(-bank.mean(dim=0))
    assert "about equally near" in familiarity.warning(torch.full((100,), 0.99))


def test_models_are_told_apart_by_what_they_started_from(runs):
    sound, broken = read_entries([listed(runs, "a/fresh"), listed(runs, "a/continued", init_from=f"facebook/dinov2-small@{'ab' * 20}")])
    assert broken == [] and [entry.start for entry in sound] == ["random weights", "facebook/dinov2-small"]
    assert [entry.name for entry, _ in table.filter_rows(sound, "", [], [], [], ["facebook/dinov2-small"], [])] == ["a/continued"]
    assert "facebook/dinov2-small" in model_page.facts(sound[1]) and "facebook/dinov2-small" in compare_page.comparison(*sound)


def test_the_listing_is_refreshed_and_outlives_the_hub(runs, tmp_path):
    threads, response = [], [listed(runs)]

    def list_models():
        threads.append(threading.current_thread())
        if not response:
            raise ConnectionError("away")
        return list(response)

    def join():
        for thread in threads:
            thread.join()

    hub = Board(list_models, tmp_path, max_age=3600)
    assert list(hub.wait_for_hub().entries) == [RES] and "the Hub, asked at" in hub.current().source
    assert len(threads) == 1
    hub = Board(list_models, tmp_path, max_age=0)
    join()
    response.append(listed(runs, ADA))
    hub.current()
    join()
    assert len(hub.current().entries) == 2
    join()
    response.clear()
    hub.current()
    join()
    assert len(hub.current().entries) == 2, "the listing stays while the Hub is away"
    slow = threading.Event()
    started = time.monotonic()
    hub = Board(lambda: slow.wait(600) and [listed(runs)], tmp_path, patience=0.2)
    assert "as the Hub has not answered" in hub.current().source and time.monotonic() - started < 0.2, "the first page waits for nothing"
    assert "as the Hub has not answered" in hub.wait_for_hub().source and 0.2 <= time.monotonic() - started < 10
    assert "as the Hub has not answered" in hub.current().source, "a visitor waits no longer than `patience`"
    slow.set()


def test_curves_skip_what_is_not_a_number_and_are_bounded():
    good = [json.dumps({"step": step, "loss": 2.0, "lr": 0.1, "knn_top1 k=20 T=0.1": 0.5}) for step in range(5000)]
    bad = [
        "{", "[" * 100_000, "7", '{"loss": 1}', '{"step": "1", "loss": 1}', '{"step": 1, "loss": NaN}', '{"step": 1, "loss": "<b>"}',
        '{"step": 1, "knn_top1 ' + "x" * 100 + '": 0.5}', *(f'{{"step": 1, "knn_top1 {index}": 0.5}}' for index in range(1000)),
    ]  # fmt: skip
    curves = read_curves(iter([*good, *bad]))
    assert len(curves) == 12 and all(len(steps) == len(values) <= 600 for steps, values in curves.values())
    assert curves["loss"][1] == [2.0] * len(curves["loss"][0]) and curves["k=20 T=0.1"][1][0] == 50
    figure = accuracy_figure({"a": {"k=20 T=0.1": ([1], [2]), "k=9": ([1], [3])}, "b": {"k=20 T=0.1": ([1], [4])}})
    assert [(line.name, line.y[0]) for line in figure.data] == [("a", 2), ("b", 4)], "two models in one and the same setting"
    half = {"k=20 T=0.1": ([0, 9], [1, 2]), "k=20 T=0.1 knn-instdisc-bf16-v2": ([3, 6, 9], [1, 3, 4])}
    figure = accuracy_figure({"a": half, "b": half})
    assert [line.y for line in figure.data] == [(1, 3, 4), (1, 3, 4)], "the epochs of runs in half precision, not their ends"


def test_uploads_are_upright_and_without_metadata(tmp_path):
    file = tmp_path / "image"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x010E] = "at home"
    half = Image.new("RGB", (40, 20), "red")
    half.paste("blue", (0, 0, 20, 20))
    half.save(file, "PNG", exif=exif)
    upright = open_upload(str(file))
    assert upright.size == (20, 40) and upright.getpixel((5, 5)) == (0, 0, 255) and upright.getpixel((5, 35)) == (255, 0, 0)
    assert not upright.getexif() and not upright.info
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(file, "PNG")
    assert open_upload(str(file)).getpixel((0, 0)) == (128, 128, 128), "16 bits are scaled, not clipped"
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(file, "PNG")
    assert open_upload(str(file)).getpixel((0, 0)) == (255, 255, 255), "what is transparent is white"
    Image.new("RGB", (3000, 30)).save(file, "JPEG")
    assert max(open_upload(str(file)).size) <= 1024
    half.save(file, "PNG")
    for data in (file.read_bytes()[:60], b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        file.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as an image"):
            open_upload(str(file))


@pytest.fixture(scope="module")
def usable(runs, digit, tmp_path_factory) -> Entry:
    """The entry of a model that can be used as it is."""
    folder = tmp_path_factory.mktemp("usable")
    for file, data in runs[RES].items():
        (folder / file).write_bytes(data)
    (entry,), _ = read_entries([listed(runs)])
    entry = dataclasses.replace(entry, folder=folder)
    assert len(Inspector().inspect(entry, str(digit[0])).neighbours) == 8
    return entry


@pytest.mark.parametrize("name, change, said", [
    ("config.json", {"hidden_sizes": [10**9, 10**9]}, "config.json of .* says hidden_sizes"),
    ("config.json", {"depths": [1, 10**6]}, "config.json of .* says depths"),
    ("config.json", {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil"}}, "config.json of .* says model_type: evil"),
    ("config.json", {"num_channels": 5}, "takes images of 5 channels, and pictures, which this page takes, have 3"),
    ("preprocessor_config.json", {"crop_size": {"height": 10**6, "width": 10**6}}, "needs images of 1000000 px"),
    ("preprocessor_config.json", {"crop_pct": 1e-9}, "crops images to 1e-09 of their side"),
    ("preprocessor_config.json", {"image_mean": "x"}, "mean or standard deviation|cannot be loaded|cannot tell|image_std above 0"),
    ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "mean or standard deviation|cannot be loaded|cannot tell|image_std above 0"),
    ("model.safetensors", None, "are not those that its card describes"),
])  # fmt: skip
def test_a_strangers_model_is_checked_before_it_is_loaded(usable, digit, tmp_path, name, change, said):
    entry = dataclasses.replace(usable, folder=shutil.copytree(usable.folder, tmp_path / "changed"))
    (entry.folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    file = entry.folder / name
    file.write_bytes(json.dumps({**json.loads(file.read_bytes()), **change}).encode() if change else file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=said):
        Inspector().inspect(entry, str(digit[0]))
    assert not (tmp_path / "canary").exists()


def test_a_data_set_that_no_recipe_names_is_not_opened(runs, digit, tmp_path):
    for file, data in runs[RES].items():
        (tmp_path / file).write_bytes(data)
    (entry,), _ = read_entries([listed(runs, dataset=str(TESTS))])
    inspection = Inspector().inspect(dataclasses.replace(entry, folder=tmp_path), str(digit[0]))
    assert inspection.neighbours == [] and "no recipe that comes with sslzoo uses it" in inspection.about and len(inspection.maps) == 2


def test_the_cache_keeps_the_most_recently_used():
    made = []
    cache = LRUCache(2)
    for key in "abacab":
        cache.get(key, lambda key=key: made.append(key))
    assert made == list("abcb"), "a was used again before c came, b was not"
    with pytest.raises(InputError):
        cache.get("x", lambda: (_ for _ in ()).throw(InputError("x")))
    cache.get("x", lambda: made.append("x"))
    assert made[-1] == "x", "an error is not remembered"


def test_app_prints_its_address_and_ends_with_an_interrupt(monkeypatch):
    """In this process, where everything is imported; Python's default handler is what a terminal's Ctrl-C reaches."""
    pages, printed = [], queue.SimpleQueue()

    def visit_and_interrupt():
        try:
            pages.append(httpx2.get(re.search(r"http://\S+", printed.get(timeout=600))[0]).text)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setenv("GRADIO_SERVER_NAME", "127.0.0.1")
    monkeypatch.setattr("builtins.print", lambda *texts, flush=False, **_: printed.put(*texts) if flush else None)
    visitor = threading.Thread(target=visit_and_interrupt)
    visitor.start()
    try:
        runpy.run_path(str(TESTS.parent / "space" / "app.py"), run_name="__main__")
    except KeyboardInterrupt:
        pytest.fail("the interrupt is not caught")
    finally:
        visitor.join()
        gr.close_all(verbose=False)
    assert "leaderboard" in pages[0].lower()
