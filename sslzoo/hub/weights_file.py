"""The tensors in a file of others, by name, without running anything that is in it."""

import mmap
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sslzoo.errors import InputError, first_line, printable

_MOST = 1_000_000  # entries of a file, and tensors among them
_DEEPEST = 64  # dicts in one another


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor in a file of safetensors or of torch.save, in dicts and lists at any depth, by the keys on the way to it.

    What else there is (an optimiser's settings, arguments, epochs) is left aside. Raises `InputError`, without the file's name.
    """
    with open(file, "rb") as opened:
        head = opened.read(9)
    if not head:
        raise InputError("is empty")
    is_safetensors = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= file.stat().st_size
    held = _safetensors(file) if is_safetensors or file.suffix == ".safetensors" else _torch_file(file)
    tensors = _flat(held)
    if not tensors:
        raise InputError("holds no tensors by name, at no depth")
    size = file.stat().st_size
    greedy = next((name for name, value in tensors.items() if value.numel() * value.element_size() > size), None)
    if greedy is not None:
        raise InputError(f"says that '{printable(greedy)}' is {tuple(tensors[greedy].shape)}, which is more than the file holds")
    # Tensors may share what they hold, a teacher with its student, but not all with all.
    if sum(value.numel() * value.element_size() for value in tensors.values()) > 16 * size:
        raise InputError("says that its tensors are many times as large as the file")
    return tensors


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except Exception as error:  # of its Rust, of torch, or KeyError for a type that torch has not
        raise InputError(f"not to be read as safetensors: {first_line(error)}") from error


class _Aside:
    """Stands for an object that a file holds beside its tensors: takes what the file says of it, keeps nothing, runs nothing."""

    def __init__(self, *said: Any):
        pass

    def __new__(cls, *said: Any):
        return super().__new__(cls)

    def __setstate__(self, said: Any) -> None:
        pass


class _Dict:
    """Stands for a kind of dict: a plain one takes its place."""

    def __new__(cls, *said: Any):
        return OrderedDict()


class _List:
    """Stands for a kind of list."""

    def __new__(cls, *said: Any):
        return []


# What training scripts put beside their tensors. None of these classes is used: the file is read as if they were the ones above.
_OMEGACONF = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "InterpolationResult", "Path", "String")
_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
_STANDING = {
    _Aside: [
        "argparse.Namespace", "types.SimpleNamespace", "typing.Any", "typing.Union", "uuid.UUID", "numpy.dtype", "numpy.ndarray", *_NUMPY,
        *(f"pathlib.{inside}{name}" for inside in ("", "_local.") for name in
          ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "range", "slice", "str", "tuple")),
        "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
        *(f"omegaconf.nodes.{name}Node" for name in _OMEGACONF),
    ],
    _Dict: [
        "collections.defaultdict", "easydict.EasyDict", "yacs.config.CfgNode", "addict.addict.Dict", "mmcv.utils.config.ConfigDict",
        *(f"{module}.AttributeDict" for module in
          ("pytorch_lightning.utilities.parsing", "lightning_fabric.utilities.data", "lightning.fabric.utilities.data")),
    ],
    _List: ["collections.deque"],
}  # fmt: skip
_SAFE = [(stands, name) for stands, names in _STANDING.items() for name in names]


def _torch_file(file: Path) -> Any:
    _check_sizes(file)
    try:
        with torch.serialization.safe_globals(_SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols, which fail by themselves where they do
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"holds more than weights ({told[1] if told else 'no pickle of tensors'}), and opening such a file may run code: "
            f"where you trust it, save its tensors alone as .safetensors, by these lines of Python: {_lines(file.name)}"
        ) from error
    except Exception as error:  # of whatever the bytes make of the reader
        raise InputError(f"not to be read as a file of torch.save: {first_line(error)}") from error


def _lines(name: str) -> str:
    return (
        f"import torch, safetensors.torch; held = torch.load({name!r}, map_location='cpu', weights_only=False); "
        "held = held.state_dict() if hasattr(held, 'state_dict') else held.get('state_dict', held.get('model', held)); "
        "safetensors.torch.save_file({key: value.clone() for key, value in held.items() if torch.is_tensor(value)}, "
        f"{Path(name).stem + '.safetensors'!r})"
    )


def _check_sizes(file: Path) -> None:
    """Raises `InputError` for a file that becomes much larger when it is read: torch's are never compressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception:  # no archive, or a broken one, about which torch says more
        entries = []
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise InputError("is a TorchScript archive, which is code: where you trust it, save the state_dict of torch.jit.load's module")
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise InputError("is a compressed archive, which files of torch.save never are: unpack it")
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # The one builtin of those that torch allows that fills as much memory as it is told to.
        if any(content.find(b"c%s\nbytearray\n" % module) >= 0 for module in (b"builtins", b"__builtin__")):
            raise InputError("holds a bytearray, which no file of weights does")


def _flat(held: Any) -> dict[str, Tensor]:
    """A file may hold dicts that hold themselves, or one another many times over: what is walked is counted."""
    tensors, entries = {}, 0
    waiting = [("", 0, held)] if isinstance(held, dict | list | tuple) else []
    while waiting:
        path, depth, found = waiting.pop()
        items = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in items:
            entries += 1
            name = f"{path}{key}"
            if isinstance(value, Tensor):
                if name in tensors:
                    raise InputError(f"holds two tensors of the name '{printable(name)}'")
                tensors[name] = value
            elif isinstance(value, dict | list | tuple):
                if depth == _DEEPEST or entries > _MOST:
                    raise InputError(f"holds dicts more than {_DEEPEST} deep, or more than {_MOST:,} entries: no file of weights does")
                waiting.append((f"{name}.", depth + 1, value))
    return tensors
