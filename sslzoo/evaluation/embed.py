"""Features of a data set as a Parquet file."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sslzoo.data import ImageSet
from sslzoo.encoders import features

from .features import Preprocessing


@torch.no_grad()
def write_features(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, file: Path, batch_size: int = 256,
    done: Callable[[int], None] = lambda count: None,
) -> int:  # fmt: skip
    """Writes one row an image, in the order of the data set: "row", "name", "label" (where there are any) and "feature", a list of float32.

    The file appears when it is whole; batches are written as they are made. Returns the number of rows.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    encoder.eval()
    device = next(encoder.parameters()).device
    beside = file.with_name(f".{file.name}.new")
    writer, count = None, 0
    try:
        for positions, batch in zip(
            torch.arange(len(images)).split(batch_size), images.batches(torch.arange(len(images)).split(batch_size)), strict=True
        ):
            rows = features(encoder, preprocessing(batch.pixels, batch.sizes).to(device)).float().cpu().contiguous()
            columns = {"row": batch.samples.cpu().numpy(), "name": [images.name(position) for position in positions.tolist()]}
            if batch.labels is not None:
                columns["label"] = batch.labels.cpu().numpy()
            columns["feature"] = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.numpy().ravel()), rows.shape[1])
            table = arrow.table(columns)
            writer = writer or parquet.ParquetWriter(beside, table.schema)
            writer.write_table(table)
            count += len(rows)
            done(len(rows))
    finally:
        if writer is not None:
            writer.close()
    os.replace(beside, file)
    return count
