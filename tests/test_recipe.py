"""Recipes: parsing, one-line errors, names and identity, and the round trip through a file."""

import ast
import dataclasses
import itertools
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub.utils import validate_repo_id

from sslzoo import method_class, method_names
from sslzoo.errors import InputError
from sslzoo.recipe import (
    Recipe,
    load_recipe,
    matching_recipes,
    parse_changes,
    parse_recipe,
    read_recipe,
    shipped_recipes,
    write_recipe,
    yaml_files,
)  # fmt: skip
from sslzoo.recipe.view_sizes import patch_size
from sslzoo.views import View

BASE = {
    "method": "simclr", "encoder": "res6", "dataset": "uoft-cs/cifar10", "image_size": 32, "batch_size": 8, "epochs": 2,
    "optimizer": "sgd", "lr": 0.06, "lr_scaling": "batch/128", "schedule": "annealing_per_epoch", "weight_decay": 5e-4,
}  # fmt: skip


def parse(**changes):
    return parse_recipe({**BASE, **{key.replace("__", "."): value for key, value in changes.items()}}, "my.yaml")


def refused(action, *expected):
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable(), "one line"
    for part in expected:
        assert part in message, message
    return message


@pytest.fixture
def file(tmp_path):
    return tmp_path / "recipe.yaml"


@pytest.fixture(scope="module")
def shipped():
    """Every shipped recipe by its name, read once."""
    return {name: read_recipe(name) for name in shipped_recipes()}


class TestShipped:
    def test_there_are_some(self):
        assert "digits/simclr" in shipped_recipes()

    def test_are_found_and_read_without_torch_and_transformers(self):
        """So that commands which only read recipes can start fast."""
        nodes = list(ast.walk(ast.parse(Path(yaml_files.__file__).read_text())))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names} == {"yaml", "sslzoo.errors"}

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_parses_and_has_a_matching_name(self, name, shipped):
        recipe = shipped[name]
        folder, _, variant = name.partition("/")
        # "simclr" or "simclr-variant"; methods have no "-" in their names.
        assert variant.partition("-")[0] == recipe.method
        dataset_name = recipe.dataset.partition("@")[0].rpartition("/")[2]
        of_dataset = "".join(letter for letter in dataset_name.lower() if letter.isalnum())
        assert folder == ("small" if recipe.name.endswith("-small") else of_dataset)
        assert recipe.name.startswith(f"{recipe.method}-") and recipe.encoder in recipe.name
        validate_repo_id(recipe.name)

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_first_line_says_how_to_run_it(self, name):
        text = shipped_recipes()[name].read_text()
        assert text.splitlines()[0] == f"# sslzoo train {name}"

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_survives_the_round_trip_through_recipe_yaml(self, name, shipped, file):
        recipe = shipped[name]
        write_recipe(recipe, file)
        again = read_recipe(file)
        assert again.flat() == recipe.flat() and again.make_views() == recipe.make_views()
        assert again.method_config().to_dict() == recipe.method_config().to_dict()

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_holds_only_what_differs_from_the_methods_views_and_defaults(self, name, shipped):
        values = yaml.safe_load(shipped_recipes()[name].read_text())
        defaults = parse_recipe({key: values[key] for key in BASE}, name).flat()
        recipe = shipped[name].flat()
        repeated = [key for key in values.keys() - BASE.keys() - {"name"} if recipe[key] == defaults.get(key)]
        assert not repeated, "what a recipe leaves out is spelt out in the run folder"

    def test_small_ones_differ_in_method_and_settings_alone(self, shipped):
        """So that their numbers can stand next to each other."""
        recipes = [shipped[name] for name in matching_recipes("small/*")]
        budget = {(recipe.dataset, recipe.image_size, recipe.batch_size, recipe.epochs, recipe.precision) for recipe in recipes}
        assert len(recipes) > 5 and len(budget) == 1

    def test_names_are_unique(self, shipped):
        names = [recipe.name for recipe in shipped.values()]
        assert len(set(names)) == len(names)

    def test_is_found_by_name_and_by_path(self):
        found = {read_recipe(name).name for name in ("digits/simclr", "digits/simclr.yaml", "recipes/digits/simclr.yaml")}
        assert len(found) == 1
        refused(lambda: read_recipe("digits/simcrl"), "unknown recipe 'digits/simcrl'", "did you mean 'digits/simclr'")
        for name in ("", ".", "/", "a" * 300, "no/such"):
            refused(lambda name=name: read_recipe(name), "unknown recipe")


