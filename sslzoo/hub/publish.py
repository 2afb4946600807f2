"""Publishing: a run folder as one commit of a Hub repository."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import logging
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from sslzoo.data import EMBEDDED, hub_id, source_name
from sslzoo.errors import InputError, PublishError, first_line, unknown
from sslzoo.method import HEADS
from sslzoo.run import RECIPE, RESULTS, WEIGHTS, Run

from .card import checked_name, is_imported, repository_id, write_card
from .contents import EVAL_RESULTS, Content, contents, needed_files
from .fitness import FILES, check_own, check_regular
from .pictures import IMAGES_SHOWN
from .recorded import checked_training

_OURS = (*FILES, EVAL_RESULTS)
_WAITS = (1, 2, 4)  # seconds before the second, third and fourth try
_Result = TypeVar("_Result")


def publish(
    folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, eval_results: bool = False,
    with_images: bool = False, token: str | None = None,
) -> str:  # fmt: skip
    """Writes the card and uploads the run as one commit to "namespace/name of the recipe"; returns the repository's address.

    The repository is created where there is none. A file of a run that it holds and this run lacks is deleted in the same commit; files
    of others stay. Nothing changed, no commit. Publishing again after any failure is safe: the repository holds the run as it was, or
    the whole of the new one.

    Pictures of images, and names of images that were left out, are published of data that anybody may see: the embedded data set, and
    those that the Hub shows to anybody who asks without a token, which a dry run takes for granted.

    private: create a private repository; one that exists must be private already. An existing one is never made public or private.
    dry_run: print what would be uploaded and what it shows, ask the Hub nothing.
    eval_results: put the numbers into the repository a second time, where the Hub's benchmark data sets look for them.
    with_images: publish pictures of images of any data set.
    token: of the Hub; None: the one of `hf auth login` or HF_TOKEN.
    Raises `InputError` for a folder that is not fit to be published, before the Hub is asked, and `PublishError`.
    """
    run = Run(folder)
    check_regular(run.folder)
    _check(run)
    repository = repository_id(run, namespace)
    api = HfApi(token=_checked(token))

    def patiently(ask: Callable[[], _Result]) -> _Result:
        for wait in (*_WAITS, None):
            try:
                with _client_says_errors_alone():
                    return ask()
            except PublishError:
                raise
            except Exception as error:  # the client, its transport and Xet each raise their own
                if wait is None or not _may_pass(error):
                    told = _told(error) + _nearer(api, namespace, error)
                    raise PublishError(f"cannot publish {repository}: {told}; {run.folder} is as it was") from error
                time.sleep(wait)
        raise AssertionError("unreachable")

    dataset = EMBEDDED if is_imported(run) else run.recipe.dataset
    asked_for = hub_id(dataset)
    public = dataset == EMBEDDED or asked_for is not None and (dry_run or patiently(lambda: _anybody_may_see(asked_for[0])))
    write_card(run.folder, namespace, with_images=with_images or public)
    files = contents(run, repository, public=public, eval_results=eval_results)
    if dry_run:
        _print(run, repository, files, asked_for is not None and not with_images)
        return f"{api.endpoint}/{repository}"
    return patiently(lambda: _push(api, repository, files, private))


def publish_all(
    folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, eval_results: bool = False,
    with_images: bool = False, token: str | None = None,
) -> dict[str, str | None]:  # fmt: skip
    """Publishes every finished run in the folders right below `folder`; returns by folder its address, or why it was left out ("error:
    ..." where something is wrong with it), None for a run that is not finished.

    One that cannot be published stops none of the others. Raises `InputError` where there is no finished run, and, before anything is
    uploaded, where two lead to one repository.
    """
    folder = Path(folder)
    if (folder / RECIPE).is_file():
        raise InputError(f"'{folder}' is a run itself, not a folder of runs: publish it without --all")
    checked_name(f"{namespace}/model")
    said: dict[str, str | None] = {}
    finished: dict[str, list[Path]] = {}  # by repository; the Hub takes no two names that differ in case alone
    for path in sorted(path for path in folder.glob("*") if path.is_dir()):
        try:
            if os.path.lexists(path / RECIPE) or os.path.lexists(path / RESULTS):
                check_regular(path)
                run, said[path.name] = Run(path), None
                if is_imported(run) or run.results()["training"]:
                    finished.setdefault(repository_id(run, namespace).lower(), []).append(path)
            elif any(path.glob(f"*/{RECIPE}")):
                said[path.name] = f"left out: it holds runs itself, which `publish --all {path}` takes"
        except InputError as error:
            said[path.name] = f"error: {error}"
    for repository, runs in finished.items():
        if len(runs) > 1:
            both = " and ".join(map(str, runs))
            raise InputError(f"{both} lead to one repository, {repository}: nothing was uploaded, publish the one you mean without --all")
    if not finished and not any(said.values()):
        raise InputError(f"no finished run in the folders of '{folder}'")
    runs = sorted(run for runs in finished.values() for run in runs)
    for run in tqdm(runs, unit="run", desc=f"publishing to {namespace}", disable=not sys.stderr.isatty()):
        try:
            said[run.name] = publish(
                run, namespace, private=private, dry_run=dry_run, eval_results=eval_results, with_images=with_images, token=token
            )
        except (InputError, PublishError) as error:
            said[run.name] = f"error: {error}"
    return said


def _print(run: Run, repository: str, files: dict[str, Content], may_not_be_public: bool) -> None:
    print(f"would publish {repository}, {len(files)} files:")
    for name, content in files.items():
        unless = ", unless the Hub does not show that data set to everybody" if may_not_be_public and name in IMAGES_SHOWN else ""
        print(f"{content.size:>15,} bytes  {name:32}  {content.shows}{unless}")
    left_out = [name for name in IMAGES_SHOWN if name not in files and not is_imported(run)]
    if left_out and not may_not_be_public:
        data = source_name(run.recipe.dataset)
        print(f"not {' and '.join(left_out)}: '{data}' is not known to be public, --with-images shows its images")


def _anybody_may_see(dataset: str) -> bool:
    """Whether the Hub shows a data set to those who have no token."""
    try:
        info = HfApi(token=False).dataset_info(dataset, expand=["private", "gated"])
    except Exception as error:
        if _status(error) in (401, 403, 404):
            return False
        raise
    return not info.private and not info.gated


def _push(api: HfApi, repository: str, files: dict[str, Content], private: bool) -> str:
    """One try. What the repository holds is asked anew each time: an earlier try's commit may be there although its answer was lost."""
    address = str(api.create_repo(repository, private=private or None, exist_ok=True))
    info = api.model_info(repository)
    if private and not info.private:
        raise PublishError(f"{repository} exists and is public, nothing was uploaded: make it private, or take another namespace")
    there = {sibling.rfilename for sibling in info.siblings or []}
    operations = [CommitOperationAdd(name, content.data) for name, content in files.items()]
    operations += [CommitOperationDelete(name) for name in _OURS if name in there - files.keys()]
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


def _check(run: Run) -> None:
    """Raises `InputError` unless every file is there, whole, and the one that the training left."""
    imported = is_imported(run)
    if not imported:
        run.recipe  # noqa: B018 - the best message for a folder that is no run at all
        checked_training(run)
    missing = [name for name in needed_files(run) if not (run.folder / name).is_file()]
    if missing:
        raise InputError(f"{run.folder} is not complete: {', '.join(missing)} missing; finish the training with --resume")
    for name in (WEIGHTS,) if imported else (WEIGHTS, HEADS):
        try:
            with safe_open(run.folder / name, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(f"{run.folder / name} is damaged: {first_line(error)}; train again") from error
    check_own(run, imported=imported)


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


def _nearer(api: HfApi, namespace: str, error: Exception) -> str:
    """Where the Hub takes nothing in this namespace, the ones that the token's user has."""
    if _status(error) not in (403, 404):
        return ""
    try:
        who = api.whoami()
        own = [who["name"], *(organisation["name"] for organisation in who.get("orgs", ()))]
    except Exception:  # the first error is the one to tell
        return ""
    return "" if namespace in own else f" ({unknown('namespace of yours', namespace, own)})"


def _told(error: Exception) -> str:
    """What happened and what to do, in one line without signed addresses."""
    status = _status(error)
    said = next((text for cause in _chain(error) if (text := getattr(cause, "server_message", None))), None) or first_line(error)
    said = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", r"\1", " ".join(said.split())[:300])
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return "the Hub knows no such token, or there is none (401): sign in with `hf auth login` and publish again"
    if status == 403:
        return f"the token may not write there (403: {said}): take a token with write access, or a namespace that is yours"
    if status == 404:
        return f"the Hub knows no such place (404: {said}): see to the namespace, and that the token may see it"
    if status is not None:
        return f"the Hub answered {status} ({said}): " + ("publish again later" if _may_pass(error) else "see what it says")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it and publish again"
    if "/xet-write-token/" in said:
        return "this Hub has no Xet storage: set HF_HUB_DISABLE_XET=1 and publish again"
    if isinstance(error, ValueError):
        return f"the Hub does not take it ({said})"
    return f"{type(error).__name__} ({said}): see to the connection and publish again, what was uploaded is not sent twice"
