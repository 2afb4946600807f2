"""Reads the tensors of an untrusted weights file (safetensors or torch.save) without running any of its code."""

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

_MAX_ENTRIES = 1_000_000  # of all dicts and lists in a file
_MAX_DEPTH = 64  # of nested dicts and lists


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of the file, by its path: the keys and indices of the dicts and lists around it, joined by dots.

    Everything else in the file (optimiser settings, arguments, epochs) is ignored. Raises `InputError`, whose message does not name the
    file.
    """
    with open(file, "rb") as stream:
        head = stream.read(9)
    if not head:
        raise InputError("is empty")
    is_safetensors = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= file.stat().st_size
    content = _read_safetensors(file) if is_safetensors or file.suffix == ".safetensors" else _read_torch_file(file)
    tensors = _flatten(content)
    if not tensors:
        raise InputError("holds no tensors by name, at any depth")
    size = file.stat().st_size
    oversized = next((name for name, value in tensors.items() if value.numel() * value.element_size() > size), None)
    if oversized is not None:
        raise InputError(f"says that '{printable(oversized)}' is {tuple(tensors[oversized].shape)}, which is more than the file holds")
    # Some tensors may share their storage, as a teacher's with its student's, but not all of them.
    if sum(value.numel() * value.element_size() for value in tensors.values()) > 16 * size:
        raise InputError("says that its tensors are many times as large as the file")
    return tensors


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except Exception as error:  # its Rust code and torch raise their own types; KeyError: a data type that torch lacks
        raise InputError(f"cannot be read as safetensors: {first_line(error)}") from error


class _Ignored:
    """Replaces an object that is not a tensor: accepts its constructor arguments and state, keeps nothing, runs nothing."""

    def __init__(self, *arguments: Any):
        pass

    def __new__(cls, *arguments: Any):
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict:
    """Replaces a subclass of dict by a plain one."""

    def __new__(cls, *arguments: Any):
        return OrderedDict()


class _List:
    """Replaces a kind of list by a plain one."""

    def __new__(cls, *arguments: Any):
        return []


# Classes of objects that training scripts store next to their tensors. None is ever imported: the unpickler gets a replacement.
_OMEGACONF = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "InterpolationResult", "Path", "String")
_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
_REPLACED = {
    _Ignored: [
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
_SAFE_GLOBALS = [(replacement, name) for replacement, names in _REPLACED.items() for name in names]


def _read_torch_file(file: Path) -> Any:
    _check_sizes(file)
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"holds more than weights ({refused[1] if refused else 'no pickle of tensors'}), and opening such a file may run code: "
            f"if you trust it, save its tensors alone as .safetensors with this Python code: {_conversion_code(file.name)}"
        ) from error
    except Exception as error:  # damaged files make the reader raise almost any type
        raise InputError(f"cannot be read as a file of torch.save: {first_line(error)}") from error


def _conversion_code(name: str) -> str:
    return (
        f"import torch, safetensors.torch; held = torch.load({name!r}, map_location='cpu', weights_only=False); "
        "held = held.state_dict() if hasattr(held, 'state_dict') else held.get('state_dict', held.get('model', held)); "
        "safetensors.torch.save_file({key: value.clone() for key, value in held.items() if torch.is_tensor(value)}, "
        f"{Path(name).stem + '.safetensors'!r})"
    )


def _check_sizes(file: Path) -> None:
    """Raises `InputError` for a file that would take much more memory than its size: torch.save never compresses."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception:  # not an archive, or a broken one, about which torch says more
        entries = []
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise InputError("is a TorchScript archive, which is code: if you trust it, save the state_dict of torch.jit.load's module")
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise InputError("is a compressed archive, which files of torch.save never are: unpack it")
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Of the builtins that torch allows, the only one that allocates as much memory as the file asks for.
        if any(content.find(b"c%s\nbytearray\n" % module) >= 0 for module in (b"builtins", b"__builtin__")):
            raise InputError("holds a bytearray, which no file of weights does")


def _flatten(content: Any) -> dict[str, Tensor]:
    """Tensors by path. Dicts may contain themselves, or one another many times over, so entries and depth are limited."""
    tensors, entries = {}, 0
    pending = [("", 0, content)] if isinstance(content, dict | list | tuple) else []
    while pending:
        path, depth, container = pending.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            entries += 1
            name = f"{path}{key}"
            if isinstance(value, Tensor):
                if name in tensors:
                    raise InputError(f"holds two tensors named '{printable(name)}'")
                tensors[name] = value
            elif isinstance(value, dict | list | tuple):
                if depth == _MAX_DEPTH or entries > _MAX_ENTRIES:
                    raise InputError(
                        f"holds dicts more than {_MAX_DEPTH} deep, or more than {_MAX_ENTRIES:,} entries: no file of weights does"
                    )
                pending.append((f"{name}.", depth + 1, value))
    return tensors
