"""Machines of other kinds than those the tests run on: Windows' modules and encodings, and devices without float64."""

import ast
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sslzoo
from sslzoo.evaluation import collapse_metrics
from sslzoo.parts.precision import in_float64

PACKAGE = Path(sslzoo.__file__).parent
FILES = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "space").glob("*.py")]


ON_POSIX_ALONE = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}


def test_no_module_needs_at_its_import_what_windows_lacks():
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {getattr(node, "module", None)}
            assert not names & ON_POSIX_ALONE, f"{file.name}:{node.lineno}"


def without_encoding(file: Path) -> list[str]:
    """Calls that read or write text in whatever encoding the machine has, which on Windows is not UTF-8."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        mode = next((part.value for part in node.args[1:2] if isinstance(part, ast.Constant)), "r")
        text = (
            (name == "read_text" and not node.args)  # a path's takes no name, a distribution's does and is always UTF-8
            or name == "write_text"
            or (name == "open" and isinstance(node.func, ast.Name) and mode in ("r", "a", "rt", "wt"))
        )
        if text and "encoding" not in {keyword.arg for keyword in node.keywords}:
            found.append(f"{file.name}:{node.lineno}")
    return found


def test_every_text_file_is_read_and_written_as_utf_8():
    assert [place for file in FILES for place in without_encoding(file)] == []


class NoFloat64(TorchDispatchMode):
    """Apple's devices have none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.device.type == "mps" and value.dtype == torch.float64:
                raise TypeError(f"{function}: MPS has no float64")
        return out


def test_signs_of_collapse_on_a_device_without_float64():
    with FakeTensorMode(), NoFloat64():
        features = torch.empty(8, 16, device="mps")
        with pytest.raises(TypeError, match="no float64"):
            features.double()
        signs = collapse_metrics(features)
        assert {value.device.type for value in signs.values()} == {"mps"}
        assert in_float64(features).device.type == "cpu"


def test_float64_stays_on_devices_that_have_it():
    values = torch.empty(2, 3, device="meta")
    assert in_float64(values).device.type == "meta" and in_float64(values).dtype == torch.float64
