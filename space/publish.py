"""Publishes the Space with this checkout's sslzoo as a wheel: `python space/publish.py OWNER/NAME`."""

import hashlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_url

from sslzoo.errors import InputError, PublishError
from sslzoo.hub.card import checked_repo_id
from sslzoo.jobs.access import request, writable_namespace
from sslzoo.jobs.wheel import build_wheel, constraints, wheel_name


def publish(api: HfApi, repository: str) -> str:
    """Uploads the page, the wheel and a requirements.txt that names it, as one commit; returns the Space's address.

    The Space is created if it does not exist. It must be public: the Hub installs the wheel from its address, without a token.
    Files that an earlier version left there stay. Raises `InputError` and `PublishError`.
    """
    writable_namespace(api, checked_repo_id(repository).partition("/")[0])
    wheel = build_wheel()
    address = hf_hub_url(repository, wheel_name(), repo_type="space", endpoint=api.endpoint)
    files = dict(_page_files()) | {wheel_name(): wheel, "requirements.txt": _requirements(address, wheel).encode()}

    def upload() -> str:
        space = str(api.create_repo(repository, repo_type="space", space_sdk="gradio", private=False, exist_ok=True))
        if api.space_info(repository).private:
            raise PublishError(f"{repository} is private, and the Hub could not install its wheel: make it public, or take another name")
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repository, operations, repo_type="space", commit_message="Publish the Space")
        return space

    return request(f"publish {repository}", upload)


def _requirements(address: str, wheel: bytes) -> str:
    """sslzoo by the wheel's address and digest; what it needs, and plotly, in the versions that are installed here."""
    return f"sslzoo @ {address}#sha256={hashlib.sha256(wheel).hexdigest()}\nplotly=={metadata.version('plotly')}\n{constraints()}"


def _page_files() -> Iterator[tuple[str, bytes]]:
    folder = Path(__file__).parent
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and file != Path(__file__):
            yield file.relative_to(folder).as_posix(), file.read_bytes()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python space/publish.py OWNER/NAME")
    try:
        print(publish(HfApi(), sys.argv[1]))
    except (InputError, PublishError) as error:
        sys.exit(f"error: {error}")
