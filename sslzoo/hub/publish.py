"""Publishing: a run folder as one commit of a Hub repository."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import logging
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from sslzoo.encoders import read_config
from sslzoo.errors import InputError, PublishError, first_line
from sslzoo.method import HEADS
from sslzoo.recipe import recipe_text
from sslzoo.run import CARD, METRICS, RECIPE, RESULTS, WEIGHTS, Run

from .card import SMALL_STEM, repository_id, write_card
from .metadata import eval_results_text
from .pictures import CURVES, MAPS, NEIGHBOURS

_NEEDED = ("config.json", WEIGHTS, HEADS, "preprocessor_config.json", RECIPE, METRICS, RESULTS)
_NEEDED_IMPORTED = ("config.json", WEIGHTS, "preprocessor_config.json", RESULTS)
_CODE = ("configuration_sslzoo_resnet.py", "modeling_sslzoo_resnet.py")  # of the small-image stem
_EVAL_RESULTS = ".eval_results/sslzoo.yaml"
_MADE = (CARD, CURVES, NEIGHBOURS, MAPS, _EVAL_RESULTS)
_OURS = (*_NEEDED, *_CODE, *_MADE)
_WAITS = (1, 2, 4)  # seconds before the second, third and fourth try


def publish(
    folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, eval_results: bool = False,
    token: str | None = None,
) -> str:  # fmt: skip
    """Writes the card and uploads the run as one commit to "namespace/name of the recipe"; returns the repository's address.

    The repository is created where there is none. A file of a run that it holds and this run lacks is deleted in the same commit; files
    of others stay. Nothing changed, no commit. Publishing again after any failure is safe: the repository holds the run as it was, or
    the whole of the new one.

    private: create a private repository; one that exists must be private already. An existing one is never made public or private.
    dry_run: print what would be uploaded, ask the Hub nothing.
    eval_results: put the numbers into the repository a second time, where the Hub's benchmark data sets look for them.
    token: of the Hub; None: the one of `hf auth login` or HF_TOKEN.
    Raises `InputError` for a folder that is not fit to be published, before the Hub is asked, and `PublishError`.
    """
    run = Run(folder)
    _check(run)
    repository = repository_id(run, namespace)
    write_card(run.folder, namespace)
    names = [name for name in _OURS if (run.folder / name).is_file() and (name not in _CODE or _has_small_stem(run))]
    # Where a local data set lies is nobody's business.
    contents = {name: recipe_text(run.recipe.public()).encode() if name == RECIPE else run.folder / name for name in names}
    if eval_results:
        contents[_EVAL_RESULTS] = eval_results_text(repository, run.results()["numbers"]).encode()
    api = HfApi(token=_checked(token))
    if dry_run:
        print(f"would publish {repository}, {len(contents)} files:")
        for name, content in contents.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            print(f"{size:>15,} bytes  {name}")
        return f"{api.endpoint}/{repository}"
    for wait in (*_WAITS, None):
        try:
            with _client_says_errors_alone():
                return _push(api, repository, contents, private)
        except PublishError:
            raise
        except Exception as error:  # the client, its transport and Xet each raise their own
            if wait is None or not _may_pass(error):
                raise PublishError(f"cannot publish {repository}: {_told(error)}; {run.folder} is as it was") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def publish_all(
    folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, eval_results: bool = False,
    token: str | None = None,
) -> dict[str, str | None]:  # fmt: skip
    """Publishes every finished run in the folders right below `folder`; returns address or error by run, None for what is no finished run.

    One that cannot be published stops none of the others. Raises `InputError` where there is no finished run.
    """
    runs = {path.name: path for path in sorted(Path(folder).glob("*")) if (path / RECIPE).is_file()}
    finished = {name for name, path in runs.items() if Run(path).results()["training"]}
    if not finished:
        raise InputError(f"no finished run in the folders of '{folder}'")
    said: dict[str, str | None] = dict.fromkeys(runs)
    for name in tqdm(sorted(finished), unit="run", desc=f"publishing to {namespace}", disable=not sys.stderr.isatty()):
        try:
            said[name] = publish(runs[name], namespace, private=private, dry_run=dry_run, eval_results=eval_results, token=token)
        except (InputError, PublishError) as error:
            said[name] = f"error: {error}"
    return said


def _push(api: HfApi, repository: str, contents: dict[str, Path | bytes], private: bool) -> str:
    """One try. What the repository holds is asked anew each time: an earlier try's commit may be there although its answer was lost."""
    address = str(api.create_repo(repository, private=private or None, exist_ok=True))
    info = api.model_info(repository)
    if private and not info.private:
        raise PublishError(f"{repository} exists and is public, nothing was uploaded: make it private, or take another namespace")
    there = {sibling.rfilename for sibling in info.siblings or []}
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    operations += [CommitOperationDelete(name) for name in _OURS if name in there - contents.keys()]
    api.create_commit(repository, operations, commit_message="Publish the run", parent_commit=info.sha)
    return address


@contextmanager
def _client_says_errors_alone() -> Iterator[None]:
    """Its warnings of an unwell Hub hold addresses that are signed, with which anybody could upload."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _has_small_stem(run: Run) -> bool:
    return read_config(run.folder).get("model_type") == SMALL_STEM


def _check(run: Run) -> None:
    """Raises `InputError` unless every file is there and the weights' files are whole."""
    imported = "imported" in run.results()
    if not imported:
        run.recipe  # noqa: B018 - the best message for a folder that is no run at all
    missing = [name for name in (_NEEDED_IMPORTED if imported else _NEEDED) if not (run.folder / name).is_file()]
    if not missing and _has_small_stem(run):
        missing = [name for name in _CODE if not (run.folder / name).is_file()]
    if missing:
        raise InputError(f"{run.folder} is not complete: {', '.join(missing)} missing; finish the training with --resume")
    for name in (WEIGHTS,) if imported else (WEIGHTS, HEADS):
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
