"""Publishing: a run folder as one commit of a Hub repository."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from sslzoo.encoders import read_config
from sslzoo.errors import InputError, PublishError, first_line
from sslzoo.method import HEADS
from sslzoo.run import CARD, METRICS, RECIPE, RESULTS, WEIGHTS, Run

from .card import SMALL_STEM, repository_id, write_card
from .pictures import CURVES, NEIGHBOURS

_NEEDED = ("config.json", WEIGHTS, HEADS, "preprocessor_config.json", RECIPE, METRICS, RESULTS)
_CODE = ("configuration_sslzoo_resnet.py", "modeling_sslzoo_resnet.py")  # of the small-image stem
_MADE = (CARD, CURVES, NEIGHBOURS)
_OURS = (*_NEEDED, *_CODE, *_MADE)
_WAITS = (1, 2, 4)  # seconds before the second, third and fourth try


def publish(folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, token: str | None = None) -> str:
    """Writes the card and uploads the run as one commit to "namespace/name of the recipe"; returns the repository's address.

    The repository is created where there is none. A file of a run that it holds and this run lacks is deleted in the same commit; files
    of others stay. Nothing changed, no commit. Publishing again after any failure is safe: the repository holds the run as it was, or
    the whole of the new one.

    private: create a private repository; one that exists must be private already. An existing one is never made public or private.
    dry_run: print what would be uploaded, ask the Hub nothing.
    token: of the Hub; None: the one of `hf auth login` or HF_TOKEN.
    Raises `InputError` for a folder that is not fit to be published, before the Hub is asked, and `PublishError`.
    """
    run = Run(folder)
    _check(run)
    repository = repository_id(run.recipe, namespace)
    write_card(run.folder, namespace)
    files = [run.folder / name for name in _OURS if (run.folder / name).is_file() and (name not in _CODE or _has_small_stem(run))]
    api = HfApi(token=_checked(token))
    if dry_run:
        print(f"would publish {repository}, {len(files)} files:")
        for file in files:
            print(f"{file.stat().st_size:>15,} bytes  {file.name}")
        return f"{api.endpoint}/{repository}"
    for wait in (*_WAITS, None):
        try:
            return _push(api, repository, files, private)
        except PublishError:
            raise
        except Exception as error:  # the client, its transport and Xet each raise their own
            if wait is None or not _may_pass(error):
                raise PublishError(f"cannot publish {repository}: {_told(error)}; {run.folder} is as it was") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _push(api: HfApi, repository: str, files: list[Path], private: bool) -> str:
    """One try. What the repository holds is asked anew each time: an earlier try's commit may be there although its answer was lost."""
    address = str(api.create_repo(repository, private=private or None, exist_ok=True))
    info = api.model_info(repository)
    if private and not info.private:
        raise PublishError(f"{repository} exists and is public, nothing was uploaded: make it private, or take another namespace")
    there, names = {sibling.rfilename for sibling in info.siblings or []}, {file.name for file in files}
    operations = [CommitOperationAdd(file.name, file) for file in files]
    operations += [CommitOperationDelete(name) for name in _OURS if name in there - names]
    api.create_commit(repository, operations, commit_message="Publish the run", parent_commit=info.sha)
    return address


def _has_small_stem(run: Run) -> bool:
    return read_config(run.folder).get("model_type") == SMALL_STEM


def _check(run: Run) -> None:
    """Raises `InputError` unless every file is there and the weights' files are whole."""
    run.recipe  # noqa: B018 - the best message for a folder that is no run at all
    missing = [name for name in _NEEDED if not (run.folder / name).is_file()]
    if not missing and _has_small_stem(run):
        missing = [name for name in _CODE if not (run.folder / name).is_file()]
    if missing:
        raise InputError(f"{run.folder} is not complete: {', '.join(missing)} missing; finish the training with --resume")
    for name in (WEIGHTS, HEADS):
        try:
            with safe_open(run.folder / name, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(f"{run.folder / name} is damaged: {first_line(error)}; train again") from error


def _checked(token: str | None) -> str | None:
    # A line break in a token would come back inside the transport's error.
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InputError("the token holds spaces, line breaks or letters that no token has: `hf auth login` stores one that works")
    return token


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Exception) -> int | None:
    """Of the Hub's answer that the error comes from, which the client may have wrapped."""
    answers = (getattr(cause, "response", None) for cause in _chain(error))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: after a hurried or unwell Hub, another's commit in between (412), a lost connection."""
    status = _status(error)
    if status is not None:
        return status in (408, 412, 429) or status >= 500
    return not isinstance(error, (ValueError, TypeError, OfflineModeIsEnabled, LocalTokenNotFoundError))


def _told(error: Exception) -> str:
    """What happened and what to do, in one line without signed addresses."""
    status = _status(error)
    said = next((text for cause in _chain(error) if (text := getattr(cause, "server_message", None))), None) or first_line(error)
    said = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", " ".join(said.split())[:300])
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return "the Hub knows no such token, or there is none (401): sign in with `hf auth login` and publish again"
    if status == 403:
        return f"the token may not write there (403: {said}): take a token with write access, or a namespace that is yours"
    if status is not None:
        return f"the Hub answered {status} ({said}): " + ("publish again later" if _may_pass(error) else "see what it says")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it and publish again"
    if "/xet-write-token/" in said:
        return "this Hub has no Xet storage: set HF_HUB_DISABLE_XET=1 and publish again"
    if isinstance(error, ValueError):
        return f"the Hub does not take it ({said})"
    return f"{type(error).__name__} ({said}): see to the connection and publish again, what was uploaded is not sent twice"
