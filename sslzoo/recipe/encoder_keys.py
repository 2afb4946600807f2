"""What a recipe says of its encoders: which keys of `encoder`, `init_from` and `teacher` belong together, and what they may be."""

from typing import TYPE_CHECKING

from sslzoo.errors import InputError
from sslzoo.methods import method_class
from sslzoo.parts.distillation import DistillationMixin

from .names import HUB_NAME
from .values import check_range, shown

if TYPE_CHECKING:
    from .schema import Recipe


def check_encoders(recipe: "Recipe") -> None:
    """Raises `InputError`."""
    if isinstance(recipe.encoder, dict) and not HUB_NAME.fullmatch(str(recipe.encoder.get("name"))):
        raise InputError(f"the encoder's name is {shown(recipe.encoder.get('name'))}: must be letters, digits, '_', '-' and '.'")
    if (recipe.init_from is None) != (recipe.init_sha256 is None):
        raise InputError("init_from and init_sha256 belong together: give init_from alone on the command line, or neither")
    if recipe.teacher is not None and not issubclass(method_class(recipe.method), DistillationMixin):
        raise InputError(f"teacher is {recipe.teacher}: {recipe.method} has none to learn from, leave it out or take a distillation method")
    if recipe.teacher is not None and recipe.channels != 3:
        raise InputError(f"channels is {recipe.channels}: a teacher sees images of 3")
    pinned = (recipe.teacher, recipe.teacher_sha256, recipe.teacher_mean, recipe.teacher_std)
    if any(value is None for value in pinned) and any(value is not None for value in pinned):
        raise InputError("teacher, teacher_sha256, teacher_mean and teacher_std belong together: give teacher on the command line")
    if (recipe.mean is None) != (recipe.std is None):
        raise InputError("mean and std belong together: give both, or neither, and they are measured")
    for key in ("mean", "std", "teacher_mean", "teacher_std"):
        values = getattr(recipe, key) or ()
        if values and len(values) != recipe.channels:
            raise InputError(f"{key} is of {len(values)} channels, and channels is {recipe.channels}")
        for value in values:
            check_range(key, value, 0 if key.endswith("mean") else 1e-6, 1)