class TestKeys:
    def test_defaults_are_filled_in(self):
        recipe = parse()
        assert recipe.name == "simclr-res6-cifar10" and recipe.momentum == 0.9 and recipe.test_split == "test"
        assert (recipe.eval_resize, recipe.eval_crop) == (32, 32)
        assert (parse(eval_crop=28).eval_resize, parse(eval_resize=40).eval_crop) == (28, 32)

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("epoch", "epochs"), ("batchsize", "batch_size"), ("temprature", "temperature"), ("view.both.scal", "view.both.scale"),
            ("view.boht.scale", "view.both.scale"), ("reference.knn_top2", "reference.knn_top"), ("hiden_dim", "hidden_dim"),
        ],
    )  # fmt: skip
    def test_an_unknown_key_is_answered_with_the_nearest(self, wrong, right):
        refused(lambda: parse_recipe({**BASE, wrong: 1}, "my.yaml"), "my.yaml", f"'{wrong}'", f"did you mean '{right}")

    def test_of_another_method_is_unknown(self):
        refused(lambda: parse(mask_ratio=0.5), "unknown key 'mask_ratio'")
        refused(lambda: parse(hyperparameters={}), "'hyperparameters'")
        refused(lambda: parse(views={}), "'views'")

    @pytest.mark.parametrize("key", BASE)
    def test_missing_one_is_named(self, key):
        values = {name: value for name, value in BASE.items() if name != key}
        refused(lambda: parse_recipe(values, "my.yaml"), "my.yaml", f"'{key}' is missing")

    def test_aliases_are_refused_before_they_grow(self, file):
        lines = [f"{after}: &{after} [{', '.join([f'*{before}'] * 8)}]" for before, after in itertools.pairwise("abcdefghijklmnop")]
        file.write_text("\n".join(["a: &a [x, x]", *lines]))
        refused(lambda: read_recipe(file), str(file), "alias")

    def test_a_duplicate_key_is_refused(self, file):
        file.write_text("".join(f"{key}: {value}\n" for key, value in BASE.items()) + "epochs: 3\n")
        refused(lambda: read_recipe(file), str(file), "'epochs' appears twice")

    @pytest.mark.parametrize("key", [1, None, 1.5, True, ("a",)])
    def test_a_key_that_is_no_text_is_refused(self, key):
        refused(lambda: parse_recipe({**BASE, key: 1}, "my.yaml"), "unknown key")

    @pytest.mark.parametrize(
        "content", ["", "- a\n- b", "text", "a: [", "a: b: c", "\x00", "{a}: 1", "? [a]\n: 1", "[" * 1000, "a: 2024-13-45"]
    )
    def test_a_file_that_is_no_recipe_is_refused(self, content, file):
        file.write_text(content)
        refused(lambda: read_recipe(file), str(file))

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", "method: simclr".encode("utf-16"), b"\tmethod: simclr", bytes(range(256))])
    def test_a_file_that_is_no_text_is_refused(self, content, file):
        file.write_bytes(content)
        refused(lambda: read_recipe(file), str(file))

    def test_a_file_that_is_too_large_or_a_folder_is_refused(self, file):
        file.write_text("a: 1\n" * 10**6)
        refused(lambda: read_recipe(file), str(file), "more than 65536 bytes")
        refused(lambda: read_recipe(file.parent), str(file.parent), "it is a folder", str(file))

    def test_byte_order_mark_and_crlf_are_accepted(self, file):
        text = "".join(f"{key}: {value}\r\n" for key, value in BASE.items())
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_recipe(file).flat() == parse().flat()

    def test_file_cannot_run_code(self, file, tmp_path):
        file.write_text(f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path / 'canary'}]]")
        refused(lambda: read_recipe(file), str(file))
        assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", method_names())
