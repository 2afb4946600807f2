"""sslzoo as a wheel, made from the installed package or the checkout, and the versions of what it needs: it is on no index yet."""

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import sslzoo
from sslzoo.hub import cards_folder
from sslzoo.recipe import recipes_folder

_WHEEL = "Wheel-Version: 1.0\nGenerator: sslzoo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_CHANGELESS = (1980, 1, 1, 0, 0, 0)  # the first date that a zip file can hold


def wheel_name() -> str:
    """The file name that installers expect."""
    return f"sslzoo-{sslzoo.__version__}-py3-none-any.whl"


def build_wheel() -> bytes:
    """The wheel's content, the same for the same code. It needs neither a build tool nor the network."""
    distribution = metadata.distribution("sslzoo")
    info = f"sslzoo-{sslzoo.__version__}.dist-info"
    files = dict(_package_files())
    for name in ("METADATA", "entry_points.txt"):
        files[f"{info}/{name}"] = (distribution.read_text(name) or "").encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    rows = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _CHANGELESS)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def constraints() -> str:
    """Lines such as "torch==2.13.0": what sslzoo needs, in the versions that are installed here. An index has no local ones (+cpu)."""
    required = metadata.requires("sslzoo") or []
    names = sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in required if "extra ==" not in line})
    return "".join(f"{name}=={metadata.version(name).partition('+')[0]}\n" for name in names)


def _package_files() -> Iterator[tuple[str, bytes]]:
    package = Path(sslzoo.__file__).parent
    # In an installed package, the recipes and cards are inside already; a file has one name either way.
    folders = {"sslzoo": package, "sslzoo/recipes": recipes_folder(), "sslzoo/model_cards": cards_folder()}
    found = {f"{name}/{file.relative_to(folder).as_posix()}": file for name, folder in folders.items() for file in folder.rglob("*")}
    for name, file in sorted(found.items()):
        if file.is_file() and "__pycache__" not in file.parts and not name.endswith(".pyc"):
            yield name, file.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
