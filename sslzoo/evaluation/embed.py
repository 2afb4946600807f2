"""Writing the features of a data set to a Parquet file, in parts, so that an interrupted run can be resumed."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.data import ImageSet
from sslzoo.encoders import feature_map, feature_width, features
from sslzoo.files import sha256_of

from .features import inference_batch_size
from .preprocessing import Preprocessing

_PART_BYTES = 2**25  # of features at most, unless a single image has more
_ORIGIN = b"sslzoo"  # the key of `features_origin` in the file's schema
_log = logging.getLogger(__name__)


@torch.no_grad()
def write_features(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, file: Path, *,
    batch_size: int | None = None, part: int = 4096, patches: bool = False, done: Callable[[int], None] = lambda count: None,
) -> int:  # fmt: skip
    """Writes one row per image, in the order of the data set; returns the number of rows. Broken images are left out.

    Columns: "row"; "name", the image's path in the data set (see `data.names.utf8_path`) or "row 17" if it has none; "label", null for an
    image without one, a `ClassLabel` to `datasets` if the classes have names, no column if there are no labels; "feature", a list of
    float32. With `patches`, a "feature" is a list of one such list for each place of `feature_map`, row by row from the upper left, and a
    column "grid" holds their number along height and width.

    The file appears once it is complete; until then its parts are in the folder `.<name>.parts` next to it. A resumed run reuses intact
    parts of the same weights, data, preprocessing and batch size, and its file is byte for byte that of an uninterrupted run. What its
    features are of stands in the file's schema: see `features_origin`.
    batch_size: None: that of `inference_batch_size`. part: rows at most, which become a row group of the file.
    done: called with the number of images since the last call; those of an earlier run are counted at once.
    Raises `InputError` for an encoder that has no feature map, if patches are requested.
    """
    import pyarrow.parquet as parquet

    encoder.eval()
    device = next(encoder.parameters()).device
    shape: tuple[int, ...] = (feature_width(encoder),)
    if patches:
        image = torch.zeros(1, preprocessing.channels, preprocessing.crop, preprocessing.crop, device=device)
        shape = feature_map(encoder, image).shape[1:]
    batch_size = inference_batch_size(device, preprocessing.crop) if batch_size is None else batch_size
    per_part = min(part, max(1, _PART_BYTES // (4 * math.prod(shape))))
    chunks = torch.arange(len(images)).split(per_part)
    origin = features_origin(encoder, images, preprocessing, patches)
    parts = _Parts(
        file.with_name(f".{file.name}.parts"),
        {**origin, "data": [images.source, images.split, images.fingerprint, len(images)], "batch_size": batch_size, "part": per_part},
    )
    missing = [number for number in range(len(chunks)) if not parts.is_intact(number)]
    done(len(images) - sum(len(chunks[number]) for number in missing))
    for number in missing:
        chunk = chunks[number]
        # Allocated at once: small blocks that stay between the large ones of the batches would keep malloc from reusing those.
        positions, rows, embeddings = torch.empty_like(chunk), torch.empty_like(chunk), torch.empty(len(chunk), *shape)
        count = 0
        for read, batch in images.read(chunk, batch_size):
            filled = slice(count, count + len(read))
            positions[filled], rows[filled] = read, batch.samples
            pixels = preprocessing(batch.pixels, batch.sizes).to(device)
            embeddings[filled] = feature_map(encoder, pixels) if patches else features(encoder, pixels)
            count += len(read)
            done(len(read))
        if count < len(chunk):
            done(len(chunk) - count)
        parts.write(number, _table(images, positions[:count], rows[:count], embeddings[:count]))

    temporary = file.with_name(f".{file.name}.new")
    count = 0
    schema = _with_classes(parquet.read_schema(parts.file(0)), images.label_names)
    schema = schema.with_metadata({**(schema.metadata or {}), _ORIGIN: json.dumps(origin)})
    with parquet.ParquetWriter(temporary, schema) as writer:
        for number in range(len(chunks)):
            table = parquet.read_table(parts.file(number)).cast(schema)
            writer.write_table(table)
            count += len(table)
    with open(temporary, "rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, file)
    parts.remove()
    return count


def features_origin(encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, patches: bool = False) -> dict[str, Any]:
    """What features are of: digests of encoder and images, the preprocessing, and whether there is one for each patch.

    Holds no path, as the file may be published. Equal to `read_origin` of a file if, and only if, its features need not be made again.
    """
    prepared = {key: list(value) if isinstance(value, tuple) else value for key, value in preprocessing._asdict().items()}  # as JSON has it
    return {"encoder_sha256": _digest(encoder), "data_sha256": images.fingerprint, "preprocessing": prepared, "patches": patches}


def read_origin(file: Path) -> dict[str, Any] | None:
    """The `features_origin` of a file of `write_features`; None for any other file, or none."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        return json.loads((parquet.read_schema(file).metadata or {})[_ORIGIN])
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        return None


