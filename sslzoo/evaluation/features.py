"""Features of a whole data set, spread over the processes."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_backends import PilBackend

from sslzoo.data import ImageSet
from sslzoo.encoders import feature_width, features, load_stored, read_json
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_write_text
from sslzoo.processes import all_gather_rows, all_or_none, local_positions, world_size
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

        folder.mkdir(parents=True, exist_ok=True)
        size = {"height": self.resize, "width": self.resize} if self.squash else {"shortest_edge": self.resize}
        processor = BitImageProcessorPil(
            size=size, crop_size={"height": self.crop, "width": self.crop}, do_convert_rgb=True,
            resample=_RESAMPLE[self.interpolation], image_mean=list(self.mean), image_std=list(self.std),
        )  # fmt: skip
        atomic_write_text(folder / PREPROCESSOR, processor.to_json_string())

    @classmethod
    def read(cls, folder: Path) -> "Preprocessing":
        """From preprocessor_config.json, as this project or transformers' own models have it.

        transformers' own processor is asked, since it knows what the file leaves out, and then held against the result on an image,
        since classes resize in ways of their own. Raises `InputError` where the two differ or nothing here can do what it does.
        """
        file = folder / PREPROCESSOR
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
        if not 0 < min(resize, crop) <= max(resize, crop) <= _LARGEST:
            raise InputError(f"images of {resize} px, of which {crop} px are kept: from 1 to {_LARGEST}")
        # Ours are of pixels from 0 to 1.
        scale = round(255 * processor.rescale_factor, 6) if processor.do_rescale else 255
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
        mean, std = (tuple(float(value) / scale for value in values) for values in (mean, std))
        if len(mean) != 3 or len(std) != 3:
            raise InputError(f"image_mean and image_std are {mean} and {std}: must be of three channels")
        if not all(math.isfinite(value) for value in mean) or not all(0 < value < math.inf for value in std):
            raise InputError(f"image_mean and image_std are {mean} and {std}: must be finite, and image_std above 0")
        interpolation = {value: key for key, value in _RESAMPLE.items()}[processor.resample]
        return cls(int(resize), int(crop), interpolation, mean, std, squash)


_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which the file holds
PREPROCESSOR = "preprocessor_config.json"
_USUAL = {"do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_CONVNEXT_SQUASHES = 384  # px, from which on ConvNext's processor neither keeps the shape nor crops
_TOLERANCE = 1.5  # grey levels
_LARGEST = 4096  # px; a stranger's file may ask for more than any memory holds
_rows, _columns = np.mgrid[:83, :115]
_PROBE = np.stack([128 + 100 * np.sin(_rows / 17 + channel) * np.cos(_columns / 23) for channel in range(3)], axis=2).astype(np.uint8)


def _processor(file: Path) -> PilBackend:
    """The image processor that a file is of; one without a class is transformers' plain one. Raises `InputError`."""
    values = read_json(file)
    named = values.get("image_processor_type") or values.get("feature_extractor_type")
    # Before transformers' own classes make an image of that size.
    _check_pixels(file, values)
    try:
        return transformers.AutoImageProcessor.from_pretrained(file.parent, backend="pil", trust_remote_code=False)
    except Exception as error:  # a class of its own code, or one that needs torchvision
        if "auto_map" in values or named is not None and not hasattr(transformers, str(named)):
            raise InputError(f"{file} is of '{named}', which is no image processor of transformers'") from error
    try:
        return PilBackend.from_dict(_USUAL | values)
    except Exception as error:
        raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {first_line(error)}") from error


def _check_pixels(file: Path, value: Any, key: str = "") -> None:
    """Raises `InputError` for a whole number in the file that no image has pixels; `value` is a part of it."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else ((key, inner) for inner in value):
            _check_pixels(file, inner, name)
    elif isinstance(value, int) and abs(value) > _LARGEST and not key.startswith("_"):
        raise InputError(f"{file}: {key} is {value}: {_LARGEST} at most")


@torch.no_grad()
def encoder_for(folder: Path, preprocessing: Preprocessing) -> PreTrainedModel:
    """The encoder in `folder`, tried on one grey image that is prepared so.

    A stranger's file may hold values that only show then. Raises `InputError`, as `load_stored` does and where there are no features.
    """
    encoder = load_stored(folder)
    image, size = torch.full((1, 3, preprocessing.crop, preprocessing.crop), 128, dtype=torch.uint8), [[preprocessing.crop] * 2]
    refusal = f"the encoder in {folder} gives no features of images of {preprocessing.crop} px"
    try:
        found = features(encoder, preprocessing(image, torch.tensor(size)))
    except Exception as error:  # of whatever layer a value of config.json is no value for
        raise InputError(f"{refusal}: {type(error).__name__}: {first_line(error)}") from error
    if found.ndim != 2 or not found.isfinite().all():
        raise InputError(f"{refusal} but {'numbers that are not finite' if found.ndim == 2 else f'a tensor {tuple(found.shape)}'}")
    width = found.shape[1]
    with suppress(InputError):  # an encoder that does not say it can be measured by kNN all the same
        width = feature_width(encoder)
    if found.shape[1] != width:
        raise InputError(f"{refusal} {width} wide, as its config.json says, but {found.shape[1]}")
    return encoder


@torch.no_grad()
def extract(
    encoder: PreTrainedModel, images: ImageSet, preprocessing: Preprocessing, batch_size: int = 256,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Features float32 (n, width) on the device and labels int64 (n,) of the n images that can be decoded, in the order of the data set.

    The encoder is in evaluation mode meanwhile. Each process takes its part; all get the whole, or an error where one meets it.
    done: told how many images are done.
    """
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    found, labels = [], []
    try:
        with all_or_none():
            for _, batch in images.read(local_positions(len(images)), batch_size):
                pixels = preprocessing(batch.pixels, batch.sizes).to(device)
                found.append(features(encoder, pixels).float())
                labels.append(batch.labels)
                done(len(pixels) * world_size())
    finally:
        encoder.train(training)
    every = all_gather_rows(torch.cat(found) if found else torch.empty(0, feature_width(encoder), device=device))
    if images.labels is None:
        return every, None
    return every, all_gather_rows(torch.cat(labels).to(device) if labels else torch.empty(0, dtype=torch.int64, device=device))
