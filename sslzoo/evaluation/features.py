"""Features of a data set, computed by all processes together."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.data import ImageSet
from sslzoo.encoders import feature_width, features, load_pretrained
from sslzoo.errors import InputError, first_line
from sslzoo.processes import all_gather_rows, all_or_none, gather_in_place, local_positions, world_size

from .preprocessing import PREPROCESSOR, Preprocessing

_PIXELS = 2**15  # that each thread of a CPU embeds at once


@torch.no_grad()
def load_encoder(folder: Path, preprocessing: Preprocessing) -> PreTrainedModel:
    """The encoder in `folder`, after a test forward of one preprocessed grey image.

    Some invalid values of a config.json only fail in the forward pass. Raises `InputError` if the encoder cannot be loaded, as
    `load_pretrained` does, or does not give finite features of the width that its configuration says.
    """
    encoder = load_pretrained(folder)
    found = getattr(encoder.config, "num_channels", preprocessing.channels)
    if found != preprocessing.channels:
        raise InputError(f"the encoder in {folder} takes images of {found} channels, its {PREPROCESSOR} prepares {preprocessing.channels}")
    shape, size = (1, preprocessing.channels, preprocessing.crop, preprocessing.crop), [[preprocessing.crop] * 2]
    image = torch.full(shape, 128, dtype=torch.uint8)
    refusal = f"the encoder in {folder} gives no features of images of {preprocessing.crop} px"
    try:
        output = features(encoder, preprocessing(image, torch.tensor(size)))
    except Exception as error:  # from whichever layer an invalid value of config.json reaches
        raise InputError(f"{refusal}: {type(error).__name__}: {first_line(error)}") from error
    if output.ndim != 2 or not output.isfinite().all():
        raise InputError(f"{refusal} but {'numbers that are not finite' if output.ndim == 2 else f'a tensor {tuple(output.shape)}'}")
    width = output.shape[1]
    with suppress(InputError):  # an encoder of unknown width can still be measured by kNN
        width = feature_width(encoder)
    if output.shape[1] != width:
        raise InputError(f"{refusal} {width} wide, as its config.json says, but {output.shape[1]}")
    return encoder


def inference_batch_size(device: torch.device, side: int) -> int:
    """How many images of `side` px to embed at once: 256; on a CPU 16 to 256, few enough for its caches to hold what a layer computes."""
    return 256 if device.type != "cpu" else min(256, max(16, _PIXELS * torch.get_num_threads() // side**2))


@torch.no_grad()
def extract(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, batch_size: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Features float32 (n, width) on the device and labels int64 (n,) of the n images that can be decoded, in the order of the data set.

    Runs the encoder in evaluation mode. Each process embeds its share and all return all features; an error in one is raised in all.
    Memory on each device: one buffer of all features, and a batch. batch_size: None: that of `inference_batch_size`.
    done: called with the number of images embedded since the last call.
    """
    device = next(encoder.parameters()).device
    batch_size = inference_batch_size(device, preprocessing.crop) if batch_size is None else batch_size
    training = encoder.training
    encoder.eval()
    positions = local_positions(len(images))
    first = int(positions[0]) if len(positions) else len(images)
    rows, found, count = None, torch.empty_like(positions), 0
    try:
        with all_or_none():
            for readable, batch in images.read(positions, batch_size):
                embeddings = features(encoder, preprocessing(batch.pixels, batch.sizes).to(device))
                if rows is None:
                    rows = torch.empty(len(images), embeddings.shape[1], device=device)
                rows[first + count : first + count + len(embeddings)] = embeddings
                found[count : count + len(embeddings)] = readable
                count += len(embeddings)
                done(len(embeddings) * world_size())
            if rows is None:
                rows = torch.empty(len(images), feature_width(encoder), device=device)
    finally:
        encoder.train(training)
    gathered = gather_in_place(rows, first, count)
    if images.labels is None:
        return gathered, None
    return gathered, all_gather_rows(images.labels[found[:count]].to(device))
