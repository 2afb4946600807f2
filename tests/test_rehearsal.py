"""The dry run of a recipe on `meta` tensors: a recipe that cannot be trained gives one line that names the key."""

import dataclasses

import pytest
import torch
from tiny_teacher import teacher_changes

from sslzoo import method_class, method_names
from sslzoo.errors import InputError
from sslzoo.methods import shipped_names
from sslzoo.parts import hyperparameters
from sslzoo.recipe import read_recipe, rehearse
from sslzoo.recipe.rehearsal import _step

CPU = torch.device("cpu")


def error_of(method, **changes):
    """The error of the method's recipe for digits with some values changed."""
    with pytest.raises(InputError) as caught:
        recipe = read_recipe(f"digits/{method}", {key.replace("__", "."): value for key, value in changes.items()})
        rehearse(recipe, recipe.batch_size // recipe.accumulate, CPU)
    assert str(caught.value).isprintable(), "one line"
    return str(caught.value)


@pytest.mark.parametrize("name", shipped_names())
def test_every_methods_recipe_passes_and_the_rehearsal_does_not_change_its_weights(name):
    recipe = read_recipe(f"digits/{name}", {"batch_size": 8, **teacher_changes(name)})
    rehearse(recipe, 8, CPU)
    torch.manual_seed(0)
    expected = method_class(name)(recipe.method_config()).state_dict()
    torch.manual_seed(0)
    found = recipe.make_method().state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("name", ["imagenet100/simclr", "cifar10/mocov2"])
def test_a_large_recipe_takes_no_memory(name):
    recipe = read_recipe(name)
    assert _step(recipe, recipe.batch_size) > 2**30


@pytest.mark.parametrize(
    ("method", "changes", "key"),
    [
        ("simclr", {"batch_size": 1}, "batch_size 1"), ("simclr", {"accumulate": 128}, "accumulate 128"),
        ("lejepa", {"batch_size": 1}, "batch_size"),
        ("simclr", {"image_size": 4000}, "image_size 4000"), ("simclr", {"batch_size": 2**24}, "batch_size 16777216"),
        ("simclr", {"batch_size": 8, "view__both__size": 4096}, "view.both 2 of 4096 px"),
        ("dino", {"view__local__count": 100, "view__local__size": 2048}, "view.local 100 of 2048 px"),
        ("barlowtwins", {"hidden_dim": 131072, "hidden_layers": 3}, "hidden_dim is 131072"),
        ("mocov2", {"queue_length": 2**24, "projection_dim": 2**17}, "queue_length"),
        ("mae", {"view__single__size": 12}, "view.single.size is 12"), ("simmim", {"view__single__size": 20}, "view.single.size is 20"),
        ("msn", {"view__focal__size": 3}, "view.focal.size is 3"), ("mae", {"encoder": "res6"}, "ViT encoder"),
        ("simmim", {"mask_unit": 3}, "mask_unit is 3"),
        ("mocov2", {"batch_norm_splits": 7}, "batch_norm_splits"), ("mae", {"decoder_heads": 3}, "decoder_heads is 3"),
        ("simclr", {"view__both__count": 3}, "view.both.count is 3"), ("byol", {"view__first__count": 2}, "view.first.count is 2"),
        ("tico", {"view__second__count": 0}, "view.second.count is 0"), ("fastsiam", {"view__all__count": 1}, "view.all.count is 1"),
        ("vicregl", {"view__global__count": 1}, "view.global.count is 1"), ("mae", {"view__single__count": 2}, "view.single.count is 2"),
    ],
    ids=str,
)  # fmt: skip
def test_the_key_at_fault_is_named(method, changes, key):
    assert key in error_of(method, **changes)


def test_a_method_without_batch_norms_may_train_on_one_image():
    recipe = read_recipe("digits/mae", {"batch_size": 1})
    rehearse(recipe, 1, CPU)


def test_varied_views_may_be_more_or_fewer():
    for name, changes in (("dino", {"view.local.count": 3}), ("fastsiam", {"view.all.count": 3}), ("msn", {"view.focal.count": 0})):
        rehearse(read_recipe(f"digits/{name}", {"batch_size": 8, **changes}), 8, CPU)


def test_estimated_memory_for_gradients_is_what_training_takes():
    """Compared with what autograd saves in a real step."""
    recipe, kept = read_recipe("digits/simclr", {"batch_size": 16}), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    method = recipe.make_method()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = method.train()([torch.randn(16, 3, 16, 16) for _ in range(2)], None)["loss"]
    assert torch.isfinite(loss) and _step(recipe, 16) == pytest.approx(sum(kept.values()), rel=0.02)


class TestHyperparameters:
    @pytest.mark.parametrize("name", method_names())
    def test_every_number_of_every_method_has_a_range(self, name):
        """Every number of a new method must be a field of parts/hyperparameters.py, which checks its range."""
        own = method_class(name).config_class.hyperparameters()
        for field in dataclasses.fields(method_class(name).config_class):
            if field.name in own and not isinstance(field.default, bool | str):
                for value in (-1, -1e-9, 10**9, float("nan")):
                    with pytest.raises(ValueError, match="must be from"):
                        field.metadata["validator"][0](value)
        assert "temperature is 0.0: must be from" in error_of("simclr", temperature=0)

    def test_limits_are_allowed(self):
        for field, low, high in ((hyperparameters.share, 0, 1), (hyperparameters.dim, 1, 2**17), (hyperparameters.layers, 0, 100)):
            (check,) = field(low).metadata["validator"]
            assert check(low) is None and check(high) is None
            for value in (low - 1, high + 1, float("nan")):
                with pytest.raises(ValueError, match=f"must be from {low} to {high}"):
                    check(value)


def test_gradient_checkpointing_and_attention_are_checked_with_the_encoder():
    assert "encoder is res6: gradient_checkpointing needs the blocks of a transformer" in error_of("simclr", gradient_checkpointing=True)
    assert "encoder is res6: attn_implementation is 'sdpa', and a" in error_of("simclr", attn_implementation="sdpa")
    assert "unknown attn_implementation 'flash'" in error_of("mae", attn_implementation="flash")
    assert "gradient_checkpointing and drop_path" in error_of("dino", encoder="vit-xs4", gradient_checkpointing=True, drop_path=0.1)
    recipe = read_recipe("digits/mae", {"batch_size": 8, "gradient_checkpointing": True, "attn_implementation": "eager"})
    rehearse(recipe, 8, CPU)
    assert _step(recipe, 8) < _step(dataclasses.replace(recipe, gradient_checkpointing=False), 8)
