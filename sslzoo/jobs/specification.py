"""A job's exact specification: the image, the command, and the files that the command fetches from a repository of the user's."""

import hashlib
import re
import shlex
import sys
from dataclasses import dataclass, field

import huggingface_hub

from sslzoo.errors import InputError

from .wheel import build_wheel, constraints, wheel_name

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"  # Debian with uv, the usual image of Hugging Face Jobs
LABEL = "sslzoo"  # of the jobs that sslzoo starts; its value is the command
SECRET = "HF_TOKEN"
INPUTS = "sslzoo-jobs"  # the repository in the user's namespace that holds what jobs are made from
_CONSTRAINTS = "constraints.txt"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_STARTING = 600.0  # seconds at most of the timeout that are kept free for installing, and for the last upload


@dataclass(frozen=True)
class Specification:
    """What is sent to the Hub, except for the token, which is the only secret.

    kind: the command, "train" or "evaluate". name: of the run or model. command: the arguments of the job's process. timeout: in seconds.
    folder: where `files` are in the repository `namespace`/sslzoo-jobs; its name is the digest of their content, so that the command says
    exactly what is run.
    """

    kind: str
    name: str
    namespace: str
    flavor: str
    timeout: int
    command: list[str]
    folder: str
    files: dict[str, bytes] = field(repr=False)

    @property
    def inputs(self) -> str:
        """The repository that holds `files`."""
        return f"{self.namespace}/{INPUTS}"

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # which would fill the log

    @property
    def labels(self) -> dict[str, str]:
        """By which the job of a run is found again. The Hub takes letters, digits, '-' and '_'."""
        return {LABEL: self.kind, "name": re.sub(r"[^A-Za-z0-9_-]", "-", self.name)}


def specification(
    kind: str, name: str, namespace: str, flavor: str, timeout: int, commands: list[list[str]], recipe: str | None = None
) -> Specification:  # fmt: skip
    """A job that runs `commands` one after the other until one fails.

    commands: their arguments, of which the first is "sslzoo" or "hf"; in them, "{job}" stands for the folder with the files.
    recipe: the text of the file recipe.yaml among them.
    """
    files = {wheel_name(): build_wheel(), _CONSTRAINTS: constraints().encode()} | ({"recipe.yaml": recipe.encode()} if recipe else {})
    digest = hashlib.sha256()
    for file, content in files.items():
        digest.update(f"{file} {len(content)}\0".encode() + content)
    folder = digest.hexdigest()[:16]
    fetch = ["hf", "download", f"{namespace}/{INPUTS}", "--include", f"{folder}/*", "--local-dir", "."]
    lines = [
        shlex.join([*_installed(folder, program), *(part.replace("{job}", folder) for part in arguments)])
        for program, *arguments in (fetch, *commands)
    ]
    return Specification(kind, name, namespace, flavor, timeout, ["bash", "-c", " && ".join(lines)], folder, files)


def _installed(folder: str, program: str) -> list[str]:
    """The program's call through uv, which installs it for that."""
    if program == "hf":
        return ["uvx", "--from", f"huggingface_hub=={huggingface_hub.__version__}", "hf"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"  # for which the constraints are known to fit
    return ["uvx", "--python", python, "--constraints", f"{folder}/{_CONSTRAINTS}", "--from", f"{folder}/{wheel_name()}", program]


def seconds_of(timeout: str) -> int:
    """ "4h", "90m", "3600s" or "1d" in seconds. Raises `InputError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", timeout)
    if not found or float(found[1]) == 0:
        raise InputError(f"the timeout '{timeout}' is no time: write 90m, 4h or 1d")
    return int(float(found[1]) * _UNITS[found[2]])


def training_minutes(timeout: int) -> float:
    """The minutes within which the training saves and stops, so that a job that is ended at its timeout (s) has lost nothing."""
    return round((timeout - min(_STARTING, timeout / 2)) / 60, 2)
