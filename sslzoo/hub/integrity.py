"""Integrity of a run folder: regular files, recorded digests, the recipe's configuration, and no code but sslzoo's own."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sslzoo.encoders import read_config
from sslzoo.encoders.small_resnet import SmallResNetConfig, SmallResNetForImageClassification, SmallResNetModel
from sslzoo.errors import InputError, first_line
from sslzoo.files import sha256_of
from sslzoo.method_files import BLOCK, HEADS
from sslzoo.run import CARD, CONFIG, METRICS, PREPROCESSOR, RECIPE, RESULTS, WEIGHTS, Run

from .pictures import CURVES, MAPS, NEIGHBOURS
from .results_validation import is_imported

# The modeling code that transformers runs with trust_remote_code=True.
CODE_FILES = tuple(f"{part.__module__.rpartition('.')[2]}.py" for part in (SmallResNetConfig, SmallResNetModel))
RUN_FILES = (CONFIG, WEIGHTS, HEADS, PREPROCESSOR, RECIPE, METRICS, RESULTS, *CODE_FILES, CARD, CURVES, NEIGHBOURS, MAPS)
_CODE_FOLDER = Path(__file__).parents[1] / "encoders" / "small_resnet"
_ADDED_BY_SAVING = {"architectures", "auto_map", "dtype", "transformers_version", BLOCK}  # keys that config.json has beyond the encoder's


class Difference(NamedTuple):
    """Something in the folder that is not what sslzoo writes there."""

    what: str
    found: Any
    expected: Any


def check_regular_files(folder: Path, names: Iterable[str] = RUN_FILES, *, links: bool = False) -> None:
    """Raises `InputError` where one of the files exists but is a folder or a pipe, cannot be read, or, unless `links`, is a link."""
    for file in (folder / name for name in names):
        if file.is_symlink() and not links:
            raise InputError(f"{file} is a link, and files outside of the folder are not published: replace it by a copy of the file")
        if os.path.lexists(file) and not file.is_file():
            raise InputError(f"{file} is not a regular file: remove it, or put the file itself there")
        if file.is_file() and not os.access(file, os.R_OK):
            raise InputError(f"{file} cannot be read: you lack the permission")


def has_small_stem(folder: Path) -> bool:
    """Whether the encoder is the ResNet for small images, which plain transformers does not know. Raises `InputError`."""
    return read_config(folder).get("model_type") == SmallResNetConfig.model_type


def code_differences(folder: Path) -> Iterator[Difference]:
    """Where code that trust_remote_code=True would run is not the package's own, byte for byte. Raises `InputError`."""
    small = has_small_stem(folder)
    for name in CODE_FILES if small else ():
        found = sha256_of(folder / name) if (folder / name).is_file() else None
        expected = sha256_of(_CODE_FOLDER / name)
        if found != expected:
            yield Difference(name, found, expected)
    classes = {
        "AutoConfig": SmallResNetConfig,
        "AutoModel": SmallResNetModel,
        "AutoModelForImageClassification": SmallResNetForImageClassification,
    }
    auto_map = {auto: f"{part.__module__.rpartition('.')[2]}.{part.__name__}" for auto, part in classes.items()}
    config = read_config(folder)
    processor = _read_preprocessor(folder / PREPROCESSOR)
    for file, values, key, expected in (
        (CONFIG, config, "auto_map", auto_map if small else None), (CONFIG, config, "custom_pipelines", None),
        (PREPROCESSOR, processor, "auto_map", None),
    ):  # fmt: skip
        if values.get(key) != expected:
            yield Difference(f"{file}: {key}", values.get(key), expected)


def configuration_differences(run: Run) -> Iterator[Difference]:
    """Where config.json is not the one that the recipe gives. Raises `InputError`."""
    stored, config = read_config(run.folder), run.recipe.method_config()
    expected = {"model_type": config.model_type, "image_size": config.image_size}
    expected |= {key: getattr(config, key) for key in config.hyperparameters()}
    yield from _differences(f"{CONFIG}: {BLOCK}", stored.get(BLOCK), _as_json(expected))
    try:
        # Through the class, so that a default that another version of transformers writes or omits is not a difference.
        found = type(config.encoder).from_dict({key: value for key, value in stored.items() if key not in _ADDED_BY_SAVING}).to_dict()
    except Exception as error:  # the strict data classes raise types of their own
        raise InputError(f"{run.folder / CONFIG} is not a configuration of '{run.recipe.encoder_name}': {first_line(error)}") from error
    expected = config.encoder.to_dict() | {"model_type": config.encoder.model_type}
    found |= {"model_type": stored.get("model_type")}
    yield from _differences(
        CONFIG, *({key: value for key, value in _as_json(all_).items() if key not in _ADDED_BY_SAVING} for all_ in (found, expected))
    )  # fmt: skip


def recorded_digests(run: Run) -> dict[str, Any]:
    """The digests by file name that the training or import put into results.json, {} where there are none. Raises `InputError`."""
    digests = run.results()["imported" if is_imported(run) else "training"].get("files")
    return digests if isinstance(digests, dict) else {}


def check_digests(run: Run) -> None:
    """Raises `InputError` where a file is not the one that the training or import left, by the digests in results.json."""
    file, (origin, again) = run.folder / RESULTS, _origin(run)
    recorded, found = recorded_digests(run), run.digests()
    if not recorded:
        raise InputError(f"{file} has no digests of the files that the {origin} left: {again}")
    for name in {**found, **recorded}:
        if recorded.get(name) != found.get(name):
            why = " (or its data set, a local folder, is not found from here: run this where it was trained)" if name == RECIPE else ""
            raise InputError(
                f"{run.folder / name} is not the file that the {origin} left, as its SHA-256 is not the one in {file}{why}: "
                f"put that file back, or {again}"
            )


def check_integrity(run: Run) -> None:
    """Raises `InputError` unless the folder holds what sslzoo wrote."""
    check_digests(run)
    for difference in (*code_differences(run.folder), *(() if is_imported(run) else configuration_differences(run))):
        origin, again = _origin(run)
        raise InputError(
            f"{run.folder}: {difference.what} is {_preview(difference.found)}, sslzoo writes {_preview(difference.expected)}: "
            f"put back what the {origin} left, or {again}"
        )


def _origin(run: Run) -> tuple[str, str]:
    """Where the files come from, and how to make them again, in words."""
    return ("import", "import again") if is_imported(run) else ("training", "train again")


def _read_preprocessor(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error
    return values if isinstance(values, dict) else {}


def _differences(what: str, found: Any, expected: dict[str, Any]) -> Iterator[Difference]:
    if not isinstance(found, dict):
        yield Difference(what, found, expected)
        return
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            yield Difference(f"{what}.{key}", found.get(key), expected.get(key))


def _as_json(value: Any) -> Any:
    """The value as JSON gives it back: lists for tuples, texts for keys."""
    if isinstance(value, dict):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _preview(value: Any) -> str:
    text = ascii(value)
    return "nothing" if value is None else text if len(text) <= 120 else text[:119] + "…"
