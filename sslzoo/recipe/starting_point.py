"""An encoder from elsewhere in a recipe: its architecture, the weights to start from, and what they are normalised with."""

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from sslzoo.encoders import (
    ENCODERS,
    build_encoder,
    describe,
    encoder_config,
    fit_image_size,
    from_description,
    load_pretrained,
    model_folder,
    read_config,
    weights_digest,
)
from sslzoo.errors import InputError, first_line
from sslzoo.evaluation import read_normalization
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD

from .yaml_files import read_values

_log = logging.getLogger(__name__)
KEYS = ("encoder", "init_from", "init_sha256", "init_license", "mean", "std")
LICENSES = {"init_from": "init_license", "teacher": "teacher_license"}  # keys of weights from elsewhere, and of their licences
OWN_LICENSE = "apache-2.0"  # of what is trained from random weights
UNKNOWN_LICENSE = "other"  # as a card has it
_COMMIT = re.compile(r"[0-9a-f]{40}")


def with_encoder(
    file: dict[str, Any], changes: dict[str, Any], earlier: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """A file's values and the changes to them, with what follows from an encoder from elsewhere in the one or the other."""
    if isinstance(file.get("encoder"), dict) and changes.get("encoder") in ENCODERS:
        # What is left behind was normalised in its own way.
        changes = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), **changes}
    if "init_from" in changes and changes["init_from"] is None:
        return file, {"init_sha256": None, "init_license": None, **changes}
    resized = isinstance(file.get("encoder"), dict) and "image_size" in changes
    if not resized and not {"encoder", "init_from"} & changes.keys():
        return {**file, **resolve_encoder(file, file, earlier)}, changes
    values = {**file, **changes}
    given = {*changes} | ({"init_from"} if resized and "encoder" not in changes else set())
    return file, {**changes, **resolve_encoder(values, given, earlier)}


