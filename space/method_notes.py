"""What a method is and where it comes from, read from the text of its file: importing the methods would import torch, for seconds."""

import ast
from pathlib import Path
from typing import NamedTuple

import sslzoo
from sslzoo.paper import Paper


class MethodNote(NamedTuple):
    idea: str  # one sentence
    paper: Paper


def _read(file: Path) -> MethodNote:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    statements = [inner for outer in tree.body if isinstance(outer, ast.ClassDef) for inner in outer.body]
    call = next(one.value for one in statements if isinstance(one, ast.Assign) and getattr(one.targets[0], "id", "") == "paper")
    values = [ast.literal_eval(argument) for argument in call.args]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return MethodNote(ast.get_docstring(tree).splitlines()[0], Paper(*values, **named))


# Of the methods that come with sslzoo. Read on import, as threads must not parse at the same time: CPython 3.11 then fails now and then.
METHOD_NOTES = {file.stem: _read(file) for file in (Path(sslzoo.__file__).parent / "methods").glob("[!_]*.py")}
