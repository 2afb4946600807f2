"""README.md and docs/: each command is run by a test or says why not, and names what exists. Figures and tables agree with the code."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image

from sslzoo.cli import main
from sslzoo.cli_parser import make_parser
from sslzoo.data.digits import scattered_digits
from sslzoo.explain import key_meanings
from sslzoo.methods import method_class, shipped_names
from sslzoo.recipe import matching_recipes, parse_changes, read_values, shipped_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DRAWN = sorted(yaml.safe_load((ROOT / "docs/hooks/figures.yaml").read_text(encoding="utf-8")))
NEEDS = ("needs the Hub", "needs a GPU")
HERE = "run by tests/test_documentation.py::test_the_commands_that_need_no_network_run"


class Block(NamedTuple):
    """A ```bash block of a page, and the HTML comment before it, which says what runs it or what it needs."""

    page: str
    marker: str
    lines: list[str]


def blocks() -> list[Block]:
    pattern = re.compile(r"^(?:<!-- ([^\n]*?) -->\n)?```(?:bash|sh|shell|console).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [
        Block(page.name, found[1] or "", [line for line in found[2].splitlines() if line.split("#")[0].strip()])
        for page in PAGES for found in pattern.finditer(page.read_text(encoding="utf-8"))
    ]  # fmt: skip


