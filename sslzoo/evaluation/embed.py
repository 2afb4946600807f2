"""Features of a data set as a Parquet file, made in parts, so that a run that was stopped goes on."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.checkpoint import sha256_of
from sslzoo.data import ImageSet
from sslzoo.data.images import Batch
from sslzoo.encoders import feature_width, features

from .features import Preprocessing

_BATCHES = 16  # a part, and a row group of the file: with the usual 256 images a batch what fits into memory many times
_log = logging.getLogger(__name__)


@torch.no_grad()
def write_features(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, file: Path, batch_size: int = 256,
    done: Callable[[int], None] = lambda count: None,
) -> int:  # fmt: skip
    """Writes one row an image, in the order of the data set: "row", "name", "label" (where there are any; empty for an image
    that has none) and "feature", a list of float32.

    "name" is the image's path in the data set, whatever is in it (see `data.names.utf8_path`), or "row 17" where there is none; "label" a
    `ClassLabel` to `datasets` where the classes have names. Broken images are left out.

    The file appears when it is whole; until then its parts lie in the folder `.<name>.parts` beside it. A run that was stopped goes on
    with those of the same weights, data, preprocessing and batch size that are not damaged, and its file is byte for byte that of a run
    without a stop. done: told how many images are done, those of an earlier run at once.
    Returns the number of rows.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    encoder.eval()
    device = next(encoder.parameters()).device
    chunks = torch.arange(len(images)).split(batch_size * _BATCHES)
    data = [images.source, images.split, images.fingerprint, len(images)]
    parts = _Parts(
        file.with_name(f".{file.name}.parts"),
        {"encoder_sha256": _digest(encoder), "data": data, "preprocessing": preprocessing._asdict(), "batch_size": batch_size},
    )
    missing = [number for number in range(len(chunks)) if not parts.is_whole(number)]
    done(len(images) - sum(len(chunks[number]) for number in missing))
    for number in missing:
        tables = []
        for positions, batch in images.read(chunks[number], batch_size):
            pixels = preprocessing(batch.pixels, batch.sizes).to(device)
            tables.append(_table(images, positions, batch, features(encoder, pixels).float().cpu()))
            done(len(positions))
        table = arrow.concat_tables(tables or [_schema(images, feature_width(encoder)).empty_table()])
        if len(table) < len(chunks[number]):
            done(len(chunks[number]) - len(table))
        parts.write(number, table)

    beside = file.with_name(f".{file.name}.new")
    count = 0
    schema = _with_classes(parquet.read_schema(parts.file(0)), images.label_names)
    with parquet.ParquetWriter(beside, schema) as writer:
        for number in range(len(chunks)):
            table = parquet.read_table(parts.file(number)).cast(schema)
            writer.write_table(table)
            count += len(table)
    with open(beside, "rb") as written:
        os.fsync(written.fileno())
    os.replace(beside, file)
    parts.remove()
    return count


class _Parts:
    """Numbered Parquet files in a folder, and a manifest that says what they are of and their sha256.

    Nothing else needs to be synced to the disk: a part that did not get there whole is not what the manifest says, and made again.
    """

    def __init__(self, folder: Path, of: dict[str, Any]):
        self._folder, self._manifest = folder, folder / "manifest.json"
        of = json.loads(json.dumps(of))
        try:
            self._known = json.loads(self._manifest.read_text(encoding="utf-8"))
            fits = self._known["of"] == of and isinstance(self._known["sha256"], dict)
        except (OSError, ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            if folder.exists():
                _log.warning("starting over: what is in %s is of other weights, data or preprocessing, or damaged", folder)
                shutil.rmtree(folder)
            folder.mkdir()
            self._known = {"of": of, "sha256": {}}

    def file(self, number: int) -> Path:
        return self._folder / f"{number}.parquet"

    def is_whole(self, number: int) -> bool:
        known = self._known["sha256"].get(str(number))
        if known is None:
            return False
        whole = self.file(number).is_file() and sha256_of(self.file(number)) == known
        if not whole:
            _log.warning("making %s again: it is damaged", self.file(number))
        return whole

    def write(self, number: int, table) -> None:
        import pyarrow.parquet as parquet

        beside = self._folder / "new"
        parquet.write_table(table, beside)
        self._known["sha256"][str(number)] = sha256_of(beside)
        os.replace(beside, self.file(number))
        beside.write_text(json.dumps(self._known), encoding="utf-8")
        os.replace(beside, self._manifest)

    def remove(self) -> None:
        shutil.rmtree(self._folder)


def _table(images: ImageSet, positions: Tensor, batch: Batch, found: Tensor):
    import pyarrow as arrow

    columns = {"row": batch.samples.cpu().numpy(), "name": [images.name(position) for position in positions.tolist()]}
    if batch.labels is not None:
        labels = batch.labels.cpu().numpy()
        columns["label"] = arrow.array(labels, mask=labels < 0)
    columns["feature"] = arrow.FixedSizeListArray.from_arrays(arrow.array(found.numpy().ravel()), found.shape[1])
    return arrow.table(columns, schema=_schema(images, found.shape[1]))


def _schema(images: ImageSet, width: int):
    import pyarrow as arrow

    label = [] if images.labels is None else [("label", arrow.int64())]
    return arrow.schema([("row", arrow.int64()), ("name", arrow.string()), *label, ("feature", arrow.list_(arrow.float32(), width))])


def _with_classes(schema, label_names: list[str] | None):
    """The schema of the file, which tells `datasets` the names of the classes."""
    from datasets import ClassLabel, Features

    if "label" not in schema.names or not label_names:
        return schema
    features = Features({**Features.from_arrow_schema(schema), "label": ClassLabel(names=label_names)})
    return schema.with_metadata(features.arrow_schema.metadata)


def _digest(encoder: PreTrainedModel) -> str:
    """sha256 over what the encoder is and all of its weights."""
    config = {key: value for key, value in encoder.config.to_dict().items() if key != "_name_or_path"}
    sha = hashlib.sha256(f"{type(encoder).__name__} {json.dumps(config, sort_keys=True, default=str)}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
