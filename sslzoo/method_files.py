"""The files of a saved method: its encoder as plain transformers loads it, and all the rest as ssl_heads.safetensors."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.encoders import check_finite, load_pretrained, read_config, shard_names
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_update

BLOCK = "sslzoo"  # the key of the method's configuration in the encoder's config.json
HEADS = "ssl_heads.safetensors"
_WEIGHTS = re.compile(r"(model|ssl_heads)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


class SavedMethod(NamedTuple):
    """What the files hold."""

    block: dict[str, Any]  # "model_type" and the hyper-parameters
    encoder: PreTrainedModel  # in its published form
    rest: dict[str, Tensor]  # all other tensors by their names in the method


def write_method(folder: Path, method: SavedMethod, max_shard_size: int | str) -> None:
    """Writes the files, all or none, in the place of an earlier method's.

    max_shard_size: bytes, or a text such as "5GB"; larger weights are split into several files with an index, the rest like the encoder.
    Raises `OSError` when it cannot write; the folder then is as it was before.
    """
    plan = split_torch_state_dict_into_shards(
        method.rest, filename_pattern=HEADS.replace(".", "{suffix}.", 1), max_shard_size=max_shard_size
    )  # fmt: skip
    with atomic_update(folder) as temporary:
        method.encoder.config.sslzoo = method.block
        method.encoder.save_pretrained(temporary, max_shard_size=max_shard_size)
        for name, tensors in plan.filename_to_tensors.items():
            save_file({tensor: method.rest[tensor] for tensor in tensors}, temporary / name, metadata={"format": "pt"})
        if plan.is_sharded:
            index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
            (temporary / f"{HEADS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        written = {file.name for file in temporary.iterdir()}
    for file in folder.iterdir():
        if _WEIGHTS.fullmatch(file.name) and file.name not in written:
            file.unlink()  # of a method that was split in another way


def read_method(folder: Path) -> SavedMethod:
    """What the files hold. Raises `InputError` where they are damaged or hold no method. Reads safetensors alone."""
    block = read_block(folder)
    encoder = load_pretrained(folder, strict=True)
    del encoder.config.sslzoo
    encoder.config.name_or_path, encoder.config.dtype = "", None  # what loading noted, and no file holds
    rest: dict[str, Tensor] = {}
    try:
        for name in shard_names(folder, HEADS) or [HEADS]:
            rest |= load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {folder / HEADS}: {first_line(error)}") from error
    check_finite(rest, folder / HEADS)
    return SavedMethod(block, encoder, rest)


def read_block(folder: Path) -> dict[str, Any]:
    """The method's configuration in config.json: "model_type" and its hyper-parameters. Raises `InputError` where there is none."""
    block = read_config(folder).get(BLOCK)
    if not isinstance(block, dict) or not isinstance(block.get("model_type"), str):
        raise InputError(f"{folder} holds no method of sslzoo: its config.json has no '{BLOCK}' block (AutoModel loads the encoder alone)")
    return block