def test_no_hyperparameter_has_the_name_of_a_recipe_key(name):
    """In a flat file the two could not be told apart."""
    run = {field.name for field in dataclasses.fields(Recipe)}
    assert not run & set(method_class(name).config_class.hyperparameters())


class TestValues:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("epochs", "ten"), ("epochs", 1.5), ("epochs", True), ("epochs", None), ("epochs", [1]), ("epochs", 0), ("batch_size", -8),
            ("lr", "fast"), ("lr", True), ("lr", None), ("lr", ".nan"), ("lr", float("nan")), ("lr", float("inf")), ("lr", 10**400),
            ("lr", -0.1), ("weight_decay", -1e-4), ("compile", 1), ("compile", "yes"), ("name", 5), ("dataset", 3), ("dataset", None),
            ("betas", [0.9]), ("betas", [0.9, 0.99, 0.999]), ("betas", 0.9), ("betas", ["a", "b"]), ("betas", [1.5, 0.9]),
            ("temperature", "low"), ("temperature", [0.1]), ("hidden_dim", 1.5), ("hidden_dim", "64"), ("joint_views", 1),
            ("momentum", 1.0), ("clip_norm", -1),
            ("reference.knn_top1", "high"), ("seed", -1), ("eval_crop", 0), ("log_every", 0), ("image_size", 0), ("accumulate", 0),
            ("encoder", "res19"), ("optimizer", "adagrad"), ("schedule", "cosine"), ("lr_scaling", "batch/64"), ("precision", "fp8"),
            ("image_size", 100000), ("batch_size", 10**15), ("epochs", 10**18), ("seed", 2**70), ("seed", 2**32), ("warmup_epochs", 1e308),
            ("lr", 1e300), ("weight_decay", 1e308), ("clip_norm", 0), ("log_every", 10**30), ("knn_every", 10**30), ("canvas", 10**9),
            ("epochs", 10**5000), ("dataset", ""), ("dataset", " "), ("dataset", "a\nb"), ("dataset", "a\x00b"), ("dataset", "\ud800"),
            ("dataset", "x" * 10**6), ("train_split", ""), ("label_column", " "), ("protocols", []), ("protocols", [[1]]),
            ("protocols", "knn-instdisc-v2"), ("betas", [[0.9], 1]), ("hidden_dim", 0), ("hidden_dim", 10**9), ("temperature", 0),
            ("temperature", 1e-300), ("view.both.count", 10**6), ("view.both.size", 10**6), ("view.both.brightness", 1e308),
            ("view.both.scale", [1e-320, 1.0]), ("view.both.blur_sigma", [1.0, 1e308]), ("view.both.ratio", [10**400, 10**400]),
            ("reference.knn_top1", 5), ("reference.knn_top1", -0.1), ("reference.knn_top1", True),
            ("tracker", "wandbb"), ("method", "simcl"), ("method", "a\nb"), ("method", 10**5000),
            ("method", 5), ("method", None), ("dataset", [1]),
        ],
        ids=lambda value: ascii(value)[:40] if not isinstance(value, int) or abs(value) < 2**99 else "huge",
    )  # fmt: skip
    def test_an_invalid_value_is_refused_with_its_key(self, key, value):
        error = refused(lambda: parse_recipe({**BASE, key: value}, "my.yaml"), "my.yaml", key.rpartition(".")[2])
        assert len(error) < 700

    def test_numbers_that_yaml_reads_as_strings(self, file):
        text = yaml.safe_dump(BASE)
        file.write_text(text.replace("lr: 0.06\n", "lr: 1e-6\n").replace("weight_decay: 0.0005\n", "weight_decay: 5E-4\n"))
        recipe = read_recipe(file)
        assert recipe.lr == 1e-6 and type(recipe.lr) is float and recipe.weight_decay == 5e-4

    def test_integers_are_accepted_for_floats_but_not_the_other_way(self):
        recipe = parse(lr=1, temperature=1, clip_norm=3)
        assert (recipe.lr, recipe.hyperparameters["temperature"], recipe.clip_norm) == (1.0, 1.0, 3.0)
        assert type(recipe.lr) is float

    def test_lists_become_pairs(self):
        assert parse(betas=[0.5, 1e-3]).betas == (0.5, 0.001)

    def test_the_nearest_choice_is_suggested(self):
        refused(lambda: parse(encoder="res81"), "did you mean 'res18'")
        refused(lambda: parse(optimizer="adamww"), "did you mean 'adamw'")
        refused(lambda: parse(method="simcrl"), "did you mean 'simclr'")

    def test_micro_batches_divide_the_batch(self):
        assert parse(accumulate=4).accumulate == 4
        refused(lambda: parse(accumulate=3), "batch_size 8", "accumulate: 3")

    def test_an_error_of_the_methods_configuration_is_one_line(self):
        refused(lambda: parse(method="mae", encoder="vit-xs4", mask_ratio=1.0), "my.yaml", "mask_ratio")
        refused(lambda: parse(encoder="vit-s16", image_size=30), "my.yaml", "30")


