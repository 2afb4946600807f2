"""Training on folders as people have them: without test images, without classes, with files that are broken."""

import pytest
from PIL import Image

from sslzoo.errors import InputError
from sslzoo.recipe import read_recipe
from sslzoo.training import train


@pytest.fixture
def trained(tmp_path):
    """Trains one epoch of SimCLR on image files of these names; returns the results."""

    def trained(names, **changes):
        for name in names:
            (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            shade = 5 * len(list((tmp_path / "photos").rglob("*.png")))
            Image.new("RGB", (16, 16), (shade, 255 - shade, 90)).save(tmp_path / "photos" / name)
        small = {"image_size": 16, "batch_size": 4, "epochs": 1, "warmup_epochs": 0}
        recipe = read_recipe("digits/simclr", {"dataset": str(tmp_path / "photos"), **small, **changes})
        return train(recipe, tmp_path / "run", cpu=True).results()

    return trained


CLASSES = [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(4)]


@pytest.mark.parametrize(
    ("names", "why"), [(CLASSES, "has no split but train"), ([f"{number}.png" for number in range(8)], "(train) has no labels")]
)
def test_folder_without_test_images_is_trained_on_and_that_is_said(trained, names, why, capsys):
    results = trained(names)
    assert results["training"]["images"] == 8 and results["numbers"] == []
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("no evaluation")]
    assert len(lines) == 1 and lines[0].endswith(why)


def test_folder_with_test_images_is_measured(trained, capsys):
    results = trained([f"{split}/{name}" for split in ("Training", "Testing") for name in CLASSES])
    assert results["training"]["images"] == 8 and {number["split"] for number in results["numbers"]} == {"test"}
    assert "no evaluation" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "split"), [(CLASSES, "val"), ([f"{split}/{name}" for split in ("train", "val") for name in CLASSES], "test")]
)
def test_test_split_that_is_asked_for_or_called_otherwise_is_not_left_out(trained, names, split):
    with pytest.raises(InputError, match=f"unknown split '{split}'"):
        trained(names, test_split=split)


def test_share_of_broken_images_is_a_key(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"broken {number}.png").write_text("<html>")
    names = [f"{number}.png" for number in range(8)]
    with pytest.raises(InputError, match=r"cannot be read \(10 % may\)"):
        trained(names, broken_share=0.1)
    assert len(trained(names, broken_share=0.3)["training"]["skipped_images"]) == 3


@pytest.mark.parametrize("share", [-0.1, 1.1, "many", True])
def test_share_is_from_none_to_all(share):
    with pytest.raises(InputError, match="broken_share is "):
        read_recipe("digits/simclr", {"broken_share": share})
    assert read_recipe("digits/simclr").broken_share == 0.01
