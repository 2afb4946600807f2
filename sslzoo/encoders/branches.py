"""Finding the encoders among a file's tensor names, and the one that the authors evaluate.

A branch is the prefix of an encoder's names: "teacher.backbone", "module.encoder_q", or "" without one.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sslzoo.errors import InputError, printable, unknown


class Branch(NamedTuple):
    """An encoder in a file."""

    path: str  # the prefix of its names, with the final dot; "" without one
    layout: str  # "torchvision", "numbered" (torchvision's in an nn.Sequential), "timm" or "transformers"
    is_vit: bool


# Layouts, and the names after the prefix that identify them.
_SIGNATURES = (
    ("torchvision", False, "conv1.weight", re.compile(r"layer1\.0\.conv1\.weight")),
    ("numbered", False, "0.weight", re.compile(r"[2-9]\.0\.conv1\.weight")),
    ("transformers", False, "embedder.embedder.convolution.weight", re.compile(r"encoder\.stages\.0\.layers\.0\.layer\.0\.\w+\.weight")),
    ("transformers", False, "embedder.convolution.weight", re.compile(r"encoder\.stages\.0\.layers\.0\.layer\.0\.\w+\.weight")),
    ("timm", True, "patch_embed.proj.weight", re.compile(r"blocks\.0\.(0\.)?norm1\.weight")),
    ("transformers", True, "embeddings.patch_embeddings.projection.weight", re.compile(r"(encoder\.)?layers?\.0\.\w+\.\S+")),
)


def find_branches(names: Iterable[str]) -> list[Branch]:
    """All encoders among the names of a file's tensors."""
    names = sorted(names)
    found = []
    for layout, is_vit, first, second in _SIGNATURES:
        paths = {name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")}
        if paths:
            # The prefixes of the second name, found in one pass.
            complete = {name[: match.start()] for name in names if (match := re.search(rf"(?:^|(?<=\.)){second.pattern}$", name))}
            found += [Branch(path, layout, is_vit) for path in sorted(paths & complete)]
    return found


def branch_names(branches: Sequence[Branch]) -> list[str]:
    """Names for the branches: their prefixes without uninformative parts.

    These are a leading "state_dict" or "model" of all branches, and the "vit" of lightly's wrapper around masked ViTs.
    """
    parts = [branch.path.split(".")[:-1] for branch in branches]
    while all(part and part[0] in ("state_dict", "model") for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    short = [".".join(part[:-1] if part[-1:] == ["vit"] else part) for part in parts]
    return short if len(set(short)) == len(short) else [".".join(part) for part in parts]


def choose(branches: Sequence[Branch], requested: str | None) -> int:
    """The index of the requested branch, or else of the one that the authors evaluate. Raises `InputError`."""
    names = branch_names(branches)
    if requested is not None:
        return _find_requested(names, requested)
    if len(names) == 1:
        return 0
    evaluated = _evaluated(names, all(branch.is_vit for branch in branches))
    if evaluated is None:
        raise InputError(f"there are several encoders, say with --branch which is meant: {listed(names)}")
    return names.index(evaluated)


def listed(names: Sequence[str]) -> str:
    """The names of the branches for a message, at most twelve."""
    shown = [printable(name) or "'' (in front of nothing)" for name in sorted(names)[:12]]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _find_requested(names: list[str], requested: str) -> int:
    if requested in names:
        return names.index(requested)
    matches = [name for name in names if requested and f".{requested}." in f".{name}."]
    if len(matches) == 1:
        return names.index(matches[0])
    if matches:
        raise InputError(f"--branch '{requested}' is part of several: {listed(matches)}")
    if names == [""]:
        raise InputError(f"there is no branch '{requested}': the file holds one encoder, with nothing in front of its names")
    raise unknown("branch", printable(requested), map(printable, names))


_PAIRS = (  # words in the names of branches that authors evaluate, and in those of their counterparts
    ({"teacher"}, {"student"}),  # DINO, iBOT, DINOv2
    ({"online"}, {"target"}),  # BYOL
    ({"q", "query", "base"}, {"k", "key", "momentum"}),  # MoCo
)
_ROLES = {"student", "teacher", "online", "target", "q", "query", "base", "k", "key", "momentum", "ema"}


def _evaluated(names: list[str], are_vits: bool) -> str | None:
    words = {name: set(re.split(r"[._]", name)) & _ROLES for name in names}
    for evaluated, others in _PAIRS:
        chosen = [name for name in names if words[name] & evaluated and not words[name] & others]
        if len(chosen) == 1 and all(words[name] & others for name in names if name != chosen[0]):
            return chosen[0]
    plain = [name for name in names if not words[name]]
    if len(plain) != 1:
        return None
    plain = plain[0]
    others = [name for name in names if name != plain]
    roles = set().union(*(words[name] for name in others))
    # lightly's benchmarks evaluate "backbone", whatever role it has (DINO's and TiCo's teacher, BYOL's student).
    if plain.split(".")[-1] == "backbone" and all("backbone" in re.split(r"[._]", name) for name in others):
        return plain
    if roles <= {"k", "key", "momentum"}:
        return plain
    if len(others) == 1 and roles == {"ema"}:  # data2vec, timm
        return others[0]
    if len(others) == 1 and are_vits and others[0].replace("target_", "") == plain:  # I-JEPA, MSN
        return others[0]
    return None
