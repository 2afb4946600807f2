"""Imports point down. DESIGN.md, rule 4."""

import ast
from pathlib import Path

import pytest

import sslzoo

ROOT = Path(sslzoo.__file__).parent
# The .pyi files say what a package imports when a name of it is first used.
FILES = sorted(file.relative_to(ROOT) for file in ROOT.rglob("*.py*") if file.suffix in (".py", ".pyi"))

# A module may import of lower levels and of its own folder. `sslzoo` itself gives the methods, so it stands above them.
LEVELS = {
    "errors": -3, "paper": -3, "files": -2, "processes": -2, "memory": -2, "compilation": -2, "accelerator": -1, "stopping": -1,
    "parts": 0.5, "encoders": 0, "views": 0, "data": 0, "optim": 0, "checkpoint": 0,
    "method_files": 0.6, "method_config": 0.7, "pretrained_method": 0.8,
    "method": 1, "evaluation": 1,
    "methods": 2,
    "": 2.5,
    "recipe": 3,
    "provenance": 3.5,
    "run": 4,
    "training": 5, "inference": 5, "export": 5, "hub": 5,
    "reproduce": 5.5, "contact_sheet": 5.5, "similar": 5.7,
    "explain": 3.2, "cli_parser": 3, "cli_catalogue": 5.8, "jobs": 5.8,
    "cli_console": 3, "cli_jobs": 5.9, "cli_training": 5.95, "cli": 6, "__main__": 7,
}  # fmt: skip

UPWARD = {("pretrained_method", "hub")}  # transformers' rule that a model publishes itself, imported when it does


def place(file):
    """The module's first name inside `sslzoo`: "methods" for methods/dino.py, "" for __init__.py."""
    return "" if file.stem == "__init__" and len(file.parts) == 1 else file.with_suffix("").parts[0]


def imported(file):
    """Every module of sslzoo that the file imports anywhere, as parts of its name behind "sslzoo"."""
    folder = list(file.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == "sslzoo")
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = ["sslzoo", *folder[: len(folder) + 1 - node.level], *base]
            if base[:1] == ["sslzoo"]:
                inside = base[1:]
                for alias in node.names:
                    yield [*inside, alias.name] if is_module([*inside, alias.name]) else inside


def is_module(parts):
    return (ROOT.joinpath(*parts).with_suffix(".py")).is_file() or ROOT.joinpath(*parts, "__init__.py").is_file()


def test_reads_the_imports_of_files_for_certain():
    """The test itself: it sees what is known to be there."""
    assert ["parts", "gather"] in list(imported(Path("parts/nt_xent.py")))
    assert ["errors"] in list(imported(Path("views/view.py"))) and ["views"] in list(imported(Path("method.py")))
    assert [] in list(imported(Path("provenance.py"))) and ["method"] in list(imported(Path("__init__.pyi")))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_down(file):
    assert place(file) in LEVELS, f"give '{place(file)}' a level here and in DESIGN.md"
    own = place(file)
    for parts in imported(file):
        other = parts[0] if parts else ""
        assert other in LEVELS, f"{file} imports sslzoo.{'.'.join(parts)}, which has no level"
        if other == own:
            methods_apart = own == "methods" and len(parts) > 1 and file.stem != "__init__" and parts[1] != file.with_suffix("").parts[1]
            assert not methods_apart, f"{file} imports another method, {parts[1]}"
        elif (own, other) not in UPWARD:
            assert LEVELS[other] < LEVELS[own], f"{file} imports {other}, which is not below it"


def test_no_file_is_named_after_nothing():
    nothing = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [str(file) for file in FILES if nothing & set(file.with_suffix("").parts)]


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] != "methods"], ids=str)
def test_no_condition_outside_methods_names_one(file):
    names = set(sslzoo.method_names())
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Compare | ast.MatchValue):
            told = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
            assert not told & names, f"{file}, line {node.lineno}"


def test_published_code_imports_nothing_of_sslzoo():
    """Two files travel with the weights of small-image ResNets to machines without sslzoo."""
    for name in ("configuration_sslzoo_resnet.py", "modeling_sslzoo_resnet.py"):
        parts = list(imported(Path("encoders/small_resnet", name)))
        assert all(part[:2] == ["encoders", "small_resnet"] for part in parts)
