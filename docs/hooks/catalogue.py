"""Pages that are made from the code: the catalogue of methods, the keys of recipes, and the reference of the Python interface."""

import importlib
import inspect
import json
from dataclasses import MISSING, fields

from figures import draw
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sslzoo.explain import key_meanings
from sslzoo.methods import method_class, shipped_names
from sslzoo.recipe import Recipe, shipped_recipes
from sslzoo.views import View

METHODS = """# Methods

Blue is trained. Orange gets no gradient: it is a moving average of the trained network, or a frozen one. Green is kept from batch to
batch, pink is the loss, and two strokes through an arrow mean that no gradient flows back. Where a loss is symmetric, views change places.
`sslzoo methods` lists the methods, and [CONTRIBUTING](CONTRIBUTING.md) says how to add one. Defaults are mostly the paper's for ImageNet;
`sslzoo explain RECIPE` shows what a recipe takes in their place.
"""
KEYS = """# Keys of recipes

`sslzoo explain RECIPE` shows every key of a recipe, its value, where that comes from and these meanings. `--set KEY=VALUE` changes one.
The keys of a method's own are in the [catalogue of methods](methods.md).
"""
# The modules whose public names a reader of the reference may want, in the order of a run.
MODULES = {
    "sslzoo": "Models and methods", "sslzoo.recipe": "Recipes", "sslzoo.data": "Images", "sslzoo.views": "Views",
    "sslzoo.training": "Training", "sslzoo.inference": "Evaluating, embedding and importing",
    "sslzoo.evaluation": "Protocols and metrics", "sslzoo.hub": "Cards and the Hub", "sslzoo.reproduce": "Reproducing",
    "sslzoo.similar": "Finding similar images", "sslzoo.export": "Exporting",
}  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "methods.md", content=METHODS + "\n".join(map(_method, shipped_names()))))
    files.append(File.generated(config, "recipe-keys.md", content=_recipe_keys()))
    files.append(File.generated(config, "api.md", content="# Python\n\n" + "\n".join(map(_reference, MODULES))))
    return files


def _method(name: str) -> str:
    """The section of a method: its idea, figure, paper, recipes and hyper-parameters."""
    cls = method_class(name)
    title, _, idea = importlib.import_module(cls.__module__).__doc__.splitlines()[0].partition(": ")
    recipes = ", ".join(f"`{recipe}`" for recipe in shipped_recipes() if recipe.split("/")[1].split("-")[0] == name)
    meanings, hyperparameters = key_meanings(name), cls.config_class.hyperparameters()
    table = _table((key, default, meanings.get(key, "")) for key, default in hyperparameters.items())
    summary = f'??? note "Its {len(hyperparameters)} hyper-parameters"\n\n    ' + table.replace("\n", "\n    ")
    paper = f"[{cls.paper.title}]({cls.paper.url}), {cls.paper.authors}, {cls.paper.year}."
    parts = [f"## {title} {{#{name}}}", idea[0].upper() + idea[1:], draw(name, f"{title}: {idea}"), f"{paper} Recipes: {recipes}.", summary]
    return "\n\n".join(filter(None, parts)) + "\n"


def _recipe_keys() -> str:
    meanings = key_meanings("simclr")
    recipe = [
        (field.name, field.default, meanings.get(field.name, ""))
        for field in fields(Recipe) if field.default_factory is MISSING
    ]  # fmt: skip
    views = [(f"view.*.{field.name}", field.default, meanings[f"*.{field.name}"]) for field in fields(View)]
    about = "`view.NAME.KEY` changes a view of the method, such as `view.local.count`; the catalogue and `sslzoo explain` name its views."
    return f"{KEYS}\n## Of every recipe\n\n{_table(recipe)}\n\n## Of views\n\n{about}\n\n{_table(views)}\n"


def _table(rows) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, default, meaning in rows:
        value = "must be given" if default is MISSING else f"`{json.dumps(default)}`"
        lines.append(f"| `{key}` | {value} | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines)


def _reference(module_name: str) -> str:
    """The section of a module: the classes and functions that it exports, or that are public where it exports none by name."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None) or [name for name, value in vars(module).items() if _is_own(module, name, value)]
    found = (getattr(module, name) for name in names)
    objects = [value for value in found if inspect.isclass(value) or inspect.isfunction(value)]
    entries = "\n\n".join(f"::: {value.__module__}.{value.__qualname__}" for value in objects)
    return f"## {MODULES[module_name]}: `{module_name}`\n\n{inspect.getdoc(module)}\n\n{entries}\n"


def _is_own(module, name: str, value) -> bool:
    return name[0] != "_" and getattr(value, "__module__", None) == module.__name__
