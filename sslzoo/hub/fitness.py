"""Whether a run folder is what sslzoo left: regular files, the training's own bytes, one recipe and configuration, no code but our own."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sslzoo.checkpoint import sha256_of
from sslzoo.encoders import read_config
from sslzoo.encoders.small_resnet import SmallResNetConfig, SmallResNetForImageClassification, SmallResNetModel
from sslzoo.errors import InputError, first_line
from sslzoo.method import BLOCK, HEADS
from sslzoo.run import CARD, CONFIG, METRICS, PREPROCESSOR, RECIPE, RESULTS, WEIGHTS, Run

from .pictures import CURVES, MAPS, NEIGHBOURS

CODE = tuple(f"{part.__module__.rpartition('.')[2]}.py" for part in (SmallResNetConfig, SmallResNetModel))  # for the small-image stem
FILES = (CONFIG, WEIGHTS, HEADS, PREPROCESSOR, RECIPE, METRICS, RESULTS, *CODE, CARD, CURVES, NEIGHBOURS, MAPS)
_CODE_FOLDER = Path(__file__).parents[1] / "encoders" / "small_resnet"
_SAVED = {"architectures", "auto_map", "dtype", "transformers_version", BLOCK}  # keys that saving adds to the encoder's configuration


class Difference(NamedTuple):
    """Something in the folder that is not what sslzoo writes there."""

    what: str
    found: Any
    wanted: Any


def check_regular(folder: Path, names: Iterable[str] = FILES, *, links: bool = False) -> None:
    """Raises `InputError` where one of the files is none: a folder, a pipe, or, unless links may be, a link to a file elsewhere."""
    for file in (folder / name for name in names):
        if file.is_symlink() and not links:
            raise InputError(f"{file} is a link: put a copy of the file in its place, what lies elsewhere is not published")
        if os.path.lexists(file) and not file.is_file():
            raise InputError(f"{file} is no regular file: take it away, or put the file itself there")
        if file.is_file() and not os.access(file, os.R_OK):
            raise InputError(f"{file} cannot be read: give yourself the right to")


def has_small_stem(folder: Path) -> bool:
    """Whether the encoder is of the class that plain transformers does not know. Raises `InputError`."""
    return read_config(folder).get("model_type") == SmallResNetConfig.model_type


def foreign_code(folder: Path) -> Iterator[Difference]:
    """What readers who pass trust_remote_code=True would run and is not the package's own code, byte for byte. Raises `InputError`."""
    small = has_small_stem(folder)
    for name in CODE if small else ():
        found = sha256_of(folder / name) if (folder / name).is_file() else None
        wanted = sha256_of(_CODE_FOLDER / name)
        if found != wanted:
            yield Difference(name, found, wanted)
    parts = {
        "AutoConfig": SmallResNetConfig,
        "AutoModel": SmallResNetModel,
        "AutoModelForImageClassification": SmallResNetForImageClassification,
    }
    names = {auto: f"{part.__module__.rpartition('.')[2]}.{part.__name__}" for auto, part in parts.items()}
    stored = read_config(folder)
    processor = _processor(folder / PREPROCESSOR)
    for file, values, key, wanted in (
        (CONFIG, stored, "auto_map", names if small else None), (CONFIG, stored, "custom_pipelines", None),
        (PREPROCESSOR, processor, "auto_map", None),
    ):  # fmt: skip
        if values.get(key) != wanted:
            yield Difference(f"{file}: {key}", values.get(key), wanted)


def configuration_differences(run: Run) -> Iterator[Difference]:
    """Where config.json is not the one that the recipe gives. Raises `InputError`."""
    stored, config = read_config(run.folder), run.recipe.method_config()
    wanted = {"model_type": config.model_type, "image_size": config.image_size}
    wanted |= {key: getattr(config, key) for key in config.hyperparameters()}
    yield from _differences(f"{CONFIG}: {BLOCK}", stored.get(BLOCK), _plain(wanted))
    try:
        # Through the class, so that what another version of transformers spells out or leaves out is no difference.
        found = type(config.encoder).from_dict({key: value for key, value in stored.items() if key not in _SAVED}).to_dict()
    except Exception as error:  # the strict data classes raise kinds of their own
        raise InputError(f"{run.folder / CONFIG} is no configuration of '{run.recipe.encoder}': {first_line(error)}") from error
    wanted = config.encoder.to_dict() | {"model_type": config.encoder.model_type}
    found |= {"model_type": stored.get("model_type")}
    yield from _differences(CONFIG, *({key: value for key, value in _plain(all_).items() if key not in _SAVED} for all_ in (found, wanted)))


def check_trained(run: Run) -> None:
    """Raises `InputError` where a file is not the one that the training left, by the digests in results.json."""
    file = run.folder / RESULTS
    left, found = run.results()["training"].get("files"), run.digests()
    if not isinstance(left, dict):
        raise InputError(f"{file} has no digests of the files that the training left: train again")
    for name in {**found, **left}:
        if left.get(name) != found.get(name):
            why = " (or its data set, a folder, is not found from here: go to where it was trained)" if name == RECIPE else ""
            raise InputError(
                f"{run.folder / name} is not the file that the training left, {file} has another SHA-256 of it{why}: "
                "put that file back, or train again"
            )


def check_own(run: Run, *, imported: bool) -> None:
    """Raises `InputError` unless the folder holds what sslzoo wrote, for weights of others as far as that is recorded."""
    if not imported:
        check_trained(run)
    for difference in (*foreign_code(run.folder), *(() if imported else configuration_differences(run))):
        raise InputError(
            f"{run.folder}: {difference.what} is {_short(difference.found)}, sslzoo writes {_short(difference.wanted)}: "
            "put back what the training left, or train again"
        )


def _processor(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error
    return values if isinstance(values, dict) else {}


def _differences(what: str, found: Any, wanted: dict[str, Any]) -> Iterator[Difference]:
    if not isinstance(found, dict):
        yield Difference(what, found, wanted)
        return
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            yield Difference(f"{what}.{key}", found.get(key), wanted.get(key))


def _plain(value: Any) -> Any:
    """As JSON has it: lists for tuples."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    text = ascii(value)
    return "nothing" if value is None else text if len(text) <= 120 else text[:119] + "…"
