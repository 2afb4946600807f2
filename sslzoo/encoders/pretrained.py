"""Loading an encoder from an untrusted folder: safetensors alone, no code, no downloads, no more memory than its weights."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedModel, ViTConfig, ViTMAEModel, ViTModel

from sslzoo.errors import InputError, first_line
from sslzoo.files import sha256_of

from .architecture import architecture, limit_size
from .folder import CONFIG, read_config, read_json
from .plain import build_encoder

_WEIGHTS = "model.safetensors"
_INDEX = ".index.json"  # behind the name of a file that is split into shards
_ADAPTER = "adapter_config.json"  # PEFT's
_UNSUPPORTED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx")


def load_pretrained(folder: Path, *, strict: bool = False) -> PreTrainedModel:
    """The encoder in `folder` as plain transformers loads it, in float32 and evaluation mode.

    config.json decides the architecture alone; its attention kernels, remote code, precision and outputs are ignored. Of a model of images
    and texts (CLIP, SigLIP), the image encoder is returned. A masked autoencoder is returned as a ViT, as its own class masks three of four
    patches at random even in evaluation.

    strict: every tensor of the encoder must be there, and no other; else those that `features` do not need may be missing or left over.
    Raises `InputError`, also for weights that are not finite, and if config.json describes another or a far larger model.
    """
    weights = _weights(folder)
    try:
        config = architecture(read_config(folder), weights)
        with limit_size(weights):
            encoder, report = MODEL_MAPPING[type(config)].from_pretrained(
                None, config=config, state_dict=weights, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )  # fmt: skip
    except Exception as error:  # any layer may raise its own for a value of config.json
        reason = error if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error.__cause__ or error)}"
        raise InputError(f"cannot load the encoder in {folder}: {reason}") from error
    missing = sorted(report["missing_keys"])
    if not strict:  # not needed for features, and missing from most files
        missing = [name for name in missing if not name.startswith("pooler.dense.") and not name.endswith("mask_token")]
    wrong = missing + sorted(key[0] for key in report["mismatched_keys"]) + sorted(report["unexpected_keys"] if strict else ())
    if wrong:
        raise InputError(f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors, the first is '{wrong[0]}'")
    check_finite(encoder.state_dict(), folder / _WEIGHTS)
    if hasattr(encoder, "text_model") and hasattr(encoder, "vision_model"):
        encoder = encoder.vision_model
    if getattr(encoder, "main_input_name", None) != "pixel_values":
        raise InputError(f"{folder} holds a '{encoder.config.model_type}': an encoder of images is needed")
    if isinstance(encoder, ViTMAEModel):
        encoder = _as_vit(encoder)
    return encoder.eval()


def weights_digest(folder: Path) -> str:
    """SHA-256 in hex of the folder's weights: of the file, or of the digests of several. Raises `InputError`."""
    digests = [sha256_of(folder / name) for name in _weights_files(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def shard_names(folder: Path, file: str) -> list[str]:
    """The files that hold the tensors of `file`: itself, or the shards in its index; [] without either. Raises `InputError`."""
    index = folder / f"{file}{_INDEX}"
    if (folder / file).exists() or not index.exists():
        return [file] if (folder / file).exists() else []
    shards = read_json(index).get("weight_map")
    names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise InputError(f"cannot read {folder / file}: {index.name} names no files in its folder")
    return names


def check_finite(tensors: dict[str, Tensor], file: Path) -> None:
    """Raises `InputError` if a weight is NaN or infinite."""
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise InputError(f"the weights in {file} are not finite: {len(broken)} tensors, the first is '{broken[0]}'")


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that only one of both has; if there is none, of those that have another shape in the other."""
    return sorted(own.keys() ^ given.keys()) or [name for name in own if own[name].shape != given[name].shape]


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors in the folder's safetensors files, by name. Raises `InputError`."""
    weights: dict[str, Tensor] = {}
    for name in _weights_files(folder):
        try:
            weights |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot load the encoder in {folder}: cannot read {name}: {first_line(error)}") from error
    return weights


def _weights_files(folder: Path) -> list[str]:
    if (folder / _ADAPTER).exists():
        raise InputError(f"{folder} holds an adapter of PEFT's ({_ADAPTER}): merge it into its model (merge_and_unload) and save that")
    files = shard_names(folder, _WEIGHTS)
    if not files:
        raise InputError(f"cannot load the encoder in {folder}: {_without_weights(folder)}")
    return files


def _without_weights(folder: Path) -> str:
    other = sorted(file.name for file in folder.iterdir() if file.suffix in _UNSUPPORTED) if folder.is_dir() else []
    if other:
        return f"it has no {_WEIGHTS} but {other[0]}, which is not read here (a pickle may run code): convert it to safetensors"
    if not (folder / CONFIG).exists():
        return f"it has neither {CONFIG} nor {_WEIGHTS}: is it a model that transformers loads?"
    return f"it has no {_WEIGHTS}; weights as pickles or GGUF are not read: convert them to safetensors (was the training finished?)"


def _as_vit(encoder: ViTMAEModel) -> ViTModel:
    values = encoder.config.to_dict()
    names = {field.name for field in dataclasses.fields(ViTConfig)} - {"model_type", "architectures"}
    vit = build_encoder(ViTConfig(**{name: value for name, value in values.items() if name in names}))
    vit.load_state_dict(encoder.state_dict())
    return vit
