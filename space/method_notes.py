"""What a method is and where it comes from, read from the text of its file: importing the methods would import torch, for seconds."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import sslzoo
from sslzoo.paper import Paper


class MethodNote(NamedTuple):
    idea: str  # one sentence
    paper: Paper


@cache
def _files() -> dict[str, Path]:
    """The files of the methods that come with sslzoo, by the name of the method."""
    return {file.stem: file for file in (Path(sslzoo.__file__).parent / "methods").glob("[!_]*.py")}


@cache
def method_note(method: str) -> MethodNote | None:
    """None for a method that does not come with sslzoo."""
    if method not in _files():
        return None
    tree = ast.parse(_files()[method].read_text(encoding="utf-8"))
    for statement in (inner for outer in tree.body if isinstance(outer, ast.ClassDef) for inner in outer.body):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and statement.targets[0].id == "paper":
            call = statement.value
            values = [ast.literal_eval(argument) for argument in call.args]
            named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
            return MethodNote(ast.get_docstring(tree).splitlines()[0], Paper(*values, **named))
    return None
