"""The teacher of a distillation in a recipe and its run: what is pinned, what is refused, resuming without the Hub, and the card."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from families import FAMILIES, random_encoder
from safetensors.torch import load_file
from small_digits import small_digits
from test_training import train_until
from tiny_teacher import MEAN, SIZE, STD, teacher_folder, tiny_encoder
from transformers import Dinov2Model

from sslzoo.accelerator import make_accelerator
from sslzoo.encoders import feature_width, features, load_pretrained, weights_digest
from sslzoo.errors import InputError
from sslzoo.hub import write_card
from sslzoo.recipe import load_recipe, load_teacher, published_text, read_recipe, rehearse, write_recipe
from sslzoo.run import Run
from sslzoo.training import setup, train

CPU = torch.device("cpu")
ID, COMMIT = "ada/tiny", 40 * "a"


def recipe_with(source, recipe="digits/seed", **changes):
    short = {"dataset": small_digits(), "epochs": 1, "batch_size": 16, "queue_length": 64} if recipe == "digits/seed" else {}
    return read_recipe(recipe, {"teacher": str(source), **short, **changes})


def refused(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable() and all(part in message for part in parts), message


@pytest.fixture
def folder(tmp_path):
    """A copy to change."""
    return Path(shutil.copytree(teacher_folder(), tmp_path / "teacher"))


class TestRecipe:
    def test_pins_weights_licence_normalisation_size_and_width(self, tmp_path):
        recipe = recipe_with(teacher_folder())
        assert recipe.teacher == teacher_folder() and recipe.teacher_sha256 == weights_digest(Path(teacher_folder()))
        assert (recipe.teacher_license, recipe.teacher_mean, recipe.teacher_std, recipe.teacher_size) == ("mit", MEAN, STD, SIZE)
        assert recipe.method_config().teacher_dim == 32 and recipe.encoder == "res6"
        assert recipe.name.startswith("seed-res6-by-tiny-teacher-")
        write_recipe(recipe, tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml").flat() == recipe.flat() == read_recipe(tmp_path / "recipe.yaml").flat()
        assert str(Path(teacher_folder()).parent) not in published_text(tmp_path / "recipe.yaml")
        assert recipe.public().teacher == Path(teacher_folder()).name

    def test_a_file_may_name_it_and_a_change_replaces_it(self, tmp_path, folder):
        values = yaml.safe_load(Path("recipes/digits/simreg.yaml").read_text())
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, "teacher": teacher_folder(), "name": "mine"}))
        recipe = read_recipe(tmp_path / "mine.yaml")
        assert recipe.hyperparameters["teacher_dim"] == 32
        tiny_encoder(16).save_pretrained(folder)
        other = read_recipe(tmp_path / "mine.yaml", {"teacher": str(folder), "teacher_size": 24})
        assert other.hyperparameters["teacher_dim"] == 16 and other.teacher_size == 24 and other.teacher_sha256 != recipe.teacher_sha256
        assert other.name != recipe.name
        assert read_recipe(tmp_path / "mine.yaml", {"teacher": None}).teacher is None

    @pytest.mark.parametrize("family", ["resnet", "swin", "siglip", "dinov3_vit"])
    def test_takes_every_family_and_resizes_for_transformers_alone(self, family, tmp_path):
        random_encoder(family).save_pretrained(tmp_path / "teacher")
        recipe = recipe_with(tmp_path / "teacher")
        assert recipe.teacher_size == (None if family in ("resnet", "swin") else FAMILIES[family].image_size)
        teacher = load_teacher(recipe)
        assert recipe.method_config().teacher_dim == feature_width(teacher.encoder)
        assert teacher(torch.randn(2, 3, 16, 16)).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
        rehearse(recipe, 16, CPU)

    def test_interpolates_positions_to_a_size_of_ones_own(self):
        teacher, pixels = load_teacher(recipe_with(teacher_folder(), teacher_size=24)), torch.randn(2, 3, 24, 24)
        whole = torch.nn.functional.normalize(features(load_pretrained(Path(teacher_folder())), pixels * teacher.scale + teacher.shift))
        torch.testing.assert_close(teacher(pixels), whole)

    def test_bad_input_gets_one_line(self, folder, tmp_path):
        refused(lambda: rehearse(read_recipe("digits/seed"), 16, CPU), "'teacher' is missing", "seed", "--set teacher=ID_OR_FOLDER")
        refused(lambda: recipe_with(teacher_folder(), "digits/simclr"), "simclr has none to learn from")
        refused(lambda: recipe_with(tmp_path / "nothing"), "no folder")
        refused(lambda: recipe_with(" "), "teacher is blank")
        refused(lambda: load_teacher(recipe_with(folder, teacher_size=13)), "teacher_size is 13", "12 and 18")
        refused(lambda: rehearse(recipe_with(folder, teacher_dim=5), 16, CPU), "teacher_dim is 5", "32 wide")
        refused(lambda: recipe_with(folder, teacher_std=[0, 1, 1]), "teacher_std is 0")
        other = dataclasses.replace(recipe_with(folder), teacher_license="bsd")
        for call in (lambda: recipe_with(folder, teacher_license="bsd"), lambda: load_teacher(other)):
            refused(call, "teacher_license is 'bsd'", "says 'mit'")
        refused(lambda: read_recipe("digits/seed", {"teacher_sha256": "0" * 64}), "belong together")
        recipe = recipe_with(folder)
        tiny_encoder(seed=1).save_pretrained(folder)
        refused(lambda: load_teacher(recipe), "teacher", str(folder), "have changed")

    def test_a_queue_that_does_not_fit_into_memory_is_refused(self, monkeypatch):
        monkeypatch.setattr("sslzoo.recipe.method_memory.default_budget", lambda device: 2**28)
        refused(lambda: rehearse(recipe_with(teacher_folder(), queue_length=2**24), 16, CPU), "queue_length is 16777216", "2.0 GiB")

    def test_a_pinned_commit_is_taken_from_the_cache_without_asking_the_hub(self, folder, monkeypatch):
        asked = []

        def snapshot_download(name, *, revision, local_files_only, **options):
            asked.append((name, revision, local_files_only))
            return str(folder if revision == COMMIT else folder.rename(folder.with_name(COMMIT)))

        monkeypatch.setattr("sslzoo.encoders.folder.snapshot_download", snapshot_download)
        recipe = recipe_with(f"{ID}@main")
        folder = folder.with_name(COMMIT)
        assert recipe.teacher == f"{ID}@{COMMIT}" and asked == [(ID, "main", False)]
        load_teacher(recipe)
        assert asked[1:] == [(ID, COMMIT, True)]
        earlier = recipe.flat()
        again = read_recipe("digits/seed", {"teacher": ID, "epochs": 1}, earlier)
        assert (again.teacher, again.teacher_sha256, len(asked)) == (recipe.teacher, recipe.teacher_sha256, 2)
        tiny_encoder(seed=1).save_pretrained(folder)  # what the cache holds is damaged: the Hub is asked, and has no other
        refused(lambda: load_teacher(recipe), "have changed")
        assert asked[2:] == [(ID, COMMIT, True), (ID, COMMIT, False)]


class TestMethod:
    def test_of_the_students_own_architecture_is_not_given_the_students_start(self, tmp_path):
        """`init_from` fills every copy of the encoder that the method has: the teacher is none."""
        tiny_encoder(seed=1).save_pretrained(tmp_path / "start")
        recipe = recipe_with(teacher_folder(), init_from=str(tmp_path / "start"), image_size=SIZE, encoder_lr_factor=0.02)
        method = setup.make_training_method(recipe, make_accelerator("fp32", cpu=True))
        setup.load_starting_weights(method, recipe)
        student, taught = method.encoder.state_dict(), method.teacher.encoder.state_dict()
        name = "encoder.layer.0.mlp.fc1.weight"
        assert isinstance(method.teacher.encoder, Dinov2Model) and not torch.equal(student[name], taught[name])
        assert torch.equal(taught[name], load_pretrained(Path(teacher_folder())).state_dict()[name])
        assert "seed-from-start-by-tiny-teacher" in recipe.name

    def test_undoes_the_normalisation_of_the_views(self):
        recipe = recipe_with(teacher_folder(), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
        teacher = load_teacher(recipe)
        levels = torch.rand(2, 3, SIZE, SIZE)
        mean, std, own_mean, own_std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std, MEAN, STD))
        expected = features(teacher.encoder, (levels - own_mean) / own_std)
        found = teacher((levels - mean) / std)
        torch.testing.assert_close(found, torch.nn.functional.normalize(expected), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(recipe_with(teacher_folder()), tmp_path_factory.mktemp("runs") / "run", cpu=True)


class TestRun:
    def test_card_names_the_teacher_with_its_licence(self, run):
        card = write_card(run.folder).read_text()
        name = Path(teacher_folder()).name
        assert f"{name}, SHA-256 {run.recipe.teacher_sha256}, licence mit" in card and "license: mit" in card
        assert f"teacher: {name}" in card and str(Path(teacher_folder()).parent) not in card

    def test_a_teacher_that_is_a_run_is_licensed_as_its_card_will_say(self, run, tmp_path):
        shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("README.md"))
        assert recipe_with(tmp_path / "run").teacher_license == "mit"
        assert recipe_with(tmp_path / "run").teacher_size is None, "a ResNet takes any size"

    def test_nothing_of_the_teacher_is_in_the_folder(self, run):
        block = json.loads((run.folder / "config.json").read_text())["sslzoo"]
        assert {key for key in block if "teacher" in key} == {"teacher_dim", "teacher_temperature"} and block["teacher_dim"] == 32
        held = load_file(run.folder / "model.safetensors") | load_file(run.folder / "ssl_heads.safetensors")
        assert not [name for name in held if "teacher" in name or "queue" in name]

    def test_a_run_goes_on_with_its_teacher_in_another_place(self, tmp_path, folder, monkeypatch):
        train_until(3, recipe_with(folder, checkpoint_every=2), tmp_path / "run", monkeypatch)
        moved = folder.rename(tmp_path / "elsewhere")
        refused(lambda: train(load_recipe(tmp_path / "run" / "recipe.yaml"), tmp_path / "run", resume=True, cpu=True), str(folder))
        again = read_recipe(tmp_path / "run" / "recipe.yaml", {"teacher": str(moved)})
        train(again, tmp_path / "run", resume=True, cpu=True)
        (changed,) = Run(tmp_path / "run").results()["training"]["resumed"]
        assert "teacher teacher -> elsewhere" in changed and str(tmp_path) not in changed