class _Parts:
    """Numbered Parquet files in a folder, with a manifest of their inputs and sha256.

    Parts need not be synced to the disk: one that is incomplete after a crash does not match its sha256 and is written again.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any]):
        self._folder, self._manifest_file = folder, folder / "manifest.json"
        inputs = json.loads(json.dumps(inputs))
        try:
            self._manifest = json.loads(self._manifest_file.read_text(encoding="utf-8"))
            reusable = self._manifest["of"] == inputs and isinstance(self._manifest["sha256"], dict)
        except (OSError, ValueError, KeyError, TypeError):
            reusable = False
        if not reusable:
            if folder.exists():
                _log.warning("starting over: the parts in %s are of other weights, data or preprocessing, or damaged", folder)
                shutil.rmtree(folder)
            folder.mkdir()
            self._manifest = {"of": inputs, "sha256": {}}

    def file(self, number: int) -> Path:
        return self._folder / f"{number}.parquet"

    def is_intact(self, number: int) -> bool:
        sha256 = self._manifest["sha256"].get(str(number))
        if sha256 is None:
            return False
        intact = self.file(number).is_file() and sha256_of(self.file(number)) == sha256
        if not intact:
            _log.warning("writing %s again: it is damaged", self.file(number))
        return intact

    def write(self, number: int, table) -> None:
        import pyarrow.parquet as parquet

        temporary = self._folder / "new"
        parquet.write_table(table, temporary)
        self._manifest["sha256"][str(number)] = sha256_of(temporary)
        os.replace(temporary, self.file(number))
        temporary.write_text(json.dumps(self._manifest), encoding="utf-8")
        os.replace(temporary, self._manifest_file)

    def remove(self) -> None:
        shutil.rmtree(self._folder)


def _table(images: ImageSet, positions: Tensor, rows: Tensor, embeddings: Tensor):
    import pyarrow as arrow

    columns = {"row": rows.numpy(), "name": [images.name(position) for position in positions.tolist()]}
    if images.labels is not None:
        labels = images.labels[positions].numpy()
        columns["label"] = arrow.array(labels, mask=labels < 0)
    places = math.prod(embeddings.shape[1:-1])
    values = arrow.FixedSizeListArray.from_arrays(arrow.array(embeddings.numpy().ravel()), embeddings.shape[-1])
    if embeddings.ndim > 2:
        grid = torch.tensor(embeddings.shape[1:3], dtype=torch.int32).repeat(len(embeddings))
        columns["grid"] = arrow.FixedSizeListArray.from_arrays(arrow.array(grid.numpy()), 2)
        values = arrow.FixedSizeListArray.from_arrays(values, places)
    columns["feature"] = values
    return arrow.table(columns, schema=_schema(images, embeddings.shape[1:]))


def _schema(images: ImageSet, shape: tuple[int, ...]):
    import pyarrow as arrow

    label = [] if images.labels is None else [("label", arrow.int64())]
    feature, grid = arrow.list_(arrow.float32(), shape[-1]), []
    if len(shape) > 1:
        feature, grid = arrow.list_(feature, shape[0] * shape[1]), [("grid", arrow.list_(arrow.int32(), 2))]
    return arrow.schema([("row", arrow.int64()), ("name", arrow.string()), *label, *grid, ("feature", feature)])


def _with_classes(schema, label_names: list[str] | None):
    """The schema with the names of the classes, for `datasets`."""
    from datasets import ClassLabel, Features

    if "label" not in schema.names or not label_names:
        return schema
    features = Features({**Features.from_arrow_schema(schema), "label": ClassLabel(names=label_names)})
    return schema.with_metadata(features.arrow_schema.metadata)


def _digest(encoder: PreTrainedModel) -> str:
    """sha256 of the encoder's class, configuration and weights."""
    config = {key: value for key, value in encoder.config.to_dict().items() if key != "_name_or_path"}
    sha = hashlib.sha256(f"{type(encoder).__name__} {json.dumps(config, sort_keys=True, default=str)}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
