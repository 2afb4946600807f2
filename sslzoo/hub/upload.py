"""Requests to the Hub for publishing, each retried while the Hub is unwell: a data set's visibility, and the upload as one commit."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import logging

from sslzoo.errors import InputError, PublishError

from .hub_errors import is_transient, status_code
from .integrity import RUN_FILES
from .published_files import PublishedFile

_DELAYS = (1, 2, 4)  # seconds before the second, third and fourth attempt
_Result = TypeVar("_Result")


def make_api(token: str | None) -> HfApi:
    """The Hub's client; None: the token of `hf auth login` or HF_TOKEN. Raises `InputError` for what cannot be a token."""
    # A line break in a token would be quoted in the transport's error.
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InputError("the token holds spaces, line breaks or letters that no token has: `hf auth login` stores one that works")
    return HfApi(token=token)


def with_retries(request: Callable[[], _Result]) -> _Result:
    """The request's result. A transient error is retried up to three times; the last one is raised, whatever its type."""
    for delay in (*_DELAYS, None):
        try:
            with _errors_only():
                return request()
        except PublishError:
            raise
        except Exception as error:  # the client, its transport and Xet each raise their own types
            if delay is None or not is_transient(error):
                raise
            time.sleep(delay)
    raise AssertionError("unreachable")


def is_public_dataset(dataset: str) -> bool:
    """Whether the Hub shows a data set to visitors without a token."""
    try:
        info = HfApi(token=False).dataset_info(dataset, expand=["private", "gated"])
    except Exception as error:
        if status_code(error) in (401, 403, 404):
            return False
        raise
    return not info.private and not info.gated


def upload(api: HfApi, repository: str, files: dict[str, PublishedFile], private: bool) -> str:
    """One attempt; returns the repository's address.

    Each attempt reads anew what the repository holds: the commit of an earlier one may be there although its response was lost.
    """
    address = str(api.create_repo(repository, private=private or None, exist_ok=True))
    info = api.model_info(repository)
    if private and not info.private:
        raise PublishError(f"{repository} exists and is public, nothing was uploaded: make it private, or use another namespace")
    existing = {sibling.rfilename for sibling in info.siblings or []}
    operations = [CommitOperationAdd(name, file.content) for name, file in files.items()]
    operations += [CommitOperationDelete(name) for name in RUN_FILES if name in existing - files.keys()]
    api.create_commit(repository, operations, commit_message="Publish the run", parent_commit=info.sha)
    return address


@contextmanager
def _errors_only() -> Iterator[None]:
    """Silences the client's warnings: those about an unwell Hub quote signed addresses, with which anyone could upload."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
