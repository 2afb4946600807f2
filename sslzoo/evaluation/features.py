"""Features of a whole data set, spread over the processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as distributed
import transformers
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_backends import PilBackend

from sslzoo.data import ImageSet
from sslzoo.encoders import feature_width, features
from sslzoo.errors import InputError, first_line
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, center_crop


class Preprocessing(NamedTuple):
    """How an image is seen in evaluation: its short side reduced to `resize` px, then the centre `crop` px of it, normalised.

    squash: both sides are resized to `resize` px, as transformers does for ViTs; the image's shape is lost.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    squash: bool = False

    def __call__(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """(n, 3, crop, crop) from uint8 (n, 3, H, W) and sizes (n, 2)."""
        return center_crop(pixels, sizes, self.resize, self.crop, self.interpolation, self.mean, self.std, self.squash)

    def write(self, folder: Path) -> None:
        """Writes preprocessor_config.json, which transformers' image processors and pipelines read."""
        from transformers import BitImageProcessorPil

        size = {"height": self.resize, "width": self.resize} if self.squash else {"shortest_edge": self.resize}
        BitImageProcessorPil(
            size=size, crop_size={"height": self.crop, "width": self.crop}, do_convert_rgb=True,
            resample=_RESAMPLE[self.interpolation], image_mean=list(self.mean), image_std=list(self.std),
        ).save_pretrained(folder)  # fmt: skip

    @classmethod
    def read(cls, folder: Path) -> "Preprocessing":
        """From preprocessor_config.json, as this project or transformers' own models have it.

        transformers' own processor is asked, since it knows what the file leaves out, and then held against the result on an image,
        since classes resize in ways of their own. Raises `InputError` where the two differ or nothing here can do what it does.
        """
        file = folder / "preprocessor_config.json"
        processor = _processor(file)
        try:
            preprocessing = cls._like(processor)
            theirs = np.asarray(processor(Image.fromarray(_PROBE))["pixel_values"][0])
        except InputError as error:
            raise InputError(f"{file} asks for what is not supported: {error}") from error
        except Exception as error:  # of whatever layer the processor's values are no values for
            raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {first_line(error)}") from error
        pixels = torch.from_numpy(_PROBE).permute(2, 0, 1)[None]
        ours = preprocessing(pixels, torch.tensor([_PROBE.shape[:2]]))[0].numpy()
        # Both round the resized image to whole grey levels, in places that differ.
        levels = np.array(preprocessing.std).reshape(3, 1, 1) * 255
        if ours.shape != theirs.shape or not np.abs((ours - theirs) * levels).max() < _TOLERANCE:
            raise InputError(f"{file}: {type(processor).__name__} prepares images in a way of its own that is not supported")
        return preprocessing

    @classmethod
    def _like(cls, processor: PilBackend) -> "Preprocessing":
        """What the attributes of an image processor say. Raises `InputError`."""
        if not processor.do_resize:
            raise InputError("do_resize is false, images of all sizes make no batch")
        if processor.resample not in _RESAMPLE.values():
            raise InputError(f"resample is {processor.resample}: must be one of {_RESAMPLE}")
        size, share = processor.size, getattr(processor, "crop_pct", None)
        squash = not size.shortest_edge
        if squash and size.height != size.width or size.longest_edge:
            raise InputError(f"size is {dict(size)}: must be a square, or the shortest edge alone")
        resize = size.height if squash else size.shortest_edge
        crop = resize
        if share and not squash and not processor.do_center_crop and resize >= _CONVNEXT_SQUASHES:
            squash = True
        elif share:
            resize = int(resize / share)
        elif not squash and not processor.do_center_crop:
            raise InputError("the shortest edge is resized and nothing is cropped, images of all shapes make no batch")
        if processor.do_center_crop:
            if processor.crop_size.height != processor.crop_size.width:
                raise InputError(f"crop_size is {dict(processor.crop_size)}: must be a square")
            crop = processor.crop_size.height
        if max(resize, crop) > _LARGEST:
            raise InputError(f"images of {max(resize, crop)} px: {_LARGEST} at most")
        # Ours are of pixels from 0 to 1.
        scale = round(255 * processor.rescale_factor, 6) if processor.do_rescale else 255
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
        mean, std = (tuple(float(value) / scale for value in values) for values in (mean, std))
        if len(mean) != 3 or len(std) != 3:
            raise InputError(f"image_mean and image_std are {mean} and {std}: must be of three channels")
        interpolation = {value: key for key, value in _RESAMPLE.items()}[processor.resample]
        return cls(int(resize), int(crop), interpolation, mean, std, squash)


_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which the file holds
_USUAL = {"do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_CONVNEXT_SQUASHES = 384  # px, from which on ConvNext's processor neither keeps the shape nor crops
_TOLERANCE = 1.5  # grey levels
_LARGEST = 4096  # px; a stranger's file may ask for more than any memory holds
_rows, _columns = np.mgrid[:83, :115]
_PROBE = np.stack([128 + 100 * np.sin(_rows / 17 + channel) * np.cos(_columns / 23) for channel in range(3)], axis=2).astype(np.uint8)


def _processor(file: Path) -> PilBackend:
    """The image processor that a file is of; one without a class is transformers' plain one. Raises `InputError`."""
    try:
        values = json.loads(file.read_text())
        named = values.get("image_processor_type") or values.get("feature_extractor_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {first_line(error)}") from error
    try:
        return transformers.AutoImageProcessor.from_pretrained(file.parent, backend="pil", trust_remote_code=False)
    except Exception as error:  # a class of its own code, or one that needs torchvision
        if "auto_map" in values or named is not None and not hasattr(transformers, str(named)):
            raise InputError(f"{file} is of '{named}', which is no image processor of transformers'") from error
    try:
        return PilBackend.from_dict(_USUAL | values)
    except Exception as error:
        raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {first_line(error)}") from error


@torch.no_grad()
def extract(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, batch_size: int = 256,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Features float32 (n, width) on the device and labels int64 (n,) of the n images that can be decoded, in the order of the data set.

    The encoder is in evaluation mode meanwhile. Each process takes its part; all get the whole. done: told how many images are done.
    """
    device = next(encoder.parameters()).device
    world, rank = (distributed.get_world_size(), distributed.get_rank()) if distributed.is_initialized() else (1, 0)
    training = encoder.training
    encoder.eval()
    found, labels = [], []
    try:
        for _, batch in images.read(torch.arange(len(images)).tensor_split(world)[rank], batch_size):
            pixels = preprocessing(batch.pixels, batch.sizes).to(device)
            found.append(features(encoder, pixels).float())
            labels.append(batch.labels)
            done(len(pixels) * world)
    finally:
        encoder.train(training)
    every = _all(torch.cat(found) if found else torch.empty(0, feature_width(encoder), device=device))
    if images.labels is None:
        return every, None
    return every, _all(torch.cat(labels).to(device) if labels else torch.empty(0, dtype=torch.int64, device=device))


def _all(rows: Tensor) -> Tensor:
    """Those of all processes, of which each may have a different number."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    counts = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    filled = rows.new_zeros(int(max(counts)), *rows.shape[1:])
    filled[: len(rows)] = rows
    parts = [torch.empty_like(filled) for _ in counts]
    distributed.all_gather(parts, filled)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
