"""Training on images of other than three channels, from published weights too, and all that follows from such a run."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from families import FAMILIES, random_encoder
from transformers import AutoModel

import sslzoo
from sslzoo.cli import main
from sslzoo.encoders import build_encoder, features, fit_channels, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, load_encoder
from sslzoo.hub import write_card
from sslzoo.recipe import parse_recipe, read_recipe, rehearse, write_recipe
from sslzoo.run import RECIPE, Run
from sslzoo.training.run_folder import recipe_to_train

PAGE = (Path(__file__).parents[1] / "docs/other-than-rgb.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")
FIVE = {"channels": 5, "mean": [0.1] * 5, "std": [0.2] * 5}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Images of 16 bits and 5 channels, whose classes differ in one of them."""
    folder, random = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 24)):
        for number in range(count):
            image = random.integers(0, 4000, (16, 16, 5), np.uint16)
            image[4:12, 4:12, 3] += 4000 * (number % 2)
            place = folder / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{number}.npy", image)
    return folder


def grey(count=2, size=32):
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(2))


class TestEncoders:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_equal_channels_give_the_features_that_they_gave(self, name):
        encoder = random_encoder(name)
        before = features(encoder, grey().expand(-1, 3, -1, -1))
        for channels in (1, 5):
            fitted = fit_channels(encoder, channels)
            assert fitted.config.num_channels == channels
            torch.testing.assert_close(features(fitted, grey().expand(-1, channels, -1, -1)), before, rtol=1e-3, atol=1e-4)
            build_encoder(fitted.config).load_state_dict(fitted.state_dict())
        assert fit_channels(encoder, 3) is encoder and encoder.config.num_channels == 3

    def test_one_channel_has_the_sum_of_the_weights(self):
        encoder = random_encoder("resnet")
        weights = [model.embedder.embedder.convolution.weight for model in (encoder, fit_channels(encoder, 1))]
        torch.testing.assert_close(weights[1], weights[0].sum(dim=1, keepdim=True))

    def test_weights_of_another_number_are_refused(self):
        with pytest.raises(InputError, match="take images of 5 channels, and channels is 4: take channels=5"):
            fit_channels(fit_channels(random_encoder("vit"), 5), 4)


def test_preprocessing_of_other_channels_than_the_encoders_is_refused(tmp_path):
    to_plain(random_encoder("vit")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="takes images of 3 channels, its preprocessor_config.json prepares 1"):
        load_encoder(tmp_path, Preprocessing(32, 32, mean=(0.5,), std=(0.5,)))