def resolve_encoder(values: dict[str, Any], given: Iterable[str], earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """The values of `KEYS` that follow from `init_from: ID_OR_FOLDER[@revision]`, or from an encoder that is a Hub id or a folder.

    values: of the whole recipe, with an image size. given: the keys that somebody chose; the others among `KEYS` are those of an encoder
    that has been replaced. earlier: the recipe of the run that is resumed, where a branch of the same repository means the same commit.
    Empty if the recipe names no encoder from elsewhere, or holds all of these values. Raises `InputError`.
    """
    chosen = {key: values[key] for key in KEYS if key in given and values.get(key) is not None}
    source, encoder, size = chosen.get("init_from"), chosen.get("encoder"), values.get("image_size")
    channels = values.get("channels", 3)
    if not isinstance(size, int) or "init_sha256" in chosen:
        return {}
    if isinstance(source, str):
        return _known(source, chosen, earlier) or _from_weights(source, chosen, size, channels) | _chosen_normalization(chosen)
    if isinstance(encoder, str) and encoder not in ENCODERS and ("/" in encoder or Path(encoder).expanduser().is_dir()):
        folder, pinned = locate(encoder)
        config = _fitted(_image_half(from_description(read_config(folder))), size)
        return {"encoder": describe(config, _name(pinned)), **normalization_of(folder, channels)} | _chosen_normalization(chosen)
    return {}


def pinned_folder(key: str, source: str, sha256: str, license: str | None) -> Path:
    """The folder of the weights that the recipe's `key` pins. The Hub is asked only if its client's cache lacks them.

    Raises `InputError`, also if the weights are no longer those of the recipe, or if it gives them another licence than their card does.
    """
    name, _, commit = source.partition("@")
    if _COMMIT.fullmatch(commit):
        with suppress(InputError):
            folder = model_folder(name, revision=commit, local_files_only=True)
            if weights_digest(folder) == sha256:
                check_license(key, source, license, folder)
                return folder
    folder, _ = locate(source)
    found = weights_digest(folder)
    if found != sha256:
        raise InputError(f"{key} {source}: its weights have changed, their SHA-256 is {found[:12]}... and not {sha256[:12]}...")
    check_license(key, source, license, folder)
    return folder


def check_license(key: str, source: str, license: str | None, folder: Path) -> None:
    """Raises `InputError` if the recipe gives the weights of its `key`, which are in `folder`, another licence than their card does."""
    own, name = license_of(folder), LICENSES[key]
    if (own or UNKNOWN_LICENSE) != (license or UNKNOWN_LICENSE):
        found = f"the card of {source} says '{own}'" if own else f"{source} names no licence (a card, README.md, would)"
        raise InputError(f"{name} is '{license}', but {found}: what is trained from it keeps its licence, so leave {name} out")


def _from_weights(source: str, chosen: dict[str, Any], size: int, channels: int) -> dict[str, Any]:
    encoder, (folder, pinned) = chosen.get("encoder"), locate(source)
    if "init_license" in chosen:
        check_license("init_from", source, chosen["init_license"], folder)
    plain = load_pretrained(folder)
    config = fit_image_size(plain, size).config
    if config.num_channels not in (3, channels):
        found = config.num_channels
        raise InputError(f"init_from {source} takes images of {found} channels, and channels is {channels}: take channels={found}")
    described = _short_name(config, size) or describe(config, _name(pinned))
    if encoder is not None:
        wanted = from_description(encoder) if isinstance(encoder, dict) else _named(encoder, size)
        if _architecture(wanted) != _architecture(config):
            raise InputError(f"init_from {source} holds a '{_label(described)}', not the encoder '{_label(encoder)}': leave `encoder` out")
    return {
        "encoder": described, "init_from": pinned, "init_sha256": weights_digest(folder), "init_license": license_of(folder),
        **normalization_of(folder, channels),
    }  # fmt: skip


def _known(source: str, chosen: dict[str, Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The values of the run that is resumed, if it started from the same source."""
    pinned = (earlier or {}).get("init_from")
    if earlier is None or not earlier.get("init_sha256") or not is_pinned(source, pinned):
        return {}
    return {key: earlier[key] for key in KEYS if key in earlier and key not in chosen} | {"init_from": pinned}


def is_pinned(source: str, pinned: Any) -> bool:
    """Whether `pinned`, of the recipe of the run that is resumed, is what `source` was resolved to, a branch included."""
    if not isinstance(pinned, str):
        return False
    (name, _, revision), (pinned_name, _, commit) = source.partition("@"), pinned.partition("@")
    return str(Path(source).expanduser().absolute()) == pinned or name == pinned_name and revision in ("", commit)


def locate(source: str) -> tuple[Path, str]:
    """The folder, and "id@commit" or the absolute path. Raises `InputError`."""
    if Path(source).expanduser().is_dir():
        folder = Path(source).expanduser().absolute()
        return folder, str(folder)
    name, _, revision = source.partition("@")
    folder = model_folder(name, revision=revision or None)
    return folder, f"{name}@{folder.name}"


def _name(pinned: str) -> str:
    """The last part of the id or path, as a name for an encoder."""
    last = Path(pinned.partition("@")[0] if _COMMIT.search(pinned) else pinned).name
    return re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-")[:60] or "encoder"


def _short_name(config: PreTrainedConfig, size: int) -> str | None:
    for name in ENCODERS:
        try:
            same = config.num_channels == 3 and _architecture(encoder_config(name, size)) == _architecture(config)
        except InputError:  # an image size that is no multiple of this encoder's patches
            continue
        if same:
            return name
    return None


def _named(encoder: Any, size: int) -> PreTrainedConfig:
    if isinstance(encoder, str) and encoder not in ENCODERS:
        return _fitted(_image_half(from_description(read_config(locate(encoder)[0]))), size)
    return encoder_config(encoder, size)


def _label(encoder: Any) -> str:
    return str(encoder.get("name")) if isinstance(encoder, dict) else str(encoder)


def _architecture(config: PreTrainedConfig) -> dict[str, Any]:
    """Without the channels, which the recipe says."""
    return {key: value for key, value in describe(config, "").items() if key not in ("pooler_act", "num_channels")}


def _image_half(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the images' encoder in a model of images and texts; others as they are."""
    return getattr(config, "vision_config", config)


def _fitted(config: PreTrainedConfig, size: int) -> PreTrainedConfig:
    try:
        with torch.device("meta"):
            return fit_image_size(build_encoder(config), size).config
    except InputError:
        raise
    except Exception as error:  # from whichever layer an invalid value reaches
        raise InputError(f"cannot build a '{config.model_type}' from its configuration: {first_line(error)}") from error


def normalization_of(folder: Path, channels: int) -> dict[str, Any]:
    """The mean and std that the encoder was trained with; None, to be measured, where they are of other channels."""
    found = read_normalization(folder)
    if channels != len(found[0] if found else IMAGENET_MEAN):
        return {"mean": None, "std": None}
    if found is None:
        _log.warning("%s does not say how images are normalised: mean and std are those of ImageNet", folder)
    mean, std = found or (IMAGENET_MEAN, IMAGENET_STD)
    return {"mean": list(mean), "std": list(std)}


def _chosen_normalization(chosen: dict[str, Any]) -> dict[str, Any]:
    return {key: chosen[key] for key in ("mean", "std") if key in chosen}


def license_of(folder: Path) -> str | None:
    """The licence in the front matter of the folder's card. A run folder gets its card last: until then, what it is going to name."""
    card, recipe = folder / "README.md", folder / "recipe.yaml"
    text = card.read_text(encoding="utf-8", errors="replace")[:200_000] if card.is_file() else ""
    match = re.match(r"---\n.*?^license: *([A-Za-z0-9.+_-]+) *$", text.partition("\n---")[0], re.DOTALL | re.MULTILINE)
    if match is None and recipe.is_file():
        return run_license(read_values(recipe))
    return match[1] if match else None


def run_license(values: Mapping[str, Any]) -> str:
    """The licence of what a run makes: that of the weights it starts from and of its teacher, "other" if they differ or name none.

    values: of its recipe.
    """
    found = {values.get(license) or UNKNOWN_LICENSE for source, license in LICENSES.items() if values.get(source)} or {OWN_LICENSE}
    return found.pop() if len(found) == 1 else UNKNOWN_LICENSE
