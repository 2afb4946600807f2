"""How images are prepared in evaluation, and its file preprocessor_config.json."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend

from sslzoo.encoders import read_json
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_write_text
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, center_crop


class Preprocessing(NamedTuple):
    """Resizes the short side to `resize` px, takes the centre crop of `crop` px and normalises it.

    squash: resize both sides to `resize` px instead, without keeping the aspect ratio, as transformers does for ViTs.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    squash: bool = False

    @property
    def channels(self) -> int:
        """Of the images."""
        return len(self.mean)

    def __call__(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """Normalised (n, channels, crop, crop) from canvases (n, channels, H, W) and the sizes of the images in them, (n, 2)."""
        return center_crop(pixels, sizes, self.resize, self.crop, self.interpolation, self.mean, self.std, self.squash)

    def write(self, folder: Path) -> None:
        """Writes preprocessor_config.json, which transformers' image processors and pipelines read.

        They prepare pictures of one or three channels; of others the file holds sizes, mean and std, for those who prepare them themselves.
        """
        from transformers import BitImageProcessorPil

        folder.mkdir(parents=True, exist_ok=True)
        size = {"height": self.resize, "width": self.resize} if self.squash else {"shortest_edge": self.resize}
        processor = BitImageProcessorPil(
            size=size, crop_size={"height": self.crop, "width": self.crop}, do_convert_rgb=self.channels == 3,
            resample=_RESAMPLE[self.interpolation], image_mean=list(self.mean), image_std=list(self.std),
        )  # fmt: skip
        atomic_write_text(folder / PREPROCESSOR, processor.to_json_string())

    @classmethod
    def read(cls, folder: Path) -> "Preprocessing":
        """Reads preprocessor_config.json, written by sslzoo or by transformers' own image processors.

        transformers builds the processor, as it knows the defaults that the file leaves out. As processors resize in different ways, its
        output on a test image of three channels is compared with ours; of other numbers only the values are read, as it takes pictures.
        Raises `InputError` if they differ or the processor is not supported.
        """
        file = folder / PREPROCESSOR
        processor = _processor(file)
        try:
            preprocessing = cls._from_processor(processor)
            if preprocessing.channels != 3:
                return preprocessing
            theirs = np.asarray(processor(Image.fromarray(_PROBE))["pixel_values"][0])
        except InputError as error:
            raise InputError(f"{file} asks for what is not supported: {error}") from error
        except Exception as error:  # from wherever an invalid value first matters
            raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {first_line(error)}") from error
        pixels = torch.from_numpy(_PROBE).permute(2, 0, 1)[None]
        ours = preprocessing(pixels, torch.tensor([_PROBE.shape[:2]]))[0].numpy()
        # Both round the resized image to integer grey levels, but not always to the same ones.
        levels = np.array(preprocessing.std).reshape(3, 1, 1) * 255
        if ours.shape != theirs.shape or not np.abs((ours - theirs) * levels).max() < _TOLERANCE:
            raise InputError(f"{file}: {type(processor).__name__} prepares images in a way that is not supported")
        return preprocessing

    @classmethod
    def _from_processor(cls, processor: PilBackend) -> "Preprocessing":
        """The preprocessing that the attributes of an image processor describe. Raises `InputError`."""
        if not processor.do_resize:
            raise InputError("do_resize is false, images of all sizes make no batch")
        if processor.resample not in _RESAMPLE.values():
            raise InputError(f"resample is {processor.resample}: must be one of {_RESAMPLE}")
        size, crop_pct = processor.size, getattr(processor, "crop_pct", None)
        squash = not size.shortest_edge
        if squash and size.height != size.width or size.longest_edge:
            raise InputError(f"size is {dict(size)}: must be a square, or the shortest edge alone")
        resize = size.height if squash else size.shortest_edge
        crop = resize
        if crop_pct and not squash and not processor.do_center_crop and resize >= _CONVNEXT_SQUASH:
            squash = True
        elif crop_pct:
            resize = int(resize / crop_pct)
        elif not squash and not processor.do_center_crop:
            raise InputError("the shortest edge is resized and nothing is cropped, images of all shapes make no batch")
        if processor.do_center_crop:
            if processor.crop_size.height != processor.crop_size.width:
                raise InputError(f"crop_size is {dict(processor.crop_size)}: must be a square")
            crop = processor.crop_size.height
        if not 0 < min(resize, crop) <= max(resize, crop) <= _MAX_SIDE:
            raise InputError(f"images of {resize} px, of which {crop} px are kept: from 1 to {_MAX_SIDE}")
        # Our mean and std refer to pixels in 0..1.
        scale = round(255 * processor.rescale_factor, 6) if processor.do_rescale else 255
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
        mean, std = (tuple(float(value) / scale for value in values) for values in (mean, std))
        if not mean or len(mean) != len(std):
            raise InputError(f"image_mean and image_std are {mean} and {std}: must be of the same channels")
        if not all(math.isfinite(value) for value in mean) or not all(0 < value < math.inf for value in std):
            raise InputError(f"image_mean and image_std are {mean} and {std}: must be finite, and image_std above 0")
        interpolation = {value: key for key, value in _RESAMPLE.items()}[processor.resample]
        return cls(int(resize), int(crop), interpolation, mean, std, squash)


_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's constants, as in the file
PREPROCESSOR = "preprocessor_config.json"
_DEFAULTS = {"do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_CONVNEXT_SQUASH = 384  # px, from which ConvNext's processor squashes instead of cropping
_TOLERANCE = 1.5  # grey levels
_MAX_SIDE = 4096  # px; a downloaded file may request more than any memory holds
_rows, _columns = np.mgrid[:83, :115]
_PROBE = np.stack([128 + 100 * np.sin(_rows / 17 + channel) * np.cos(_columns / 23) for channel in range(3)], axis=2).astype(np.uint8)


def read_normalization(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The channels' mean and standard deviation (0 to 1) in preprocessor_config.json, None where there is no such file.

    Raises `InputError` for a file whose processor scales pixels in another way.
    """
    file = folder / PREPROCESSOR
    if not file.is_file():
        return None
    processor = _processor(file)
    if not processor.do_rescale or abs(processor.rescale_factor - 1 / 255) > 1e-9:
        raise InputError(f"{file}: pixels are not scaled to 0..1, which is not supported")
    if not processor.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (tuple(float(value) for value in values) for values in (processor.image_mean, processor.image_std))
    if not mean or len(mean) != len(std):
        raise InputError(f"{file} has a mean of {len(mean)} channels and a standard deviation of {len(std)}")
    return mean, std


def _processor(file: Path) -> PilBackend:
    """The image processor of a file; `PilBackend` with the usual defaults if the file names no class. Raises `InputError`."""
    values = read_json(file)
    named = values.get("image_processor_type") or values.get("feature_extractor_type")
    # Before transformers allocates an image of that size.
    _check_pixels(file, values)
    try:
        return transformers.AutoImageProcessor.from_pretrained(file.parent, backend="pil", trust_remote_code=False)
    except Exception as error:  # a class with custom code, or one that needs torchvision
        if "auto_map" in values or named is not None and not hasattr(transformers, str(named)):
            raise InputError(f"{file} is of '{named}', which is no image processor of transformers'") from error
    try:
        return PilBackend.from_dict(_DEFAULTS | values)
    except Exception as error:
        raise InputError(f"cannot tell from {file} how images are prepared: {type(error).__name__}: {first_line(error)}") from error


def _check_pixels(file: Path, value: Any, key: str = "") -> None:
    """Raises `InputError` for an integer anywhere in `value`, the file's content, that is too large to be a size."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else ((key, inner) for inner in value):
            _check_pixels(file, inner, name)
    elif isinstance(value, int) and abs(value) > _MAX_SIDE and not key.startswith("_"):
        raise InputError(f"{file}: {key} is {value}: {_MAX_SIDE} at most")