class TestRecipe:
    @pytest.mark.parametrize("name", ["digits/simclr", "digits/mae", "digits/simmim", "digits/msn", "digits/vicregl"])
    def test_every_kind_of_method_takes_a_step(self, name):
        recipe = read_recipe(name, {"channels": 5})
        rehearse(recipe, 4, CPU)
        assert recipe.method_config().encoder.num_channels == 5 and recipe.mean is recipe.std is None

    def test_colours_of_the_file_and_the_method_are_left_out(self):
        for name in ("cifar10/simclr", "imagenette/dino"):
            recipe = read_recipe(name, {"channels": 5, "dataset": "x"})
            assert all(view.jitter == view.grayscale == view.solarize == 0 for view in recipe.make_views().values())
        assert read_recipe("cifar10/simclr").make_views()["both"].jitter > 0
        assert parse_recipe(recipe.flat(), "again").flat() == recipe.flat()

    def test_colours_that_are_asked_for_are_refused(self):
        for changes in ({"channels": 5, "view.both.grayscale": 0.1}, {"channels": 1, "view.both.jitter": 0.5}):
            with pytest.raises(InputError, match=r"view.both.\w+ is 0.\d: it needs 3 channels, not [15]: leave it out"):
                read_recipe("digits/simclr", changes)

    def test_mean_and_std_are_of_the_channels(self):
        assert read_recipe("digits/simclr", FIVE).preprocessing.channels == 5
        refusals = {"mean is of 5 channels, and channels is 4": {"channels": 4}, "mean and std belong together": {"std": None}}
        for message, changes in refusals.items():
            with pytest.raises(InputError, match=message):
                read_recipe("digits/simclr", {**FIVE, **changes})

    def test_channels_of_a_runs_recipe_can_be_changed(self, tmp_path):
        write_recipe(read_recipe("digits/simclr", FIVE), tmp_path / RECIPE)
        assert read_recipe(tmp_path / RECIPE, {"channels": 4}).mean is None
        assert read_recipe(tmp_path / RECIPE, {"channels": 3}).mean == read_recipe("digits/simclr").mean

    def test_resumed_run_keeps_what_was_measured(self, tmp_path):
        kept = read_recipe("digits/simclr", FIVE)
        write_recipe(kept, tmp_path / RECIPE)
        (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
        asked = read_recipe("digits/simclr", {"channels": 5, "name": kept.name})
        assert recipe_to_train(Run(tmp_path), asked, resume=True) == kept


class TestStartingWeights:
    def test_three_channels_are_adapted_and_said_so(self, tmp_path):
        to_plain(random_encoder("vit")).save_pretrained(tmp_path / "vit")
        Preprocessing(32, 32, mean=(0.5,) * 3, std=(0.5,) * 3).write(tmp_path / "vit")
        recipe = read_recipe("digits/simclr", {"channels": 5, "image_size": 32, "init_from": str(tmp_path / "vit")})
        assert recipe.mean is None
        assert recipe.adaptation == "adapted from 3 to 5 channels: each has the sum of the weights over the 3, / 5"
        rehearse(recipe, 4, CPU)

    def test_five_channels_stay_and_bring_their_normalisation(self, tmp_path):
        to_plain(fit_channels(random_encoder("vit"), 5)).save_pretrained(tmp_path / "vit")
        Preprocessing(32, 32, mean=(0.1,) * 5, std=(0.2,) * 5).write(tmp_path / "vit")
        changes = {"image_size": 32, "init_from": str(tmp_path / "vit")}
        recipe = read_recipe("digits/simclr", {**changes, "channels": 5})
        assert recipe.mean == (0.1,) * 5 and not recipe.adaptation
        with pytest.raises(InputError, match="takes images of 5 channels, and channels is 3: take channels=5"):
            read_recipe("digits/simclr", changes)


def commands():
    """The lines of the page's first block of commands, without comments."""
    block = re.search(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.mark.slow
def test_the_pages_commands_from_arrays_to_plain_transformers(arrays, tmp_path, monkeypatch, capfd):
    """Training, evaluation, features, ONNX, the card, and the encoder in plain transformers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "arrays").symlink_to(arrays)
    small = ["--set", "encoder=vit-xs4", "image_size=16", "batch_size=20", "epochs=2", "lr=0.01"]
    more = {"train": [*small, "--cpu"], "evaluate": ["--cpu"], "embed": ["--cpu"], "export": []}
    for _, name, *options in commands():
        assert main([name, *options, *more[name]]) in (0, None), name
    err = capfd.readouterr().err
    assert "channels           5, normalised with their own mean and std; colour jitter, greyscale and solarisation are left out" in err
    run = Run("runs/fields")
    mean, std = run.recipe.mean, run.recipe.std
    pixels = np.stack([np.load(file) for file in sorted(arrays.glob("train/*/*.npy"))]).reshape(-1, 5) / 65535
    np.testing.assert_allclose((mean, std), (pixels.mean(axis=0), pixels.std(axis=0)), rtol=1e-5)

    plain = AutoModel.from_pretrained(run.folder)
    assert sslzoo.load(run.folder).encoder.config.num_channels == plain.config.num_channels == 5
    table = parquet.read_table("fields.parquet").to_pylist()
    image = torch.from_numpy(np.load(arrays / "test" / table[0]["name"].removeprefix("test/")).astype(np.float32)).permute(2, 0, 1) / 65535
    own = (image - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with torch.no_grad():
        expected = plain(pixel_values=own[None]).pooler_output[0]
    torch.testing.assert_close(torch.tensor(table[0]["feature"]), expected, rtol=1e-3, atol=1e-4)

    import onnxruntime

    session = onnxruntime.InferenceSession("fields.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [5, 16, 16]
    (exported,) = session.run(None, {"pixel_values": own[None].numpy()})
    torch.testing.assert_close(torch.from_numpy(exported[0]), expected, rtol=1e-3, atol=1e-4)

    query = next(arrays.glob("test/a/*.npy"))
    assert not main(["similar", "runs/fields", str(arrays), "--image", str(query), "--output", "near", "--cpu"])
    assert (tmp_path / "near").is_dir() and len(list((tmp_path / "near").glob("*.png"))) == 1

    card = write_card(run.folder, with_images=True).read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("sslzoo/fields", str(run.folder))
    namespace = {}
    exec(code, namespace)  # the card's own lines
    assert namespace["features"].shape == (1, 64) and (run.folder / "neighbours.png").is_file()
    assert "Images have 5 channels, which transformers' image processors and pipelines do not prepare" in card
    assert "linear_top1" in {number["metric"] for number in json.loads((run.folder / "results.json").read_text())["numbers"]}
