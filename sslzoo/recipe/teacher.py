"""The frozen teacher of a distillation method in a recipe: what is pinned of it, and loading it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sslzoo.encoders import blocks, feature_width, fit_image_size, load_pretrained, weights_digest
from sslzoo.encoders.embedding import side_in_px
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.methods import method_class
from sslzoo.parts.distillation import DistillationMixin, FrozenTeacher

from .limits import CHOICES
from .schema import Recipe
from .starting_point import check_license, is_pinned, license_of, locate, normalization_of, pinned_folder

_KEYS = ("teacher", "teacher_sha256", "teacher_license", "teacher_mean", "teacher_std", "teacher_size", "teacher_dim")


def with_teacher(
    file: dict[str, Any], changes: dict[str, Any], earlier: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """A file's values and the changes to them, with what follows from `teacher: ID_OR_FOLDER[@revision]` in the one or the other.

    earlier: the recipe of the run that is resumed, where a branch of the same repository means the same commit. Raises `InputError`.
    """
    if not _is_distillation({**file, **changes}.get("method")):
        return file, changes  # with an error from `Recipe` if a teacher is named
    if "teacher" not in changes:
        return {**file, **_resolve(file, earlier)}, changes
    if changes["teacher"] is None:
        return file, {**dict.fromkeys(_KEYS[:-1]), **changes}
    return file, {**changes, **_resolve(changes, earlier)}


def lacks_teacher(recipe: Recipe) -> bool:
    """Whether the recipe's method learns from a trained encoder and none is named."""
    return recipe.teacher is None and _is_distillation(recipe.method)


def load_teacher(recipe: Recipe) -> FrozenTeacher | None:
    """The teacher that the recipe pins; None if its method has none.

    Raises `InputError` if the recipe does not name it, if its weights have changed, or if its licence is another.
    """
    if not _is_distillation(recipe.method):
        return None
    if lacks_teacher(recipe):
        raise InputError(
            f"the key 'teacher' is missing: {recipe.method} learns from a trained encoder, --set teacher=ID_OR_FOLDER names it "
            "(a Hub id, a run folder or a folder of transformers)"
        )
    encoder = load_pretrained(pinned_folder("teacher", recipe.teacher, recipe.teacher_sha256, recipe.teacher_license))
    if recipe.teacher_size is not None:
        try:
            encoder = fit_image_size(encoder, recipe.teacher_size)
        except InputError as error:
            raise InputError(f"teacher_size is {recipe.teacher_size}: {error}") from error
    mean, std = recipe.teacher_mean, recipe.teacher_std
    # Of views whose normalisation is still to be measured, a rehearsal needs the shape alone.
    views = {"view_mean": recipe.mean or mean, "view_std": recipe.std or std}
    return FrozenTeacher(encoder, mean=mean, std=std, size=recipe.teacher_size, **views)


def _resolve(values: dict[str, Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The values of `_KEYS` for the teacher among `values`, but for those that somebody chose; empty if it is pinned or there is none."""
    source = values.get("teacher")
    if not isinstance(source, str) or not source.strip() or values.get("teacher_sha256") is not None:
        return {}
    chosen = {key: values[key] for key in _KEYS[1:] if values.get(key) is not None}
    if earlier is not None and earlier.get("teacher_sha256") and is_pinned(source, earlier.get("teacher")):
        return {key: earlier[key] for key in _KEYS if key in earlier} | chosen
    folder, pinned = locate(source)
    if "teacher_license" in chosen:
        check_license("teacher", source, chosen["teacher_license"], folder)
    encoder = load_pretrained(folder)
    normalization = {f"teacher_{key}": value for key, value in normalization_of(folder, 3).items()}
    return {
        "teacher": pinned, "teacher_sha256": weights_digest(folder), "teacher_license": license_of(folder),
        "teacher_size": None if "teacher_size" in chosen else _image_size(folder, encoder), "teacher_dim": feature_width(encoder),
        **normalization,
    } | chosen  # fmt: skip


def _image_size(folder: Path, encoder: PreTrainedModel) -> int | None:
    """The px of a transformer's images, as its processor says or else its configuration; None for encoders that take any size."""
    try:
        blocks(encoder)
    except InputError:  # windows and convolutions
        return None
    with suppress(InputError):  # no processor, or one of another kind
        return Preprocessing.read(folder).crop
    return side_in_px(encoder, "image_size")


def _is_distillation(method: Any) -> bool:
    return method in CHOICES["method"] and issubclass(method_class(method), DistillationMixin)
