"""A run's place on the Hub while it is trained: its newest checkpoint goes there, and the next machine takes it from there."""

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from sslzoo.checkpoint import checkpoint_folders
from sslzoo.errors import InputError, PublishError, first_line
from sslzoo.files import atomic_write
from sslzoo.run import CHECKPOINTS, METRICS, RECIPE

from .card import checked_repo_id
from .hub_errors import explain, suggest_namespace
from .integrity import RUN_FILES
from .upload import make_api, with_retries

_INTERVAL = 600.0
_POLL = 1.0  # seconds between two looks for a new checkpoint
_GIT_FILE = ".gitattributes"  # which the Hub puts into every repository
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class CheckpointRepository:
    """A private Hub repository that holds a run folder as it is so far, with its newest checkpoint alone.

    A context manager around the training. Entering creates the repository, or brings the run that it holds into `folder` if that is
    missing or empty. Inside, a thread uploads a new checkpoint with what belongs to it as one commit, the first at once, then one every
    `interval` seconds at most; an upload that fails costs a warning. Leaving uploads the folder as it then is. Replaced checkpoints take
    no storage, as the repository's history is squashed.

    token: of the Hub; None: the one of `hf auth login` or HF_TOKEN.
    Entering raises `InputError` for a repository that holds anything else, and `PublishError`; so does leaving after a training that
    did not fail.
    """

    def __init__(self, repository: str, folder: Path, *, interval: float = _INTERVAL, token: str | None = None):
        self.repository, self.folder = checked_repo_id(repository), folder
        self._interval, self._api = interval, make_api(token)
        self._uploaded: str | None = None  # the name of the newest checkpoint that the repository holds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CheckpointRepository":
        self._request(self._create)
        if not self.folder.exists() or not any(self.folder.iterdir()):
            self._request(self._download)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if not (self.folder / RECIPE).is_file():
            return
        if error is None:
            self.upload()
        else:
            self._upload_or_warn()

    def upload(self) -> None:
        """Uploads the run folder as it is. Called when the run is finished, so that only leaving follows. Raises `PublishError`."""
        self._request(self._upload)

    def _create(self) -> None:
        self._api.create_repo(self.repository, private=True, exist_ok=True)
        info = self._api.model_info(self.repository)
        if not info.private:
            raise InputError(f"{self.repository} exists and is public: make it private, or name another repository for the checkpoints")
        foreign = [name for name in self._names() if not _is_of_a_run(name) and name != _GIT_FILE]
        if foreign:
            raise InputError(f"{self.repository} holds {foreign[0]}, which is no part of a run: name another repository for checkpoints")

    def _download(self) -> None:
        if RECIPE not in self._names():
            return
        with atomic_write(self.folder) as temporary:
            self._api.snapshot_download(self.repository, local_dir=temporary, ignore_patterns=[_GIT_FILE])
            shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the client's notes
        newest = self._newest()
        self._uploaded = newest.name if newest is not None else None
        _log.warning("%s goes on from %s of %s", self.folder, self._uploaded or "what is finished", self.repository)

    def _watch(self) -> None:
        following = time.monotonic()
        while not self._ended.wait(_POLL):
            newest = self._newest()
            if newest is not None and newest.name != self._uploaded and time.monotonic() >= following:
                self._upload_or_warn()
                following = time.monotonic() + self._interval

    def _upload_or_warn(self) -> None:
        try:
            self._request(self._upload)
        except (InputError, PublishError, OSError) as error:
            _log.warning("the checkpoint is not on the Hub: %s", first_line(error))

    def _upload(self) -> None:
        """One attempt. What it reads cannot change meanwhile: the training replaces its files and removes old checkpoints."""
        newest = self._newest()
        with tempfile.TemporaryDirectory(prefix=".upload-", dir=self.folder) as staged:
            if newest is not None:
                shutil.copytree(newest, Path(staged, CHECKPOINTS, newest.name), copy_function=_link)
            for name in RUN_FILES:
                if (self.folder / name).is_file():
                    # metrics.jsonl alone is written in place; copied after the checkpoint, it holds all lines that belong to that.
                    (shutil.copyfile if name == METRICS else _link)(self.folder / name, Path(staged, name))
            files = {path.relative_to(staged).as_posix(): path for path in Path(staged).rglob("*") if path.is_file()}
            operations = [CommitOperationAdd(name, path) for name, path in files.items()]
            replaced = [name for name in self._names() if _is_of_a_run(name) and name not in files]
            operations += [CommitOperationDelete(name) for name in replaced]
            self._api.create_commit(self.repository, operations, commit_message=newest.name if newest is not None else "The finished run")
        if replaced:
            self._api.super_squash_history(self.repository)
        self._uploaded = newest.name if newest is not None else None

    def _names(self) -> list[str]:
        return [sibling.rfilename for sibling in self._api.model_info(self.repository).siblings or []]

    def _newest(self) -> Path | None:
        return next(iter(checkpoint_folders(self.folder / CHECKPOINTS)), None)

    def _request(self, call: Callable[[], _Result]) -> _Result:
        try:
            return with_retries(call)
        except (InputError, PublishError):
            raise
        except Exception as error:  # the client, its transport and Xet each raise their own types
            reason = explain(error, "try again") + suggest_namespace(self._api, self.repository.partition("/")[0], error)
            raise PublishError(f"cannot use {self.repository} for checkpoints: {reason}") from error


def _is_of_a_run(name: str) -> bool:
    return name in RUN_FILES or name.startswith(f"{CHECKPOINTS}/")


def _link(source: str | Path, target: str | Path) -> None:
    """A hard link, which keeps the content when the training replaces or removes the file; a copy where there are no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