class TestNames:
    @pytest.mark.parametrize(
        ("dataset", "name"),
        [
            ("uoft-cs/cifar10", "cifar10"), ("digits", "digits"), ("My Photos", "my-photos"), ("My Photos/", "my-photos"),
            ("frgfm/imagenette@160px", "imagenette-160px"), ("ILSVRC/imagenet-1k", "imagenet-1k"), ("photos.parquet", "photos"),
            ("a/v1--x_", "v1-x"), ("a/v2.1@de/main", "v2-1-de-main"),
        ],
    )  # fmt: skip
    def test_are_method_encoder_dataset(self, dataset, name):
        assert parse(dataset=dataset).name == f"simclr-res6-{name}"

    @pytest.mark.parametrize(
        "dataset",
        [
            "a" * 300, "ü/ö", "a..b", "x.git/y.git", "日本", "-", "a" * 83 + "-b", "/", "..", "x/train-*.parquet", "a/b@" + "c" * 200,
            "~/Фото/", "a/b@", "." * 200, "x" * 250 + "/" + "y" * 250 + "/z", " x ",
        ],
    )  # fmt: skip
    def test_are_valid_on_the_hub(self, dataset):
        name = parse(dataset=dataset).name
        validate_repo_id(name)
        assert name.startswith("simclr-res6-") and name != "simclr-res6-"

    def test_differ_for_different_local_data_sets(self):
        places = [
            "photos", "x/a/photos", "x/b/photos", "/a/photos", "a/train.parquet", "b/train.parquet", "a/train-*.parquet", "日本", "写真",
            "/", "..", "a" * 300, "a" * 301, "Fotos für alle", "Fotos fur alle",
        ]  # fmt: skip
        assert len({parse(dataset=place).name for place in places}) == len(places)
        # However it is written, and whether it is there.
        assert parse(dataset="a/b/photos/").name == parse(dataset="a/b/photos").name == parse(dataset="a//b/./photos").name
        assert "secret" not in parse(dataset="/home/secret/photos").name

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a-", "a.", ".a", "a--b", "a..b", "a.git", "a" * 97, "ä", "../a"])
    def test_invalid_on_the_hub_are_refused(self, name):
        refused(lambda: parse(name=name), "my.yaml", "is not a name")

    @pytest.mark.parametrize("name", ["a", "A-b_c.1", "a" * 96, "simclr-res18-cifar10", "9"])
    def test_given_names_are_kept(self, name):
        validate_repo_id(name)
        assert parse(name=name).name == name


PAGE = "simclr-res18-cifar10"


