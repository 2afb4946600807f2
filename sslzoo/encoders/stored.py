"""Encoders from a folder or the Hub: safetensors alone, no code of the repository's."""

import dataclasses
import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModel, PreTrainedModel, ViTConfig, ViTMAEModel, ViTModel

from sslzoo.errors import InputError, first_line

from .plain import build_encoder


def model_folder(
    name: str | Path, *, revision: str | None = None, token: str | bool | None = None, cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Path:  # fmt: skip
    """The local folder of a model: `name` itself where it is one, else the Hub repository's configuration and weights, downloaded.

    Raises `InputError` when there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if str(name).startswith((".", "/", "~")):
        raise InputError(f"no folder '{name}'")
    try:
        return Path(
            snapshot_download(
                str(name), revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
                allow_patterns=["*.json", "*.jsonl", "*.safetensors", "recipe.yaml", "README.md"],
            )
        )  # fmt: skip
    except HFValidationError as error:
        raise InputError(f"'{name}' is neither a folder nor a Hub id such as 'sslzoo/dino-res50-imagenet'") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"cannot get the model '{name}' from the Hub: {first_line(error)}") from error


def load_stored(folder: Path) -> PreTrainedModel:
    """The encoder in `folder` as plain transformers loads it, float32, in evaluation mode.

    Of a joint model of images and texts (CLIP, SigLIP) the part that sees images. A masked autoencoder as the ViT that it is: its own
    class masks three patches of four at random in evaluation too.
    Raises `InputError`, also where a weight is not finite.
    """
    try:
        encoder, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot load the encoder in {folder}: {first_line(error)}") from error
    # What features are made without, so that few files have it.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler.dense.") and not name.endswith("mask_token"))
    wrong = missing + sorted(str(name) for name in report["mismatched_keys"])
    if wrong:
        raise InputError(f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors, the first is '{wrong[0]}'")
    broken = [name for name, value in encoder.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise InputError(f"the weights in {folder} are not finite: {len(broken)} tensors, the first is '{broken[0]}'")
    if hasattr(encoder, "text_model") and hasattr(encoder, "vision_model"):
        encoder = encoder.vision_model
    if getattr(encoder, "main_input_name", None) != "pixel_values":
        raise InputError(f"{folder} holds a '{encoder.config.model_type}': an encoder of images is needed")
    if isinstance(encoder, ViTMAEModel):
        encoder = _as_vit(encoder)
    return encoder.eval()


def _as_vit(encoder: ViTMAEModel) -> ViTModel:
    values = encoder.config.to_dict()
    names = {field.name for field in dataclasses.fields(ViTConfig)} - {"model_type", "architectures"}
    vit = build_encoder(ViTConfig(**{name: value for name, value in values.items() if name in names}))
    vit.load_state_dict(encoder.state_dict())
    return vit


def read_config(folder: Path) -> dict:
    """What config.json in `folder` says. Raises `InputError`."""
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {folder / 'config.json'}: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{folder / 'config.json'} holds no configuration")
    return values
