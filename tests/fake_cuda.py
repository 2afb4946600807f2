"""A training step of each method, and kNN, on a CUDA device that is not there. In a process of its own: autograd counts devices once."""

import ctypes
import json
import subprocess
import traceback
from pathlib import Path

import torch
from test_contract import BATCH, LATE, SIZE, build_shallow, one_of_each_kind, optimizer_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sslzoo.data.resident import ResidentImages
from sslzoo.encoders import features
from sslzoo.evaluation import Preprocessing
from sslzoo.evaluation.knn import nearest
from sslzoo.method import Progress
from sslzoo.methods import method_class
from sslzoo.parts import block_masks
from sslzoo.views import Renderer

IMAGES = 3 * BATCH
HALF = (torch.bfloat16, torch.float16)
PRECISE = {"swav": {"prototypes.weight"}}  # linear layers that a method runs in float32 on purpose


def build_library(path: Path) -> None:
    """Compiles and loads the device."""
    folder = Path(torch.__file__).parent
    if not path.exists():
        source = Path(__file__).with_suffix(".cpp")
        flags = ["-std=c++20", "-shared", "-fPIC", "-w", "-I", folder / "include", "-L", folder / "lib"]
        subprocess.run(["g++", *flags, source, "-ltorch_cpu", "-lc10", "-o", path], check=True)
    ctypes.CDLL(str(path))
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda: True


class Transfers(TorchDispatchMode):
    """Refuses copies that wait for the device: all to the host, and those to the device that are not `non_blocking`."""

    def __init__(self):
        super().__init__()
        self.operations = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operations.add(function.overloadpacket.__name__)
        if function is torch.ops.aten._pin_memory.default:  # which FakeTensorMode does not know
            return args[0].clone()
        if function is torch.ops.aten._fused_sgd_.default:  # nor this, which gives nothing
            return None
        out = function(*args, **kwargs)
        if function is torch.ops.aten._to_copy.default and out.device != args[0].device:
            assert out.device.type == "cuda", "a tensor is read back from the device"
            assert kwargs.get("non_blocking"), "a copy to the device waits for it"
        if function is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            assert args[0].device.type == "cuda", "a tensor is read back from the device"
        return out


class Types(TorchFunctionMode):
    """Records the types that layers and plain products give, and the weights of linear layers that give float32."""

    layers = {"conv2d", "scaled_dot_product_attention"}
    products = {"matmul", "__matmul__", "mm", "bmm", "einsum", "addmm", "baddbmm"}

    def __init__(self):
        super().__init__()
        self.found = {"layers": set(), "linear": set(), "products": set()}
        self.precise = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for kind, names in (("layers", self.layers), ("linear", {"linear"}), ("products", self.products)):
            if getattr(function, "__name__", "") in names:
                self.found[kind].add(out.dtype)
                if kind == "linear" and out.dtype == torch.float32:
                    self.precise.append(args[1])
        return out


def to_device(method: nn.Module) -> nn.Module:
    """Gives the method tensors of the same shapes on the device: those that have been made outside of the fake mode are real."""
    teacher = getattr(method, "teacher", None)  # of distillation, none of the method's modules
    for module in (*method.modules(), *(teacher.modules() if teacher is not None else ())):
        for name, value in module.named_parameters(recurse=False):
            empty = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            module._parameters[name] = nn.Parameter(empty, value.requires_grad)
        for name, value in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return method


def images() -> ResidentImages:
    """Images of 20 x 24 px on the device."""
    pixels = torch.empty(IMAGES, 3, 20, 24, dtype=torch.uint8, device="cuda")
    sizes, numbers = torch.empty(IMAGES, 2, dtype=torch.int64), torch.arange(IMAGES)
    return ResidentImages("fake", "train", ["one", "two"], "", pixels, sizes, numbers, numbers % 2, [""] * IMAGES, [])


def on_device(values: object) -> None:
    """Refuses tensors that are elsewhere."""
    devices = {value.device.type for value in tree_leaves(values) if isinstance(value, torch.Tensor)}
    assert devices == {"cuda"}, f"results are on {devices}"