def inline() -> list[str]:
    """Commands between backticks, those of tables among them."""
    text = "\n".join(re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE) for page in PAGES)
    return sorted({" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)})


def commands() -> list[str]:
    return [*(line for block in blocks() for line in block.lines), *inline()]


def sslzoo_arguments(command: str) -> list[str] | None:
    """The arguments of `sslzoo` in a command, also in one of a shell or a container."""
    found = re.search(r"(?:^|\s)sslzoo ([a-z]+\b[^;]*)", command)
    return shlex.split(found[1].replace("RECIPE", "digits/simclr"), comments=True) if found else None


def test_each_command_is_run_by_a_test_or_says_what_it_needs():
    assert len(blocks()) > 10
    for block in blocks():
        file, _, test = block.marker.removeprefix("run by ").partition("::")
        is_run = block.marker.startswith("run by tests/") and f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")
        assert is_run or block.marker in NEEDS, f"{block.page}: '{block.lines[0]}' has no comment such as <!-- {NEEDS[0]} --> before it"


def test_each_command_of_sslzoo_is_one(capsys):
    names = next(action.choices for action in make_parser()._actions if action.dest == "command")
    seen = [found for found in map(sslzoo_arguments, commands()) if found]
    assert len(seen) > 30
    for arguments in seen:
        if len(arguments) == 1:
            assert arguments[0] in names, arguments
            continue
        try:
            options = make_parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"sslzoo {shlex.join(arguments)}: {capsys.readouterr().err}")
        if options.command in ("train", "explain"):
            check_recipes([options.recipe] if isinstance(options.recipe, str) else options.recipe, options.set)


def check_recipes(names: list[str], changes: list[str]) -> None:
    for name in names:
        for recipe in matching_recipes(name):
            meanings = key_meanings(read_values(shipped_recipes()[recipe])["method"])
            for key in parse_changes(changes):
                assert key in meanings or f"*.{key.rpartition('.')[2]}" in meanings, f"{name} has no key {key}"


def test_each_file_and_target_of_make_that_a_command_names_exists():
    targets = set(re.findall(r"^([\w./]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in commands():
        for file in re.findall(r"(?<![\w/.])(?:benches|container|recipes|sslzoo|space|tests)/[\w/]+\.\w+", command):
            assert (ROOT / file).is_file(), command
        if command.startswith("make "):
            assert set(command.removeprefix("make ").split()) <= targets, command


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the photos and runs that the pages name, all of them small; the tests run in it."""
    folder = tmp_path_factory.mktemp("workplace")
    for split, count in (("train", 40), ("test", 20)):
        images, labels = scattered_digits(split)
        for index, (image, label) in enumerate(zip(images[:count], labels[:count].tolist(), strict=True)):
            file = folder / "path/to/photos" / split / str(label) / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree("path/to/photos", "folder/of/photos")
        assert not main(["train", "digits/simclr", "--cpu", "--output", "runs/mine", "--set", "dataset=path/to/photos", *SMALL])
        for name in ("other", "simclr-res18-cifar10", "simclr-res6-digits"):
            shutil.copytree("runs/mine", f"runs/{name}")
        yield folder


SMALL = ["epochs=1", "batch_size=20"]
MORE = {"train": ["--cpu", "--set", *SMALL], **dict.fromkeys(("evaluate", "embed", "similar", "reproduce"), ["--cpu"])}


@pytest.mark.slow
def test_the_commands_that_need_no_network_run(workplace, capfd):
    found = [sslzoo_arguments(line) for block in blocks() if block.marker == HERE for line in block.lines]
    assert len(found) > 8 and None not in found
    for arguments in found:
        assert not main([*arguments, *MORE.get(arguments[0], [])]), (arguments, capfd.readouterr().err)
    for name in ("both.png", "features.parquet", "encoder.onnx", "similar/pairs.csv", "runs/simclr-res18-cifar10/README.md"):
        assert (workplace / name).is_file(), name


def test_the_readmes_model_is_loaded_as_it_says(workplace):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], namespace)
    assert namespace["encoder"](torch.zeros(1, 3, 16, 16)).pooler_output.shape[0] == 1


def test_the_table_of_the_reference_page_is_that_of_the_recipes():
    rows = {}
    for name, file in shipped_recipes().items():
        method, _, epochs = name.removeprefix("cifar10/").partition("-b512")
        numbers = re.match(r"# Reference: knn top1 ([\d.]+) %; ([\d.]+) min, ([\d.]+) GiB", file.read_text().splitlines()[1])
        if name.startswith("cifar10/") and "-b512" in name:
            rows.setdefault(method, {})[epochs] = numbers.groups()
    best = sorted(rows.items(), key=lambda row: -float(row[1]["-e800"][0]))
    table = [f"| {' | '.join((method, *row[''][:2], *row['-e800']))} |" for method, row in best]
    text = (ROOT / "docs/choose.md").read_text(encoding="utf-8")
    assert text.split("<!-- reference page -->\n")[1].split("\n<!--")[0].splitlines()[2:] == table and len(table) == 12


@pytest.fixture(scope="module")
def figures():
    file = ROOT / "docs/hooks/figures.py"
    spec = importlib.util.spec_from_file_location("figures", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_of_methods_that_exist(figures):
    assert set(figures.FIGURES) == set(DRAWN) <= set(shipped_names())
    assert figures.draw("no-such-method", "") == ""


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_shows_the_networks_and_states_that_its_method_has(name, figures):
    figure, cls = figures.FIGURES[name], method_class(name)
    with torch.device("meta"):
        method = cls(cls.config_class())
    text = str(figure)
    for part in ("predictor", "decoder"):
        assert (part in text) == hasattr(method, part), part
    assert ("average" in figure) == bool({"teacher", "key"} & dict(method.named_children()).keys())
    assert ("frozen" in figure) == hasattr(method, "set_teacher")
    has_prototypes = any("prototypes" in part for part, _ in [*method.named_modules(), *method.named_parameters()])
    assert ("prototypes" in text) == has_prototypes
    assert ("queue" in text) == ("queue_length" in cls.config_class.hyperparameters())
    svg = figures.draw(name, "a label")
    assert all(box.count("<tspan") <= 3 for box in re.findall("<text>.*?</text>", svg)), "more lines than a box is high"
    for label in [figure["loss"], *re.findall(r"[^>]+", figure["trained"][0])]:
        assert all(word in svg for word in label.replace("'", "&#x27;").split()), label
