"""What a recipe adds to a method while it trains, and to no file: drop path, gradient checkpointing, the attention."""

from sslzoo.errors import InputError
from sslzoo.method import Method
from sslzoo.parts.drop_path import add_drop_path

from .schema import Recipe


def prepare_for_training(method: Method, recipe: Recipe) -> None:
    """Call it once, in the rehearsal and before training. Raises `InputError` where the encoder cannot do what the recipe says."""
    if recipe.gradient_checkpointing and recipe.drop_path:
        raise InputError("gradient_checkpointing and drop_path: blocks that are computed again would drop nothing, so leave one out")
    if recipe.drop_path:
        add_drop_path(method, recipe.drop_path, recipe.seed, is_uniform=recipe.drop_path_uniform)
    if recipe.attn_implementation is not None:
        method.set_attn_implementation(recipe.attn_implementation)
    if recipe.gradient_checkpointing:
        method.gradient_checkpointing_enable()
