"""CONTRIBUTING.md's method as another installed package: known by its entry point wherever one of sslzoo's own is.

The package is made of the page's own blocks, so that the page is complete as it stands.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from python_server import run_python
from small_digits import small_digits

ROOT = Path(__file__).parents[1]
# What a user of the package does. The card lies where the leaderboard looks for that of "sslzoo/<name>".
USE = """
import json, sys
from pathlib import Path
import sslzoo
from sslzoo.cli import main
from sslzoo.hub import card_models, read_entries

recipe, run, data = map(Path, sys.argv[1:])
changes = [f"dataset={data}", "epochs=1", "batch_size=64", "name=queueclr-res6-digits", "queue_length=100"]
assert main(["train", str(recipe), "--cpu", "--output", str(run), "--set", *changes]) == 0
assert main(["card", str(run)]) == 0
method = sslzoo.load(run)
(entry,), quarantined = read_entries(card_models(run.parent))
found = [type(method).__module__, sslzoo.method_name(type(method)), method.config.queue_length, entry.method, len(quarantined)]
print(json.dumps(["queueclr" in sslzoo.method_names(), *found]))
"""


def blocks() -> dict[str, str]:
    """The page's files by their names, which its headings give."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {name: text for name, text in re.findall(r"^## [^\n]*`([\w/.]+)`\n\n```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)}


def install(place: Path, **entry_points: str) -> None:
    """Puts the page's method into a package in the folder, as pip leaves one."""
    (place / "outside").mkdir(parents=True)
    (place / "outside/__init__.py").touch()
    (place / "outside/queueclr.py").write_text(blocks()["sslzoo/methods/queueclr.py"])
    distribution = place / "outside-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in entry_points.items()]
    (distribution / "entry_points.txt").write_text("\n".join(["[sslzoo.methods]", *lines, ""]))


def run_with(place: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs code with the packages in the folder installed, and what this project's tests import."""
    path = os.pathsep.join(filter(None, [str(place), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return run_python(code, *arguments, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder of installed packages, and the page's recipe in it."""
    place = tmp_path_factory.mktemp("site")
    install(place, queueclr="outside.queueclr:QueueCLR")
    (place / "queueclr.yaml").write_text(blocks()["recipes/digits/queueclr.yaml"])
    return place


@pytest.mark.slow
def test_is_trained_loaded_carded_and_listed_like_one_of_ours(site, tmp_path):
    used = run_with(site, USE, str(site / "queueclr.yaml"), str(tmp_path / "queueclr-res6-digits"), small_digits())
    assert used.returncode == 0, used.stderr[-3000:]
    assert json.loads(used.stdout.splitlines()[-1]) == [True, "outside.queueclr", "queueclr", 100, "queueclr", 0]


@pytest.mark.slow
def test_keeps_the_contract_and_passes_the_pages_facts(site, tmp_path):
    facts = tmp_path / "test_queueclr.py"
    facts.write_text(blocks()["tests/facts/test_queueclr.py"].replace('"digits/queueclr"', repr(str(site / "queueclr.yaml"))))
    (tmp_path / "conftest.py").write_text((ROOT / "tests/facts/conftest.py").read_text())
    options = ["-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-k", "queueclr"]
    tried = run_with(site, "import pytest, sys; sys.exit(pytest.main())", *options, str(ROOT / "tests/test_contract.py"), str(facts))
    assert tried.returncode == 0, tried.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", tried.stdout)[1]) > 20


def test_the_pages_recipe_spells_what_ours_spell():
    """The same keys as the digits recipe of the method that it grew from, and its own."""
    ours = yaml.safe_load((ROOT / "recipes/digits/simclr.yaml").read_text())
    pages = yaml.safe_load(blocks()["recipes/digits/queueclr.yaml"])
    assert pages == {**ours, "method": "queueclr", "queue_length": 256}


@pytest.mark.parametrize(
    ("entry_points", "message"),
    [
        ({"queueclr": "outside.no:QueueCLR"}, "the method 'queueclr' of outside cannot be imported: No module named 'outside.no'"),
        (
            {"queueclr": "outside.queueclr:QueueCLRConfig"},
            "the method 'queueclr' of outside is outside.queueclr:QueueCLRConfig, which is no subclass of sslzoo.Method",
        ),
        (
            {"double": "outside.queueclr:QueueCLR"},
            "the method 'double' of outside has the model_type 'sslzoo-queueclr': must be 'sslzoo-double'",
        ),
        ({"simclr": "outside.queueclr:QueueCLR"}, None),
    ],
)
def test_what_is_no_method_is_named_and_none_takes_the_place_of_ours(entry_points, message, tmp_path, monkeypatch):
    from sslzoo import SimCLR, method_class, method_names
    from sslzoo.errors import InputError

    install(tmp_path, **entry_points)
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = entry_points
    assert method_names().count(name) == 1
    if message is None:
        assert method_class(name) is SimCLR
    else:
        with pytest.raises(InputError) as caught:
            method_class(name)
        assert str(caught.value) == message