def step(name: str, mode: FakeTensorMode, rendered: dict[str, list[torch.Tensor]]) -> None:
    """One step in bf16. Raises whatever is wrong.

    Of each kind of encoder one method's step is repeated with the other optimisers, and the neighbours of all images are found.
    rendered: the views of earlier methods; several have the same ones.
    """
    method, first_of_kind = build_shallow(name), name in one_of_each_kind()
    with mode:
        method, data = to_device(method), images()
        presets = list(method_class(name).views(SIZE).values())
        renderer = Renderer(presets, 0)
        kinds = ("adamw", "lars", "sgd") if first_of_kind else ("adamw",)
        optimizers = [optimizer_of(method, kind) for kind in kinds]
        with Transfers() as transfers:
            batch = next(data.batches(torch.arange(IMAGES).split(BATCH)))
            assert "_pin_memory" in transfers.operations, "indices are copied from pinned memory"
            if str(presets) not in rendered:
                with Types() as types:
                    views = renderer(batch.pixels, batch.sizes, batch.samples, LATE)
                assert types.found["products"] == {torch.float16}, "views are multiplied in half precision"
                assert all(view.dtype == torch.float32 for view in views)
                rendered[str(presets)] = views
            views = rendered[str(presets)]
            progress = Progress(1, 100, LATE, 0, batch.samples, lambda: renderer.crops(batch.sizes, batch.samples, renderer.words(LATE)))
            with torch.autocast("cuda", torch.bfloat16), Types() as types:
                out = method(views, progress)
            on_device([views, out])
            assert types.found["layers"] == {torch.bfloat16}, f"layers under autocast give {types.found['layers']}"
            assert torch.bfloat16 in types.found["linear"], "projectors run in float32"
            precise = {key for key, value in method.named_parameters() if any(value is weight for weight in types.precise)}
            assert precise == PRECISE.get(name, set()), f"linear layers that run in float32 are {precise}"
            assert not types.found["products"] & {*HALF}, f"products of the loss are {types.found['products']}"
            assert out["loss"].dtype == torch.float32, "the loss is rounded"
            out["loss"].backward()
            gradients = [(key, value.grad) for key, value in method.named_parameters() if value.requires_grad]
            assert not [key for key, gradient in gradients if gradient is None]
            on_device([gradient for _, gradient in gradients])
            for optimizer in optimizers:
                optimizer.step()
            assert transfers.operations >= {f"_fused_{kind}_" for kind in kinds if kind != "lars"}, "optimisers are not fused"
            with torch.no_grad():
                method.after_step({key: value.detach() for key, value in out.items() if value.ndim}, progress)
            on_device([*method.parameters(), *method.buffers()])
            if not first_of_kind:
                return
            with Types() as types, torch.no_grad():
                rows = features(method.encoder.eval(), Preprocessing(SIZE, SIZE)(batch.pixels, batch.sizes)).float()
                on_device([rows, nearest(rows, rows, 3)])
            assert types.found["layers"] == {torch.float32}, "kNN is measured in float32"


def refusals() -> None:
    """What must not happen on the device fails here."""
    with FakeTensorMode(), Transfers():
        value = torch.empty(3, device="cuda")
        actions = {
            "mixed devices": lambda: value + torch.empty(3), "item": value.sum().item, "truth": lambda: bool(value.sum() > 0),
            "copy to the host": value.cpu, "copy that waits": lambda: torch.empty(3).to("cuda"), "unknown shape": value.nonzero,
        }  # fmt: skip
        for name, action in actions.items():
            try:
                action()
            except Exception:  # as it should
                continue
            raise AssertionError(f"{name} went through")


def write_errors(_, library: Path, names: list[str], file: Path) -> None:
    """Writes {method: null or its error, ...} as JSON into the file; builds the library where it is missing."""
    build_library(library)
    block_masks._BLOCKS, block_masks._TRIES = 1, 100  # as in the contract's tests of graphs
    errors, mode, rendered = {}, FakeTensorMode(), {}
    for name in ("refusals", *names):
        try:
            refusals() if name == "refusals" else step(name, mode, rendered)
            errors[name] = None
        except Exception:  # told by the test
            errors[name] = traceback.format_exc()
    file.write_text(json.dumps(errors))
