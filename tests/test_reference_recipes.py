"""Every row of the reference page has its recipe; where the two differ, the reason stands here."""

import json
from pathlib import Path

import pytest

from sslzoo.optim import peak_lr
from sslzoo.recipe import Recipe, read_recipe, shipped_recipes

ROWS = Path(__file__).parents[2] / "shared/specs/recipes.json"
if not ROWS.exists():
    pytest.skip("the table of the reference page lies beside the project, not in it", allow_module_level=True)

ENCODERS = {
    "resnet50": "res50", "resnet18": "res18", "resnet18_cifar": "res18",
    "vit_s_16": "vit-s16", "vit_b_16": "vit-b16", "vit_b_32": "vit-b32",
}  # fmt: skip
CIFAR_VARIANTS = {(128, 200): "", (512, 200): "-b512", (512, 800): "-b512-e800"}
EVALUATION = {"imagenet1k": (256, 224), "imagenet100": (224, 224), "imagenette": (128, 128), "cifar10": (32, 32)}
PRECISIONS = {"fp32": "fp32", "fp16 mixed": "fp16"}
VIEW_FIELDS = {
    "rrc_size": "size", "rrc_scale": "scale", "interpolation": "interpolation", "hflip_p": "horizontal_flip", "vflip_p": "vertical_flip",
    "cj_prob": "jitter", "grayscale_p": "grayscale", "blur_p": "blur", "solarize_p": "solarize",
}  # fmt: skip

# What differs knowingly, by recipe (None: all) and key: why.
DEVIATIONS = {
    (None, "precision"): "bf16, which needs no loss scaling: the page has fp16 on ImageNet-1k and fp32 with TF32 on the others",
    ("imagenette/simmim", "views"): "one view: the page makes two and trains on the first",
}


def recipe_name(row) -> str:
    variant = "-queue" if row["method"] == "swav_queue" else ""
    if row["dataset"] == "cifar10":
        variant = CIFAR_VARIANTS[row["batch_size"], row["epochs"]]
    return f"{row['dataset']}/{row['method'].removesuffix('_queue')}{variant}"


def of_the_row(row) -> dict:
    """What the row says, by the recipe's keys."""
    scale = 100 if row["dataset"] == "imagenet1k" else 1
    published = {key.removesuffix("_max_over_epochs"): value for key, value in row["published"].items()}
    values = {
        "batch_size": row["batch_size"], "epochs": row["epochs"], "encoder": ENCODERS[row["backbone"]],
        "image_size": 224 if row["backbone"].startswith("vit") else row["input_size"],
        "eval": EVALUATION[row["dataset"]], "optimizer": row["optimizer"].lower(), "lr": round(row["lr"], 9),
        "weight_decay": row["weight_decay"], "momentum": str(row["momentum"]).removeprefix("betas "),
        "decay_norm_and_bias": row["wd_excluded"].startswith("nothing"), "clip_norm": 3.0 if "3.0" in row["grad_clip"] else None,
        "precision": PRECISIONS[row["precision"]],
        "reference": {key: round(value / scale, 4) for key, value in published.items() if key.startswith(("knn", "linear", "finetune"))},
        "views": [spelt_out(view) for view in row["aug_head"] for _ in range(view["count"])],
    }  # fmt: skip
    if "torch cosine" in row["schedule"]:
        return {**values, "schedule": "annealing_per_epoch"}
    kind = "cosine_per_epoch" if "per EPOCH" in row["schedule"] else "cosine_per_step"
    return {**values, "schedule": kind, "warmup_epochs": row["warmup_epochs"], "final_lr": row["final_lr_factor"]}


def spelt_out(view) -> dict:
    jitter = {name: strength for name, strength in (view["jitter"] or {}).items()}
    sigma = {"blur_sigma": view["blur_sigma"]} if view["blur_p"] else {}
    first = {"solarize_first": "SOLARIZE,BLUR" in view["order"]}
    return {ours: view[theirs] for theirs, ours in VIEW_FIELDS.items()} | jitter | sigma | first


def of_the_recipe(recipe: Recipe, keys, views) -> dict:
    values = {key: getattr(recipe, key) for key in keys if hasattr(recipe, key)}
    values["eval"] = (recipe.eval_resize, recipe.eval_crop)
    values["lr"] = round(peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size), 9)
    values["momentum"] = ",".join(f"{beta:g}" for beta in recipe.betas) if recipe.optimizer in ("adam", "adamw") else f"{recipe.momentum:g}"
    rendered = [view for view in recipe.make_views().values() for _ in range(view.count)]
    values["views"] = [
        {field: list(value) if isinstance(value := getattr(view, field), tuple) else value for field in wanted}
        for view, wanted in zip(rendered, views, strict=False)
    ] + [{}] * (len(rendered) - len(views))  # fmt: skip
    return values


ROWS_BY_RECIPE = {recipe_name(row): row for row in json.loads(ROWS.read_text())}


def test_every_row_has_a_recipe_and_every_recipe_with_a_reference_a_row():
    assert len(ROWS_BY_RECIPE) == 76
    assert {name for name, file in shipped_recipes().items() if read_recipe(file).reference} == ROWS_BY_RECIPE.keys()


@pytest.mark.parametrize("name", sorted(ROWS_BY_RECIPE))
def test_recipe_is_the_row_but_for_known_deviations(name):
    expected = of_the_row(ROWS_BY_RECIPE[name])
    found = of_the_recipe(read_recipe(shipped_recipes()[name]), expected, expected["views"])
    different = {key: (found[key], expected[key]) for key in expected if found[key] != expected[key]}
    known = {key for recipe, key in DEVIATIONS if recipe in (None, name)}
    assert different.keys() - known == set(), {key: different[key] for key in different.keys() - known}
    assert known <= different.keys(), f"no longer different: {known - different.keys()}"
