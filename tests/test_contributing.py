"""CONTRIBUTING.md's list of parts and presets is that of the files. `python tests/test_contributing.py` prints it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def catalogue() -> str:
    """A line per file of `sslzoo/parts` and per preset of views, each with the first sentence of its docstring."""
    lines = [f"- `parts/{file.name}`: {first_sentence(tree(file))}" for file in sorted((ROOT / "sslzoo/parts").glob("[a-z]*.py"))]
    presets = [node for node in tree(ROOT / "sslzoo/views/presets.py").body if isinstance(node, ast.FunctionDef)]
    return "\n".join([*lines, *(f"- `views/presets.py`, `{preset.name}`: {first_sentence(preset)}" for preset in presets)])


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def first_sentence(node: ast.AST) -> str:
    return ast.get_docstring(node).split("\n")[0]


def test_every_part_and_preset_is_listed_with_what_it_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text.split("<!-- parts -->\n")[1].split("\n<!-- /parts -->")[0] == catalogue()
    assert catalogue().count("\n") > 20


if __name__ == "__main__":
    print(catalogue())
