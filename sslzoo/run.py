"""The run folder, which is also the Hub repository: its files, and reading and writing them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sslzoo.encoders import read_json, weights_digest
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_write_text, sha256_of, sync
from sslzoo.method_files import HEADS
from sslzoo.provenance import identity
from sslzoo.recipe import Recipe, load_recipe, published_text

WEIGHTS = "model.safetensors"
RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
CARD = "README.md"
CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_PARTS = {"training": dict, "numbers": list, "imported": dict}  # of results.json; "imported" only in folders of imported weights
_NUMBER_FIELDS = {"protocol": str, "dataset": str, "split": str, "metric": str, "arguments": dict, "when": str, "provenance": dict}


class Run:
    """The files of a run folder.

    recipe.yaml, metrics.jsonl (one JSON object a line, with "step"), results.json {"training": {...}, "numbers": [...]}, the encoder and
    heads as `Method.save_pretrained` writes them, README.md, and, while training, checkpoints/.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def recipe_file(self) -> Path:
        """The path of recipe.yaml. Raises `InputError` if there is none."""
        if not (self.folder / RECIPE).is_file():
            raise InputError(f"{self.folder} is no run folder: it has no {RECIPE}")
        return self.folder / RECIPE

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run. Raises `InputError`."""
        return load_recipe(self.recipe_file)

    @property
    def weights_sha256(self) -> str:
        """The `weights_digest` in hex. In a folder of model_cards/, which has no weights, the one recorded after training.

        Raises `InputError`.
        """
        if not (self.folder / WEIGHTS).is_file():
            files = self.results()["training"].get("files")
            if isinstance(files, dict) and isinstance(files.get(WEIGHTS), str):
                return files[WEIGHTS]
        return weights_digest(self.folder)

    def digests(self) -> dict[str, str]:
        """SHA-256 in hex of each file that a training or an import writes, the recipe as it is published; missing files are left out."""
        names = (CONFIG, WEIGHTS, HEADS, PREPROCESSOR, METRICS)
        digests = {name: sha256_of(self.folder / name) for name in names if (self.folder / name).is_file()}
        if (self.folder / RECIPE).is_file():
            digests[RECIPE] = hashlib.sha256(published_text(self.recipe_file).encode()).hexdigest()
        return digests

    def metrics(self) -> list[dict[str, Any]]:
        """The logged lines in order of their steps, each {"step": 20, ...}. Raises `InputError`."""
        file = self.folder / METRICS
        try:
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"cannot read {file}: {first_line(error)}") from error
        for number, line in enumerate(lines, 1):
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise InputError(f"cannot read {file}: line {number} holds no values with their 'step'")
        return lines

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl. Raises `OSError` if it cannot, and then leaves no partial line."""
        with open(self.folder / METRICS, "ab", buffering=0) as file:
            size, line = file.tell(), json.dumps(values).encode() + b"\n"
            try:
                if file.write(line) != len(line):
                    raise OSError(f"cannot write {file.name}: the disk is full")
            except OSError:
                file.truncate(size)
                raise

    def synced_metrics_size(self) -> int:
        """Syncs metrics.jsonl to the disk and returns its size in bytes."""
        file = self.folder / METRICS
        if not file.exists():
            return 0
        sync(file)
        return file.stat().st_size

    def cut_metrics(self, size: int) -> int:
        """Truncates metrics.jsonl to `size` bytes, which removes the lines of steps that are now repeated, and drops a partial last line.

        Returns how many of the `size` bytes are missing, as a shorter file is not padded.
        """
        file = self.folder / METRICS
        logged = file.read_bytes()[:size] if file.exists() else b""
        kept = logged[: logged.rfind(b"\n") + 1]
        atomic_write_text(file, kept.decode(errors="replace"))
        return size - len(kept)

    def results(self) -> dict[str, Any]:
        """The content of results.json, with empty parts if there is no file. Raises `InputError` for parts or numbers of the wrong form."""
        file = self.folder / RESULTS
        if not file.exists():
            return {"training": {}, "numbers": []}
        results = read_json(file)
        for key, kind in _PARTS.items():
            if not isinstance(results.get(key, {} if key == "imported" else None), kind):
                raise InputError(f"cannot read {file}: '{key}' must be {'a list' if kind is list else 'keys and values'}")
        for number in results["numbers"]:
            if not isinstance(number, dict) or any(not isinstance(number.get(key), kind) for key, kind in _NUMBER_FIELDS.items()):
                required = ", ".join(_NUMBER_FIELDS)
                raise InputError(f"{file}: a number must hold {required} and 'value', not {str(number)[:120]!r}: evaluate again")
        return results

    def write_results(self, results: dict[str, Any]) -> None:
        """Replaces results.json atomically."""
        atomic_write_text(self.folder / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")

    def add_numbers(self, numbers: list[dict[str, Any]]) -> None:
        """Adds numbers to results.json; each replaces an earlier one of the same identity."""
        results = self.results()
        new = {identity(number) for number in numbers}
        results["numbers"] = [number for number in results["numbers"] if identity(number) not in new] + numbers
        self.write_results(results)
