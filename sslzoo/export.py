"""Exporting encoders to ONNX, for use without PyTorch."""

import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.encoders import features, model_folder
from sslzoo.errors import InputError, first_line
from sslzoo.evaluation import Preprocessing, load_encoder
from sslzoo.files import atomic_write

_TOLERANCE = 1e-4
_MAX_BYTES = 2**31  # of one ONNX file


def export_onnx(name: str, file: Path) -> Path:
    """Writes the encoder in a run folder or Hub repository as an ONNX file; returns its path.

    Input "pixel_values": float32 (batch, channels, crop, crop), of any batch size, preprocessed as in the metadata "sslzoo.preprocessing"
    (JSON of `Preprocessing`). Output "features": float32 (batch, width), as from `sslzoo.encoders.features`.

    The file is written only if onnxruntime computes the same features with it, within 1e-4. Raises `InputError`, also for an encoder
    that cannot be exported.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"export needs the package '{error.name}': pip install 'sslzoo[onnx]'") from error
    if file.suffix != ".onnx" or not file.absolute().parent.is_dir():
        raise InputError(f"cannot write '{file}': a file name that ends in .onnx, in a folder that exists, is needed")
    folder = model_folder(name)
    preprocessing = Preprocessing.read(folder)
    encoder = load_encoder(folder, preprocessing)
    size = sum(4 * value.numel() for value in encoder.state_dict().values())
    if size >= _MAX_BYTES:
        raise InputError(f"'{name}' is too large for an ONNX file: its weights take {size / 2**30:.1f} GiB")
    try:
        with atomic_write(file) as temporary:
            _write_checked(name, folder, encoder, preprocessing, temporary)
    except OSError as error:
        raise InputError(f"cannot write '{file}': {first_line(error)}") from error
    return file


def _write_checked(name: str, folder: Path, encoder: PreTrainedModel, preprocessing: Preprocessing, file: Path) -> None:
    """Writes the file. Raises `InputError` if the export fails or onnxruntime computes other features than the encoder."""
    refusal = f"the encoder '{encoder.config.model_type}' of {name} cannot be exported"
    try:
        shape = preprocessing.channels, preprocessing.crop, preprocessing.crop
        program = _program(encoder, shape)
        # Paths of this machine are private: those of the code in stack traces, and that of a local folder.
        for node in program.model.graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
        program.model.metadata_props["sslzoo.source"] = folder.resolve().name if Path(name).expanduser().is_dir() else name
        program.model.metadata_props["sslzoo.preprocessing"] = json.dumps(preprocessing._asdict())
        program.save(file)
        difference = _difference(encoder, file, shape)
    except Exception as error:  # the exporter and onnxruntime raise many kinds
        raise InputError(f"{refusal}: {first_line(_root_cause(error))}") from error
    if not difference <= _TOLERANCE:
        raise InputError(f"{refusal}: onnxruntime's features are {difference:.1e} from its own, more than {_TOLERANCE:.0e}")


def _program(encoder: PreTrainedModel, shape: tuple[int, int, int]) -> torch.onnx.ONNXProgram:
    # The exporter warns of its own deprecated calls and of missing torchvision; the result is checked anyway.
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Two images, as a batch size of one would be exported as a constant.
            return torch.onnx.export(
                _Features(encoder), (torch.zeros(2, *shape),), dynamo=True, verbose=False, input_names=["pixel_values"],
                output_names=["features"], dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            )  # fmt: skip
    finally:
        log.setLevel(level)


@torch.no_grad()
def _difference(encoder: PreTrainedModel, file: Path, shape: tuple[int, int, int]) -> float:
    """The largest difference between the features of onnxruntime and the encoder, on random images in batches of one and three."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).split((1, 3))
    exported = [torch.from_numpy(session.run(["features"], {"pixel_values": batch.numpy()})[0]) for batch in images]
    return (torch.cat(exported) - torch.cat([features(encoder, batch) for batch in images])).abs().max().item()


def _root_cause(error: BaseException) -> BaseException:
    """The first error in the chain of causes."""
    return _root_cause(error.__cause__) if error.__cause__ is not None else error


class _Features(nn.Module):
    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        return features(self.encoder, pixel_values)
