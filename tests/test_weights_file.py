"""Files of others are read without running them, whatever they hold, and without filling the memory."""

import argparse
import collections
import datetime
import json
import pathlib
import pickle
import struct
import sys
import types
import typing
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sslzoo.cli import main
from sslzoo.errors import InputError
from sslzoo.hub.weights_file import read_tensors

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


def saved(held, file, **how):
    torch.save(held, file, **how)
    return file


class Odd:
    """What no file of weights should hold."""


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


class Told(Calls):
    """Calls a class and gives what it made a state."""

    def __init__(self, function, state):
        self.called = function, (), state


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes instances of classes of libraries that are here only while the file is written."""

    def made(module, name, base=object, **state):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name_of_module = ".".join(parts[:end])
            if name_of_module not in sys.modules:
                monkeypatch.setitem(sys.modules, name_of_module, types.ModuleType(name_of_module))
        kind = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, kind)
        instance = kind()
        instance.__dict__.update(state)
        return instance

    return made


class TestBeside:
    """What training scripts put beside their tensors."""

    @pytest.mark.parametrize("old", [False, True])
    @pytest.mark.parametrize(
        "beside",
        [
            argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=[1]), path=pathlib.Path("/tmp/x")),
            types.SimpleNamespace(a=1),
            collections.defaultdict(list, a=[1]),
            collections.defaultdict(dict, a={"b": 2}),
            collections.deque([1, 2], maxlen=3),
            collections.Counter("ab"),
            pathlib.PureWindowsPath("c:/x"),
            datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
            datetime.timedelta(1),
            np.float64(3.5),
            np.arange(3),
            np.int64(2),
            {"epoch": 3, "none": None, "flag": True, "list": [1, (2, 3)], "set": {1}},
        ],
        ids=lambda beside: type(beside).__name__,
    )
    def test_is_left_aside(self, beside, old, tmp_path):
        file = saved({"model": WEIGHTS, "args": beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        found = read_tensors(file)
        assert {name: value.tolist() for name, value in found.items()} == {
            f"model.{name}": value.tolist() for name, value in WEIGHTS.items()
        }

    @pytest.mark.parametrize(
        ("module", "name", "base", "state"),
        [
            ("omegaconf.dictconfig", "DictConfig", object, {"_content": {"a": 1}, "_metadata": {"ref_type": dict, "key_type": typing.Any}}),
            ("omegaconf.nodes", "AnyNode", object, {"_val": 1}),
            ("easydict", "EasyDict", dict, {"a": 1}),
            ("yacs.config", "CfgNode", dict, {"a": 1}),
            ("pytorch_lightning.utilities.parsing", "AttributeDict", dict, {}),
        ],
    )
    def test_of_libraries_that_are_not_here_is_left_aside(self, module, name, base, state, elsewhere, monkeypatch, tmp_path):
        beside = elsewhere(module, name, base, **state)
        if base is dict:
            beside["lr"] = 0.1
        file = saved({"model": WEIGHTS, "args": beside}, tmp_path / "a.pth")
        monkeypatch.undo()
        assert module not in sys.modules and list(read_tensors(file)) == ["model.a.weight", "model.b"]

    def test_tensors_in_a_kind_of_dict_are_found(self, tmp_path):
        held = collections.defaultdict(dict, model=collections.OrderedDict(WEIGHTS))
        assert list(read_tensors(saved(held, tmp_path / "a.pth"))) == ["model.a.weight", "model.b"]

    @pytest.mark.parametrize("depth", [0, 1, 5])
    def test_tensors_are_found_at_any_depth(self, depth, tmp_path):
        held = {"x": 1, **WEIGHTS}
        for number in range(depth):
            held = {f"level{number}": held, "epoch": 3}
        prefix = "".join(f"level{number}." for number in reversed(range(depth)))
        assert read_tensors(saved(held, tmp_path / "a.pth")).keys() == {prefix + name for name in WEIGHTS}


class TestCode:
    """A canary is a file that code in the pickle would write."""

    @pytest.mark.parametrize("old", [False, True])
    @pytest.mark.parametrize("where", ["value", "namespace", "default", "key"])
    def test_is_not_run(self, where, old, tmp_path):
        canary = Calls(open, str(tmp_path / "canary"), "w")
        held = {
            "value": lambda: {"model": WEIGHTS, "x": canary},
            "namespace": lambda: {"model": WEIGHTS, "args": argparse.Namespace(x=canary)},
            "default": lambda: {"model": WEIGHTS, "args": Calls(collections.defaultdict, canary)},
            "key": lambda: {"model": WEIGHTS, "args": Calls(dict, [(1, canary)])},
        }[where]()
        file = saved(held, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(InputError, match="holds more than weights .*may run code"):
            read_tensors(file)
        assert not (tmp_path / "canary").exists()

    def test_is_not_run_by_what_a_namespace_is_told(self, tmp_path):
        told = Told(argparse.Namespace, {"__class__": WEIGHTS, "__setstate__": "x", "__dict__": 3})
        assert list(read_tensors(saved({"model": WEIGHTS, "args": told}, tmp_path / "a.pth"))) == ["model.a.weight", "model.b"]

    @pytest.mark.parametrize("function", [eval, exec, getattr, __import__, pickle.loads, torch.load, torch.hub.load, np.load])
    def test_no_function_is_called(self, function, tmp_path):
        file = saved({"model": WEIGHTS, "x": Calls(function, "1")}, tmp_path / "a.pth")
        with pytest.raises(InputError, match="holds more than weights"):
            read_tensors(file)

    def test_nothing_is_allowed_to_others_afterwards(self, tmp_path):
        file = saved({"model": WEIGHTS, "args": argparse.Namespace(a=1)}, tmp_path / "a.pth")
        before = set(torch.serialization.get_safe_globals())  # torch lists them in no order
        read_tensors(file)
        assert set(torch.serialization.get_safe_globals()) == before
        with pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=True)

    @pytest.mark.parametrize("key", ["state_dict", "model", None, "module"])
    def test_the_lines_of_python_that_are_told_convert_the_file(self, key, tmp_path, monkeypatch):
        if key == "module":
            held = torch.nn.Linear(2, 3)
            expected = held.state_dict()
        else:
            held = {**({key: WEIGHTS} if key else WEIGHTS), "config": Odd()}
            expected = WEIGHTS
        file = saved(held, tmp_path / "it's mine.pth")
        with pytest.raises(InputError, match="save its tensors alone as .safetensors") as caught:
            read_tensors(file)
        assert str(caught.value).isprintable()
        monkeypatch.chdir(tmp_path)
        exec(str(caught.value).split("with this Python code: ")[1])
        found = load_file(tmp_path / "it's mine.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def expanded(shape):
    return torch.zeros(1).expand(shape)


class TestSizes:
    @pytest.mark.parametrize("old", [False, True])
    def test_tensor_that_is_larger_than_its_file_is_refused(self, old, tmp_path):
        file = saved({"conv1.weight": expanded((1000, 1000, 1000, 1000))}, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(InputError, match=r"'conv1.weight' is \(1000, 1000, 1000, 1000\), which is more than the file holds"):
            read_tensors(file)

    def test_many_tensors_that_are_one_are_refused(self, tmp_path):
        one = torch.zeros(100_000)
        with pytest.raises(InputError, match="many times as large"):
            read_tensors(saved({str(number): one[:] for number in range(50)}, tmp_path / "a.pth"))
        assert len(read_tensors(saved({"student": one, "teacher": one}, tmp_path / "b.pth"))) == 2, "two may share what they hold"

    def test_tensor_without_values_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="more than the file holds"):
            read_tensors(saved({"a": torch.empty(10**9, device="meta")}, tmp_path / "a.pth"))

    def test_compressed_archive_is_refused(self, tmp_path):
        saved({"a": torch.zeros(1_000_000)}, tmp_path / "a.pth")
        with zipfile.ZipFile(tmp_path / "a.pth") as stored, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
            for entry in stored.infolist():
                packed.writestr(entry.filename, stored.read(entry))
        with pytest.raises(InputError, match="compressed archive"):
            read_tensors(tmp_path / "b.pth")

    @pytest.mark.parametrize("old", [False, True])
    def test_bytes_that_are_asked_for_are_refused(self, old, tmp_path):
        held = {"a": torch.zeros(1), "x": Calls(bytearray, 10**11)}
        with pytest.raises(InputError, match="bytearray"):
            read_tensors(saved(held, tmp_path / "a.pth", _use_new_zipfile_serialization=not old))

    def test_dicts_in_one_another_without_end_are_refused(self, tmp_path):
        held = {"a": torch.zeros(1)}
        held["self"] = held
        with pytest.raises(InputError, match="deep"):
            read_tensors(saved(held, tmp_path / "a.pth"))

    def test_dicts_that_hold_one_another_many_times_are_refused(self, tmp_path):
        held = {"a": 1}
        for _ in range(40):
            held = {"a": held, "b": held}
        with pytest.raises(InputError, match="more than 1,000,000 entries"):
            read_tensors(saved(held, tmp_path / "a.pth"))


class TestDamage:
    @pytest.mark.parametrize(
        "content", [b"", b"\0", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x80\x02.", b"\x80\x04K\1.", b"{", b"a" * 100, bytes(999)]
    )
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
    def test_is_told_in_one_line(self, content, suffix, tmp_path):
        file = tmp_path / f"a{suffix}"
        file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_tensors(file)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("old", [False, True])
    def test_of_any_byte_is_told_in_one_line_or_does_no_harm(self, old, tmp_path):
        content = saved(WEIGHTS, tmp_path / "a.pth", _use_new_zipfile_serialization=not old).read_bytes()
        for place in range(0, len(content), max(1, len(content) // 150)):
            broken = bytearray(content)
            broken[place] ^= 0xFF
            (tmp_path / "b.pth").write_bytes(broken)
            try:
                read_tensors(tmp_path / "b.pth")
            except InputError as error:
                assert str(error).isprintable()

    def test_safetensors_that_holds_only_metadata(self, tmp_path):
        save_file({}, tmp_path / "a.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match="no tensors by name"):
            read_tensors(tmp_path / "a.safetensors")

    def test_safetensors_that_claims_more_than_it_holds(self, tmp_path):
        header = json.dumps({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
        with pytest.raises(InputError, match="cannot be read as safetensors"):
            read_tensors(tmp_path / "a.safetensors")

    def test_a_file_is_known_by_what_is_in_it(self, tmp_path):
        save_file(WEIGHTS, tmp_path / "a.pth")
        assert read_tensors(tmp_path / "a.pth").keys() == WEIGHTS.keys()

    def test_two_tensors_of_one_name(self, tmp_path):
        with pytest.raises(InputError, match="two tensors named 'a.b'"):
            read_tensors(saved({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}, tmp_path / "a.pth"))

    def test_torchscript(self, tmp_path):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
        with pytest.raises(InputError, match="TorchScript"):
            read_tensors(tmp_path / "a.pt")


class TestCommand:
    @pytest.mark.parametrize("held", [{}, {"a": 1}, {"\n\x1b[31mred": torch.zeros(2)}, {"conv1.weight": torch.zeros(())}, torch.zeros(3)])
    def test_tells_one_line_and_leaves_nothing(self, held, tmp_path, capsys):
        file = saved(held, tmp_path / "a.pth")
        assert main(["import", str(file), "--output", str(tmp_path / "mine")]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and said.err.rstrip("\n").isprintable() and not said.out
        assert [one.name for one in tmp_path.iterdir()] == ["a.pth"]

    def test_refuses_a_folder(self, tmp_path, capsys):
        (tmp_path / "model").mkdir()
        assert main(["import", str(tmp_path / "model"), "--output", str(tmp_path / "mine")]) == 2
        assert "is a folder" in capsys.readouterr().err and not (tmp_path / "mine").exists()

    def test_refuses_a_folder_that_cannot_be_written(self, tmp_path, capsys):
        from foreign_networks import res6

        file = saved(res6().state_dict(), tmp_path / "a.pth")
        assert main(["import", str(file), "--output", str(file / "mine")]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_says_what_was_taken_and_the_folder_last(self, tmp_path, capsys):
        from foreign_networks import res6

        state = {f"module.encoder_q.{name}": value for name, value in res6().state_dict().items()} | {"module.queue": torch.zeros(3)}
        assert main(["import", str(saved(state, tmp_path / "a.pth")), "--output", str(tmp_path / "mine")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "res6 of branch 'module.encoder_q'" and lines[-1] == str(tmp_path / "mine")
        assert "3 tensors outside the encoder left aside: fc (2), queue" in lines and lines[-2].startswith("images: short side to 256 px")