class TestIdentity:
    """A name and the page's numbers belong to one run."""

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"dataset": "My Photos", "encoder": "res6"}, "simclr-res6-my-photos"),
            ({"epochs": 10}, f"{PAGE}-e10"),
            ({"batch_size": 256, "epochs": 10}, f"{PAGE}-b256-e10"),
            ({"image_size": 64}, f"{PAGE}-64px"),
            ({"dataset": "frgfm/imagenette@160px", "image_size": 64}, "simclr-res18-imagenette-160px-64px"),
        ],
        ids=str,
    )
    def test_another_run_has_another_name_and_no_reference(self, changes, name, caplog):
        recipe = read_recipe("cifar10/simclr", changes)
        assert recipe.name == name and recipe.reference == {}
        (message,) = caplog.messages
        assert message == f"name {name}; the page's numbers belong to another run and are left out: {', '.join(sorted(changes))} changed"

    @pytest.mark.parametrize(
        "changes",
        [
            {"lr": 0.1}, {"temperature": 0.1}, {"view.both.blur": 0.5}, {"optimizer": "adamw"}, {"train_split": "test"}, {"accumulate": 2},
            {"label_column": "fine"}, {"eval_crop": 28}, {"schedule": "constant"}, {"view.both.size": 24}, {"dataset": "someone/cifar10"},
            {"test_split": None}, {"warmup_epochs": 10}, {"joint_views": True}, {"canvas": 32},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_change_to_what_is_learned_or_measured_makes_another_run(self, changes):
        recipe = read_recipe("cifar10/simclr", changes)
        assert recipe.name.startswith(f"{PAGE}-") and recipe.reference == {}
        validate_repo_id(recipe.name)
        assert recipe.name != read_recipe("cifar10/simclr", {"lr": 0.2}).name

    @pytest.mark.parametrize(
        "changes",
        [
            {}, {"precision": "fp32"}, {"seed": 3}, {"compile": True}, {"knn_every": 0, "log_every": 1, "checkpoint_every": 7},
            {"tracker": "tensorboard"}, {"protocols": ["linear-features-v1"]}, {"lr": 0.06, "epochs": 200, "view.both.blur": 0},
            {"momentum": 0.9, "accumulate": 1, "view.both.size": 32, "eval_crop": 32},
        ],
        ids=str,
    )  # fmt: skip
    def test_how_it_is_computed_and_unchanged_values_do_not_make_another_run(self, changes, caplog):
        recipe = read_recipe("cifar10/simclr", changes)
        assert recipe.name == PAGE and recipe.reference == {"knn_top1": 0.847} and not caplog.messages

    def test_a_given_name_and_given_numbers_are_kept(self):
        recipe = read_recipe("cifar10/simclr", {"epochs": 10, "name": PAGE, "reference.knn_top1": 0.5})
        assert recipe.name == PAGE and recipe.reference == {"knn_top1": 0.5}
        assert read_recipe("cifar10/simclr", {"name": "mine"}).reference == {"knn_top1": 0.847}
        some = read_recipe("imagenet1k/simclr", {"epochs": 1, "reference.knn_top1": 0.5})
        assert some.reference == {"knn_top1": 0.5} and some.name == "simclr-res50-imagenet-e1"

    def test_variants_keep_the_rest_of_their_names(self):
        assert read_recipe("imagenette/swav-queue", {"epochs": 1}).name == "swav-res18-imagenette-queue-e1"
        assert read_recipe("imagenette/swav-queue", {"dataset": "photos"}).name == "swav-res18-photos-queue"
        assert read_recipe("cifar10/simclr-b512-e800", {"epochs": 1}).name == "simclr-res18-cifar10-b512-e1"
        assert read_recipe("imagenet1k/simclr", {"dataset": "photos"}).name == "simclr-res50-photos"

    def test_another_run_never_gets_the_name_of_a_shipped_recipe(self, shipped):
        changes = {"dataset": "uoft-cs/cifar10", "encoder": "res18"}
        assert read_recipe("digits/simclr", changes).name.startswith(f"{PAGE}-")
        name = read_recipe("cifar10/simclr", {"epochs": 800, "batch_size": 512, "lr": 1}).name
        assert name not in {recipe.name for recipe in shipped.values()}

    def test_a_recipe_without_a_name_gets_the_default_name(self, caplog):
        assert read_recipe("digits/simclr", {"epochs": 1}).name == "simclr-res6-digits"
        assert read_recipe("digits/simclr", {"dataset": "photos"}).name == "simclr-res6-photos" and not caplog.messages

    def test_changes_to_the_file_of_a_run_folder(self, file):
        write_recipe(read_recipe("cifar10/simclr"), file)
        assert read_recipe(file).flat() == read_recipe("cifar10/simclr").flat()
        recipe = read_recipe(file, {"epochs": 10})
        assert recipe.name == f"{PAGE}-e10" and recipe.reference == {}
        write_recipe(recipe, file)
        assert read_recipe(file, {"epochs": 20}).name == f"{PAGE}-e20"
        assert read_recipe(file, {"dataset": "photos"}).name == "simclr-res18-photos-e10"

    def test_an_edited_copy_of_a_shipped_recipe_is_another_run(self, file, caplog):
        text = shipped_recipes()["cifar10/simclr"].read_text()
        file.write_text(text)
        assert read_recipe(file) == read_recipe("cifar10/simclr") and not caplog.messages
        file.write_text(text.replace("dataset: uoft-cs/cifar10", "dataset: photos").replace("epochs: 200", "epochs: 20"))
        recipe = read_recipe(file)
        assert recipe.name == "simclr-res18-photos-e20" and recipe.reference == {}
        assert "the page's numbers belong to another run and are left out: dataset, epochs changed" in caplog.text
        # A recipe with another name is the user's own, and load_recipe returns a run folder's recipe unchanged.
        file.write_text(file.read_text().replace(f"name: {PAGE}", "name: mine"))
        assert read_recipe(file).name == "mine" and read_recipe(file).reference == {"knn_top1": 0.847}
        file.write_text(file.read_text().replace("name: mine", f"name: {PAGE}"))
        assert load_recipe(file).name == PAGE and load_recipe(file).reference == {"knn_top1": 0.847}

    def test_a_change_may_supply_a_missing_key(self, file):
        file.write_text(shipped_recipes()["cifar10/simclr"].read_text().replace(PAGE, "mine").replace("epochs: 200\n", ""))
        refused(lambda: read_recipe(file), "'epochs' is missing")
        assert read_recipe(file, {"epochs": 10}).reference == {}


class TestSizes:
    """Sizes in px follow the image size, unless they are given."""

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_of_every_shipped_recipe_follow_it(self, name, shipped):
        self.assert_follow(shipped[name], name)

    def test_of_run_folders_follow_it(self, shipped, file):
        def sizes(recipe):
            views = ((name, view.size) for name, view in recipe.make_views().items())
            return recipe.image_size, recipe.eval_crop, recipe.eval_resize, patch_size(recipe.method_config().encoder), *views

        for recipe in {sizes(recipe): recipe for recipe in shipped.values()}.values():
            write_recipe(recipe, file)
            self.assert_follow(recipe, file)

    @staticmethod
    def assert_follow(recipe, source):
        twice = read_recipe(source, {"image_size": 2 * recipe.image_size})
        assert (twice.eval_crop, twice.eval_resize) == (2 * recipe.eval_crop, 2 * recipe.eval_resize)
        views = twice.make_views()
        for view, before in recipe.make_views().items():
            # Local views of a fixed share of the image are rounded to px, or to patches.
            assert abs(views[view].size - 2 * before.size) <= (4 if before.size < recipe.image_size else 0), view

    def test_are_those_of_the_papers(self):
        def sizes(name, **changes):
            return [view.size for view in read_recipe(name, changes).make_views().values()]

        assert sizes("imagenet1k/dino") == [224, 224, 96] and sizes("imagenette/swav") == [128, 64]
        assert sizes("imagenette/swav", image_size=32) == [32, 16] and sizes("imagenette/msn", image_size=112) == [64, 64, 32]
        assert sizes("imagenet1k/lejepa") == [224, 96] and sizes("digits/msn", image_size=32) == [32, 32, 24]

    def test_given_ones_stay(self):
        changes = {"image_size": 64, "view.both.size": 48, "eval_crop": 56, "eval_resize": 72, "canvas": 100}
        recipe = read_recipe("imagenette/simclr", changes)
        assert recipe.make_views()["both"].size == 48
        assert (recipe.eval_crop, recipe.eval_resize, recipe.canvas) == (56, 72, 100)

    def test_in_px_of_a_file_keep_their_ratio(self, file):
        write_recipe(parse(image_size=64, canvas=80, eval_resize=72, view__both__size=48), file)
        recipe = read_recipe(file, {"image_size": 32})
        assert (recipe.canvas, recipe.eval_resize, recipe.eval_crop, recipe.make_views()["both"].size) == (40, 36, 32, 24)
        assert read_recipe(file, {"image_size": 32, "canvas": 80}).canvas == 80

    def test_as_shares(self):
        recipe = parse(image_size=64, eval_crop=0.75, eval_resize=1.25, view__both__size=0.5)
        assert (recipe.eval_crop, recipe.eval_resize, recipe.make_views()["both"].size) == (48, 80, 32)
        in_patches = parse(encoder="vit-s16", image_size=224, view__both__size=0.3)
        assert in_patches.make_views()["both"].size == 64  # 67.2 px are 4.2 patches
        for key in ("view.both.size", "eval_crop", "eval_resize"):
            for wrong in (0.0, -0.5, 4.5, float("nan"), 5000, "half"):
                refused(lambda key=key, wrong=wrong: parse_recipe({**BASE, key: wrong}, "my.yaml"), key)


class TestViews:
    def test_of_the_method_with_the_recipes_fields(self):
        recipe = parse(view__both__scale=[0.2, 1], view__both__blur=0)
        (view,) = recipe.make_views().values()
        (usual,) = method_class("simclr").views(32).values()
        assert view == dataclasses.replace(usual, scale=(0.2, 1.0), blur=0.0) and view != usual

    def test_every_field_of_every_view_of_every_method_is_a_key(self):
        for name in method_names():
            for view in method_class(name).views(32):
                expected = {**{field.name: field.default for field in dataclasses.fields(View)}, "size": 12}
                values = {f"view.{view}.{field}": list(value) if isinstance(value, tuple) else value for field, value in expected.items()}
                encoder = "vit-xs4" if name == "mae" else "res6"
                recipe = parse_recipe({**BASE, "method": name, "encoder": encoder, **values}, "my.yaml")
                assert dataclasses.asdict(recipe.make_views()[view]) == expected

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("scale", 0.5), ("scale", [1.0, 0.5]), ("scale", [0.5]), ("count", -1), ("count", 1.5), ("jitter", 2), ("size", 0),
            ("interpolation", "cubic"), ("size", None),
        ],
    )
    def test_bad_values_are_named(self, field, value):
        refused(lambda: parse_recipe({**BASE, f"view.both.{field}": value}, "my.yaml"), "my.yaml", "view.both", field)

    @pytest.mark.parametrize("key", ["view", "view.", "view.both", "view.both.", "view..scale", "view.both.scale.x", "reference"])
    def test_incomplete_keys_are_unknown(self, key):
        refused(lambda: parse_recipe({**BASE, key: 1}, "my.yaml"), f"unknown key '{key}'")


