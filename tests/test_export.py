"""Encoders as ONNX files."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from sslzoo import export
from sslzoo.encoders import build_encoder, encoder_config, features, load_pretrained, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.export import export_onnx


def model(folder, name="res6", size=16, crop=None):
    """A folder with an encoder whose statistics are not the usual ones."""
    torch.manual_seed(0)
    config = encoder_config(name, size)
    if name == "res18":
        config.depths = [1, 1, 1, 1]  # half the time, of the same stem and stages
    encoder = build_encoder(config).train()
    encoder(torch.randn(8, 3, size, size) + 0.5)
    to_plain(encoder).save_pretrained(folder)
    Preprocessing(size + 4, crop or size, "bicubic").write(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with an encoder, and its ONNX file."""
    place = tmp_path_factory.mktemp("exported")
    folder = model(place / "simclr-res6-digits")
    return folder, export_onnx(str(folder), place / "encoder.onnx")


@pytest.mark.parametrize(("name", "size", "crop"), [("res6", 16, 24), ("res18", 96, 96), ("vit-xs4", 16, 24)])
def test_gives_the_encoders_features_for_any_batch(name, size, crop, tmp_path, capfd, recwarn):
    folder = model(tmp_path / "model", name, size, crop)
    capfd.readouterr()
    assert export_onnx(str(folder), tmp_path / "encoder.onnx") == tmp_path / "encoder.onnx"
    assert capfd.readouterr().out == "" and not recwarn.list
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.onnx", "model"], "in one file"
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (given,), (gotten,) = session.get_inputs(), session.get_outputs()
    width = {"res6": 64, "res18": 512, "vit-xs4": 64}[name]
    assert (given.name, given.shape, given.type) == ("pixel_values", ["batch", 3, crop, crop], "tensor(float)")
    assert (gotten.name, gotten.shape, gotten.type) == ("features", ["batch", width], "tensor(float)")
    encoder = load_pretrained(folder)
    for count in (1, 2, 5):
        pixels = torch.randn(count, 3, crop, crop, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected = features(encoder, pixels).numpy()
        assert np.abs(session.run(None, {"pixel_values": pixels.numpy()})[0] - expected).max() < 1e-4
    assert np.ptp(expected, axis=0).max() > 0.01


def test_says_what_it_is_of_and_how_images_are_prepared_but_not_where_it_was(exported):
    folder, file = exported
    told = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert told["sslzoo.source"] == "simclr-res6-digits"
    values = json.loads(told["sslzoo.preprocessing"])
    assert Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])}) == Preprocessing.read(folder)
    assert not [path for path in (folder.parent, export.__file__, sys.prefix) if str(path).encode() in file.read_bytes()]


@pytest.mark.parametrize(("off", "told"), [(2e-4, r"2\.0e-04"), (torch.nan, "nan")])
def test_file_that_computes_something_else_is_not_put_in_place(off, told, exported, tmp_path, monkeypatch):
    """What was exported without an error is taken for an encoder whose own features are `off` from it."""
    folder, file = model(tmp_path / "model"), tmp_path / "encoder.onnx"
    file.write_text("the file that was there")
    program = torch.onnx.ONNXProgram(onnx_ir.load(exported[1]), None)
    monkeypatch.setattr(export, "_program", lambda encoder, shape: program)
    monkeypatch.setattr(export, "features", lambda encoder, pixels: features(encoder, pixels) + off)
    with pytest.raises(InputError, match=rf"'sslzoo_resnet' of .*model cannot be exported: .* {told} from its own"):
        export_onnx(str(folder), file)
    assert file.read_text() == "the file that was there" and len(list(tmp_path.iterdir())) == 2


def test_encoder_that_the_exporter_cannot_follow_is_one_line(tmp_path, monkeypatch):
    def branching(self, pixel_values):
        return features(self.encoder, pixel_values) if pixel_values.sum() > 0 else pixel_values

    folder = model(tmp_path / "model")
    monkeypatch.setattr(export._Features, "forward", branching)
    with pytest.raises(InputError, match="cannot be exported: Could not guard") as caught:
        export_onnx(str(folder), tmp_path / "encoder.onnx")
    assert str(caught.value).isprintable() and len(list(tmp_path.iterdir())) == 1


def test_too_large_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_MAX_BYTES", 1000)
    with pytest.raises(InputError, match="too large"):
        export_onnx(str(model(tmp_path / "model")), tmp_path / "encoder.onnx")


@pytest.mark.parametrize("file", ["encoder.pt", "nowhere/encoder.onnx"])
def test_wrong_place_is_named(file, tmp_path):
    with pytest.raises(InputError, match=f"{file}.*ends in .onnx, in a folder that exists"):
        export_onnx("./nothing", tmp_path / file)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_its_packages_says_what_to_install(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    anew = spec_from_file_location("sslzoo.export", export.__file__)
    module = module_from_spec(anew)
    anew.loader.exec_module(module)
    with pytest.raises(InputError, match=rf"'{package}': pip install 'sslzoo\[onnx\]'"):
        module.export_onnx("./nothing", tmp_path / "encoder.onnx")
