"""Preprocessing as transformers' own image processors have it in their files."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    BeitImageProcessorPil,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    EfficientNetImageProcessorPil,
    LevitImageProcessorPil,
    MobileViTImageProcessorPil,
    PoolFormerImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing

LANCZOS, NEAREST, BILINEAR, BICUBIC = 1, 0, 2, 3


def smooth_image(height=67, width=101):
    """Wide, and each channel and each corner another."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack(
        [128 + 60 * np.sin(rows / 11 + channel) * np.cos(columns / 17) + 50 * columns / width for channel in range(3)], axis=2
    ).astype(np.uint8)  # fmt: skip


def held_against(processor, folder):
    """The largest difference in grey levels between what the processor and `Preprocessing.read` of its file make of an image."""
    processor.save_pretrained(folder)
    preprocessing = Preprocessing.read(folder)
    image = smooth_image()
    theirs = torch.as_tensor(np.asarray(processor(Image.fromarray(image))["pixel_values"][0]))
    pixels = torch.full((1, 3, 120, 120), 255, dtype=torch.uint8)
    pixels[0, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    ours = preprocessing(pixels, torch.tensor([image.shape[:2]]))[0]
    assert ours.shape == theirs.shape == (3, preprocessing.crop, preprocessing.crop)
    preprocessing.write(folder)
    assert Preprocessing.read(folder) == preprocessing, "comes back from the file we write"
    return float(((ours - theirs).abs() * 255 * torch.tensor(preprocessing.std).view(3, 1, 1)).max())


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 40, "width": 40}),
        ViTImageProcessorPil(size=48, resample=BICUBIC, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]),
        ViTImageProcessorPil(size=32, do_normalize=False),
        ViTImageProcessorPil(size=32, do_rescale=False, do_normalize=False),
        ViTImageProcessorPil(size=32, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
        BitImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40}),
        BitImageProcessorPil(size={"shortest_edge": 20}, crop_size=33),
        CLIPImageProcessorPil(size={"shortest_edge": 50}, crop_size=50),
        DeiTImageProcessorPil(size={"height": 48, "width": 48}, crop_size={"height": 36, "width": 36}),
        ConvNextImageProcessorPil(size={"shortest_edge": 40}),
        ConvNextImageProcessorPil(size={"shortest_edge": 40}, crop_pct=0.7, resample=BILINEAR),
        ConvNextImageProcessorPil(),
        PoolFormerImageProcessorPil(size={"shortest_edge": 40}, crop_size=40),
        BeitImageProcessorPil(),
        BeitImageProcessorPil(size=44, do_center_crop=True, crop_size=32),
        SiglipImageProcessorPil(size={"height": 56, "width": 56}),
    ],
    ids=lambda processor: type(processor).__name__.removesuffix("ImageProcessorPil"),
)
def test_prepares_images_as_the_processor_that_wrote_the_file(processor, tmp_path):
    assert held_against(processor, tmp_path) < 1.1


@pytest.mark.parametrize("named", [ViTImageProcessorPil, ConvNextImageProcessorPil, CLIPImageProcessorPil, DeiTImageProcessorPil])
def test_what_the_file_leaves_out_is_the_default_of_its_class(named, tmp_path):
    """Old files on the Hub hold a few keys only, and "feature_extractor_type"."""
    whole = tmp_path / "whole"
    named(size=80).save_pretrained(whole)
    kept = {"size": json.loads((whole / "preprocessor_config.json").read_text())["size"]}
    kept["feature_extractor_type"] = named.__name__.replace("ImageProcessorPil", "FeatureExtractor")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kept))
    assert Preprocessing.read(tmp_path) == Preprocessing.read(whole)


def test_the_class_is_told_by_config_json_where_the_file_does_not(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
    assert Preprocessing.read(tmp_path) == Preprocessing(64, 64, "bilinear", (0.5,) * 3, (0.5,) * 3, squash=True)


def test_a_class_that_needs_torchvision_is_read_from_what_its_file_says(tmp_path):
    values = {
        "image_processor_type": "DINOv3ViTImageProcessor", "do_resize": True, "size": {"height": 64, "width": 64}, "resample": 3,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3],
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert Preprocessing.read(tmp_path) == Preprocessing(64, 64, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.2, 0.3), squash=True)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (ViTImageProcessorPil(size=32, resample=LANCZOS), "resample"),
        (ViTImageProcessorPil(size=32, resample=NEAREST), "resample"),
        (ViTImageProcessorPil(do_resize=False), "do_resize"),
        (ViTImageProcessorPil(size={"height": 32, "width": 48}), "size is"),
        (BitImageProcessorPil(crop_size={"height": 32, "width": 48}), "crop_size is"),
        (BitImageProcessorPil(do_center_crop=False), "shortest edge"),
        (BitImageProcessorPil(crop_size={"height": 10**6, "width": 10**6}), "height is 1000000: 4096 at most"),
        (BitImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}), "size is"),
        (ViTImageProcessorPil(image_mean=[0.5], image_std=[0.5, 0.5]), "must be of the same channels"),
        (LevitImageProcessorPil(), "LevitImageProcessorPil prepares images in a way that is not supported"),
        (MobileViTImageProcessorPil(size=40, crop_size=32), "MobileViTImageProcessorPil prepares images in a way that is not supported"),
        (EfficientNetImageProcessorPil(rescale_offset=True, resample=BILINEAR), "EfficientNetImageProcessorPil prepares images"),
    ],
    ids=lambda value: type(value).__name__.removesuffix("ImageProcessorPil") if not isinstance(value, str) else "",
)
def test_what_cannot_be_done_is_refused_and_not_done_in_another_way(processor, reason, tmp_path):
    processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=reason) as caught:
        Preprocessing.read(tmp_path)
    assert str(tmp_path / "preprocessor_config.json") in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("named", ["MyOwnProcessor", 7])
def test_a_processor_of_the_repositorys_own_code_is_refused_and_not_run(named, tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "mine.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass MyOwnProcessor: pass\n")
    values = {"image_processor_type": named, "auto_map": {"AutoImageProcessor": "mine.MyOwnProcessor"}, "size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=str(named)):
        Preprocessing.read(tmp_path)
    assert not canary.exists()