class TestChanges:
    def test_are_parsed_as_yaml(self):
        changes = ["epochs=10", " lr = 1e-3", "view.both.scale=[0.1, 1]", "name=x=y", "test_split=null", "compile=true", "name="]
        assert parse_changes(changes[:3]) == {"epochs": 10, "lr": "1e-3", "view.both.scale": [0.1, 1]}
        assert parse_changes(changes[3:6]) == {"name": "x=y", "test_split": None, "compile": True}
        assert parse_changes(changes[6:]) == {"name": None}

    def test_override_the_file(self):
        recipe = read_recipe("digits/simclr", parse_changes(["epochs=3", "lr=1e-3", "view.both.count=2", "temperature=1"]))
        assert (recipe.epochs, recipe.lr, recipe.hyperparameters["temperature"]) == (3, 0.001, 1.0)

    @pytest.mark.parametrize(
        "change",
        [
            "epochs", "epochs:3", "", "=5", " =5", "x" * 10**5, "a=[", "a=2024-13-45", "a=!!python/name:os.system", "a=\x00",
            "a=" + "[" * 1000,
        ],
    )  # fmt: skip
    def test_malformed_changes_are_refused_in_one_line(self, change):
        refused(lambda: parse_changes([change]), "--set")

    @pytest.mark.parametrize(
        "change",
        [
            "a.b.c=1", "view.both=3", "reference.knn_top1=abc", "view=1", "epoch=3", "epochs=", "epochs=many", "lr={a: 1}",
            "view.both.scale=2", "method=none-such",
        ],
    )  # fmt: skip
    def test_invalid_for_the_recipe_are_refused(self, change):
        refused(lambda: read_recipe("digits/simclr", parse_changes([change])))


