"""`sslzoo similar`: near duplicates in a folder, and the nearest neighbours of an image."""

import csv
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sslzoo import similar as module
from sslzoo.cli import main
from sslzoo.encoders import build_encoder, encoder_config, fit_channels, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.similar import near_duplicates, similar


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    to_plain(build_encoder(encoder_config("res6", 16))).save_pretrained(folder)
    Preprocessing(16, 16).write(folder)
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight patterns in two classes; "copy" is "2" again, pixel by pixel, and "near" is "5" but for a grey level."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(8):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        save(folder / "ab"[index % 2] / f"{index}.png", pixels)
        if index == 2:
            save(folder / "b" / "copy.png", pixels)
        if index == 5:
            save(folder / "b" / "near.png", pixels // 2 * 2)
    (folder / "a" / "broken.png").write_bytes(b"no image")
    return folder


def save(file, pixels):
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(file)


def written(folder):
    with open(folder / "pairs.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_near_duplicates_are_found_listed_and_shown(model, photos, tmp_path, capsys):
    output = tmp_path / "found"
    assert main(["similar", model, str(photos), "--threshold", "0.9999", "--output", str(output), "--cpu"]) == 0
    rows = written(output)
    assert rows[:3] == [["image", "similar", "cosine"], ["a/2.png", "b/copy.png", "1.0000"], ["b/5.png", "b/near.png", rows[2][2]]]
    assert len(rows) == 3 and float(rows[2][2]) > 0.9999
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "1.0000  a/2.png  b/copy.png" and "2 pairs of near duplicates, of 4 among 10 images" in out[2]
    assert "cosine similarity of 0.9999 or more" in out[2] and "of all pairs, half have" in out[2]
    with Image.open(output / "pairs.png") as sheet:
        assert sheet.width == 1600 and len(set(sheet.convert("L").getdata())) > 10
    first = {file.name: file.read_bytes() for file in output.iterdir()}
    assert main(["similar", model, str(photos), "--threshold", "0.9999", "--output", str(tmp_path / "again"), "--cpu"]) == 0
    assert first == {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}


def test_neighbours_of_an_image_in_the_folder_of_its_name_and_of_another_file(model, photos, tmp_path, monkeypatch):
    def neighbours(image, source=photos):
        return similar(model, str(source), tmp_path / "found", image=image, k=3, cpu=True).pairs

    inside = neighbours(str(photos / "a" / "2.png"))
    assert [pair[:2] for pair in inside][0] == ("a/2.png", "b/copy.png") and len(inside) == 3
    assert [pair.cosine for pair in inside] == sorted((pair.cosine for pair in inside), reverse=True) and inside[0].cosine == 1
    assert neighbours("a/2.png") == inside
    monkeypatch.chdir(photos.parent)
    assert neighbours(f"{photos.name}/a/2.png", photos.name) == inside
    (tmp_path / "elsewhere.png").write_bytes((photos / "a" / "2.png").read_bytes())
    other = neighbours(str(tmp_path / "elsewhere.png"))
    assert [pair.similar for pair in other] == ["a/2.png", "b/copy.png", inside[1].similar] and other[0].image == "elsewhere.png"


def test_features_are_used_again_if_they_are_of_the_same(model, photos, tmp_path, monkeypatch):
    assert main(["embed", model, str(photos), "--output", str(tmp_path / "features.parquet"), "--cpu"]) == 0
    written_by_embed = (tmp_path / "features.parquet").read_bytes()
    calls = []
    embed = module.write_with_progress
    monkeypatch.setattr(module, "write_with_progress", lambda *arguments: calls.append(arguments) or embed(*arguments))
    first = similar(model, str(photos), tmp_path, cpu=True)
    assert not calls and (tmp_path / "features.parquet").read_bytes() == written_by_embed
    assert similar(model, str(photos / "a"), tmp_path, cpu=True) != first and len(calls) == 1, "other images"
    assert main(["embed", model, str(photos), "--output", str(tmp_path / "features.parquet"), "--patches", "--cpu"]) == 0
    assert similar(model, str(photos), tmp_path, cpu=True) == first and len(calls) == 2, "patches"


def test_pairs_are_those_of_the_plain_formulation_in_a_fixed_order():
    rows = F.normalize(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    rows[40:] = rows[:20] * 3  # ties: cosine 1 whatever the length
    cosines = (F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).T).double().round(decimals=4)
    expected = [(i, j, float(cosines[i, j])) for i in range(60) for j in range(i + 1, 60) if cosines[i, j] >= 0.8]
    expected.sort(key=lambda pair: (-pair[2], pair[:2]))
    assert near_duplicates(rows, 59, 0.8) == expected and len(expected) > 100
    few = near_duplicates(rows, 1, 0.8)
    assert {pair[:2] for pair in few} <= {pair[:2] for pair in expected} and len(few) < len(expected)
    assert {(row, row + 40) for row in range(20)} <= {pair[:2] for pair in few}


def test_groups_join_what_pairs_connect():
    groups = module._groups([(3, 7, 0.99), (0, 1, 0.98), (1, 3, 0.97), (4, 5, 0.96)])
    assert [sorted(row for row, _ in group) for group in groups] == [[0, 1, 3, 7], [4, 5]]
    assert dict(groups[0])[1] == "0.9800" and dict(groups[0])[3] == "0.9900"


def test_more_duplicates_than_neighbours_are_said_to_be_there(model, tmp_path, caplog):
    for index in range(5):
        save(tmp_path / "same" / f"{index}.png", np.full((16, 16, 3), 90, np.uint8))
    found = similar(model, str(tmp_path / "same"), tmp_path / "out", k=2, cpu=True)
    assert "5 images have 2 or more" in found.about and len(found.pairs) >= 5
    assert "1 in 100 of all pairs is as similar as the threshold, 0.95" in caplog.text
    assert "may be left out" not in similar(model, str(tmp_path / "same"), tmp_path / "out", k=4, cpu=True).about


def test_json_is_one_object_a_pair(model, photos, tmp_path, capsys):
    main(["similar", model, str(photos), "--image", "a/2.png", "--k", "1", "--output", str(tmp_path), "--json", "--cpu"])
    assert json.loads(capsys.readouterr().out) == {"image": "a/2.png", "similar": "b/copy.png", "cosine": 1.0}


def test_images_of_five_channels_and_16_bits(tmp_path):
    torch.manual_seed(0)
    to_plain(fit_channels(build_encoder(encoder_config("res6", 16)), 5)).save_pretrained(tmp_path / "model")
    Preprocessing(16, 16, mean=(0.1,) * 5, std=(0.2,) * 5).write(tmp_path / "model")
    (tmp_path / "scans").mkdir()
    rng = np.random.default_rng(0)
    scans = [*rng.integers(0, 60_000, (3, 16, 16, 5), np.uint16)]
    for name, scan in zip("abcd", [*scans, scans[2]], strict=True):
        np.save(tmp_path / "scans" / f"{name}.npy", scan)
    (tmp_path / "x.npy").write_bytes((tmp_path / "scans" / "a.npy").read_bytes())
    assert similar(str(tmp_path / "model"), str(tmp_path / "scans"), tmp_path / "out", cpu=True).pairs[0] == ("c.npy", "d.npy", 1)
    for image in ("a.npy", str(tmp_path / "x.npy")):
        found = similar(str(tmp_path / "model"), str(tmp_path / "scans"), tmp_path / "out", image=image, cpu=True).pairs
        assert [pair.cosine == 1 for pair in found] == [image != "a.npy"] + [False] * (len(found) - 1)
    file = tmp_path / "patches.parquet"
    assert main(["embed", str(tmp_path / "model"), str(tmp_path / "scans"), "--output", str(file), "--patches", "--cpu"]) == 0
    Image.new("RGB", (16, 16)).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match="rgb.png"):
        similar(str(tmp_path / "model"), str(tmp_path / "scans"), tmp_path / "out", image=str(tmp_path / "rgb.png"), cpu=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "nowhere.png"], "no file 'nowhere.png', and no image of this name in"),
        (["--image", "a/broken.png"], "cannot read the image 'a/broken.png'"),
        (["--image", __file__], "cannot read the image"),
        (["--k", "0"], "k is 0: must be 1 or more"),
        (["--threshold", "1.5"], "threshold is 1.5: must be a cosine similarity"),
        (["--output", __file__], "a folder is needed"),
        (["--split", "tset"], "unknown split 'tset'"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["similar", model, str(photos), "--cpu", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not os.path.exists("similar"), "nothing is written"


def test_one_image_has_no_duplicates(model, tmp_path):
    save(tmp_path / "one" / "0.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="has one image that can be read"):
        similar(model, str(tmp_path / "one"), tmp_path / "out", cpu=True)
