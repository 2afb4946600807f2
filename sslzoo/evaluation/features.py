"""Features of a whole data set, spread over the processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as distributed
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.data import ImageSet
from sslzoo.encoders import features
from sslzoo.errors import InputError
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, center_crop


class Preprocessing(NamedTuple):
    """How an image is seen in evaluation: its short side reduced to `resize` px, then the centre `crop` px of it, normalised."""

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __call__(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """(n, 3, crop, crop) from uint8 (n, 3, H, W) and sizes (n, 2)."""
        return center_crop(pixels, sizes, self.resize, self.crop, self.interpolation, self.mean, self.std)

    def write(self, folder: Path) -> None:
        """Writes preprocessor_config.json, which transformers' image processors and pipelines read."""
        from transformers import BitImageProcessorPil

        BitImageProcessorPil(
            size={"shortest_edge": self.resize}, crop_size={"height": self.crop, "width": self.crop}, do_convert_rgb=True,
            resample=_RESAMPLE[self.interpolation], image_mean=list(self.mean), image_std=list(self.std),
        ).save_pretrained(folder)  # fmt: skip

    @classmethod
    def read(cls, folder: Path) -> "Preprocessing":
        """From preprocessor_config.json, as this project or transformers' own models have it. Raises `InputError`."""
        file = folder / "preprocessor_config.json"
        try:
            values = json.loads(file.read_text())
            size, crop = values["size"], values.get("crop_size") if values.get("do_center_crop", False) else None
            resize = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
            crop = resize if crop is None else crop if isinstance(crop, int) else crop["height"]
            interpolation = {value: key for key, value in _RESAMPLE.items()}[int(values.get("resample", 2))]
            return cls(int(resize), int(crop), interpolation, tuple(values["image_mean"]), tuple(values["image_std"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {error}") from error


_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which the file holds


@torch.no_grad()
def extract(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, batch_size: int = 256,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Features float32 (len(images), width) on the device and labels int64 (len(images),), in the order of the data set.

    The encoder is in evaluation mode meanwhile. Each process takes its part; all get the whole. done: told how many images are done.
    """
    device = next(encoder.parameters()).device
    world, rank = (distributed.get_world_size(), distributed.get_rank()) if distributed.is_initialized() else (1, 0)
    share = -(-len(images) // world)
    # The last part is filled up with the last image, so that all parts are of one size; what is too much is cut off below.
    mine = torch.arange(rank * share, (rank + 1) * share).clamp(max=len(images) - 1)
    training = encoder.training
    encoder.eval()
    found, labels = [], []
    try:
        for batch in images.batches(mine.split(batch_size)):
            pixels = preprocessing(batch.pixels, batch.sizes).to(device)
            found.append(features(encoder, pixels).float())
            labels.append(batch.labels)
            done(len(pixels) * world)
    finally:
        encoder.train(training)
    every = _all(torch.cat(found))[: len(images)]
    return every, None if images.labels is None else _all(torch.cat(labels).to(device))[: len(images)]


def _all(rows: Tensor) -> Tensor:
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