class TestFile:
    @pytest.mark.parametrize("name", method_names())
    def test_contains_every_default(self, name, file):
        encoder = "vit-xs4" if name == "mae" else "res6"
        recipe = parse_recipe({**BASE, "method": name, "encoder": encoder, "reference.knn_top1": 0.5}, "my.yaml")
        write_recipe(recipe, file)
        values = yaml.safe_load(file.read_text())
        expected = {field.name for field in dataclasses.fields(Recipe)} - {"hyperparameters", "views", "reference"}
        expected |= {"reference.knn_top1", *method_class(name).config_class.hyperparameters()}
        expected |= {f"view.{view}.{field.name}" for view in method_class(name).views(32) for field in dataclasses.fields(View)}
        assert set(values) == expected
        assert read_recipe(file).flat() == recipe.flat() == values

    def test_preserves_every_value(self, file):
        changes = {
            "lr": 1e-6, "betas": [0.5, 0.75], "name": "my-run", "test_split": None, "clip_norm": 3, "temperature": 0.25,
            "joint_views": False, "view.both.scale": [0.5, 0.75],
            "view.both.size": 24, "reference.knn_top1": 0.25, "seed": 7, "decay_norm_and_bias": False,
        }  # fmt: skip
        write_recipe(parse_recipe({**BASE, **changes}, "my.yaml"), file)
        again = read_recipe(file)
        assert (again.lr, again.betas, again.name, again.test_split, again.clip_norm) == (1e-6, (0.5, 0.75), "my-run", None, 3.0)
        assert (again.seed, again.decay_norm_and_bias, again.reference) == (7, False, {"knn_top1": 0.25})
        assert again.method_config().temperature == 0.25 and again.method_config().joint_views is False
        assert (again.make_views()["both"].scale, again.make_views()["both"].size) == ((0.5, 0.75), 24)
        write_recipe(again, file)
        assert read_recipe(file) == again

    @pytest.mark.parametrize("dataset", ["no", "1e5", "a: b", "# x", "日本", "a'b\"c", "2024-01-01", "~/x", " x "])
    def test_texts_survive_the_round_trip(self, dataset, file):
        write_recipe(parse(dataset=dataset, image_column="yes"), file)
        assert read_recipe(file).dataset == dataset and read_recipe(file).image_column == "yes"

    def test_method_has_the_hyperparameters(self):
        model = parse(temperature=0.3, hidden_dim=16, projection_dim=8).make_method()
        assert model.config.temperature == 0.3 and model.projector[0].out_features == 16 and model.projector[3].out_features == 8
