"""The provenance of a number: weights, data, seed, code, versions, hardware and date, and what it is a measurement of."""

import datetime
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import sslzoo
from sslzoo.data import source_name


def with_provenance(
    numbers: list[dict[str, Any]], when: str, weights_sha256: str | None, seed: int, device: torch.device, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """The numbers of `sslzoo.evaluation.measure` in the form of results.json.

    when: "last" for the weights in the folder, "best" for the best epoch. facts: those of `data_facts`, and the precision. Of the path of
    a local data set only the last part is kept.
    """
    provenance = {
        "weights_sha256": weights_sha256, **facts, "seed": seed, "code": code_version(), "environment": environment(device),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    return [{**number, "dataset": source_name(number["dataset"]), "when": when, "provenance": provenance} for number in numbers]


def identity(number: dict[str, Any]) -> str:
    """Two numbers of the same identity measure the same thing. "selected_..." arguments are outcomes and do not count."""
    arguments = {key: value for key, value in number["arguments"].items() if not key.startswith("selected_")}
    return json.dumps([*(number[key] for key in ("protocol", "dataset", "split", "metric", "when")), arguments], sort_keys=True)


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, for the provenance."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, {torch.get_num_threads()} threads"
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")}
    return {"python": platform.python_version(), **packages, "hardware": hardware}


def code_version() -> str:
    """The package's version and a digest of its source, which is the same on every machine."""
    folder = Path(sslzoo.__file__).parent
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py"), key=lambda file: file.relative_to(folder).as_posix()):
        sha.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{sslzoo.__version__}+{sha.hexdigest()[:12]}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
