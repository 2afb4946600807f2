"""Publishes a run folder, or every finished run in a folder, as one commit of a Hub repository."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from sslzoo.data import EMBEDDED, hub_id, source_name
from sslzoo.errors import InputError, PublishError, first_line
from sslzoo.files import sha256_of
from sslzoo.method import Method
from sslzoo.method_files import HEADS
from sslzoo.run import RECIPE, RESULTS, WEIGHTS, Run

from .card import checked_repo_id, repository_id, write_card
from .hub_collections import add_to_collections, collection_titles
from .hub_errors import explain, suggest_namespace
from .integrity import check_integrity, check_regular_files
from .pictures import IMAGES_SHOWN
from .published_files import PublishedFile, published_files, required_files
from .results_validation import checked_training, is_imported
from .upload import is_public_dataset, make_api, upload, with_retries

_Result = TypeVar("_Result")


def publish(
    folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, with_images: bool = False,
    token: str | None = None,
) -> str:  # fmt: skip
    """Writes the card and uploads the run as one commit to "namespace/name of the recipe"; returns the repository's address.

    The repository is created if it does not exist. A run's file that the repository holds and this run lacks is deleted in the same
    commit; other files stay. If nothing changed, there is no commit. Publishing again after any failure is safe: the repository holds
    either the previous version or the whole new one.

    A model that everyone may see is then added to the collections of its data set and its method (see `add_to_collections`).

    Pictures of images, and names of images that were left out, are published only of data that anyone may see: the embedded data set,
    and data sets that the Hub shows to visitors without a token, which a dry run takes for granted.

    private: create a private repository; one that exists must be private already. The visibility of an existing one is never changed.
    dry_run: print what would be uploaded and what it reveals, without contacting the Hub.
    with_images: publish pictures of images of any data set.
    token: of the Hub; None: the one of `hf auth login` or HF_TOKEN.
    Raises `InputError`, before the Hub is contacted, for a folder that cannot be published, and `PublishError`.
    """
    run = Run(folder)
    check_regular_files(run.folder)
    _check_complete(run)
    repository = repository_id(run, namespace)
    api = make_api(token)

    def request(call: Callable[[], _Result]) -> _Result:
        try:
            return with_retries(call)
        except PublishError:
            raise
        except Exception as error:  # the client, its transport and Xet each raise their own types
            reason = explain(error) + suggest_namespace(api, namespace, error)
            raise PublishError(f"cannot publish {repository}: {reason}; {run.folder} is unchanged") from error

    dataset = EMBEDDED if is_imported(run) else run.recipe.dataset
    dataset_id = hub_id(dataset)
    public = dataset == EMBEDDED or dataset_id is not None and (dry_run or request(lambda: is_public_dataset(dataset_id[0])))
    write_card(run.folder, namespace, with_images=with_images or public)
    files = published_files(run, public=public)
    if dry_run:
        _print_dry_run(run, repository, files, dataset_id is not None and not with_images)
        return f"{api.endpoint}/{repository}"
    address = request(lambda: upload(api, repository, files, private))
    if not is_imported(run):
        add_to_collections(api, repository, run.recipe)
    return address


def publish_method(method: Method, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Publishes the run folder that the method was loaded from; returns the repository's address.

    Raises `InputError`, before the Hub is contacted, for a method that is not in a run folder or was changed since, and `PublishError`.
    """
    if not method.name_or_path or not Path(method.name_or_path).is_dir():
        raise InputError(
            "the Hub gets a run with its recipe, curves and results, and this method was not loaded from a run folder: "
            "train a recipe, then `sslzoo publish RUN --to NAME` (save_pretrained writes the weights alone)"
        )
    run, namespace = Run(method.name_or_path), repository.rpartition("/")[0]
    own = repository_id(run, namespace or "NAME")
    if repository != own:
        raise InputError(f"'{repository}' cannot be the repository of {run.folder}, which is called by its recipe: push_to_hub('{own}')")
    with tempfile.TemporaryDirectory() as folder:
        method.save_pretrained(folder)
        if any(sha256_of(Path(folder) / name) != sha256_of(run.folder / name) for name in (WEIGHTS, HEADS)):
            raise InputError(f"the method was changed and is not the one in {run.folder}, which is what `sslzoo publish` publishes")
    return publish(run.folder, namespace, private=private, token=token)


def publish_all(
    folder: str | Path, namespace: str, *, private: bool = False, dry_run: bool = False, with_images: bool = False,
    token: str | None = None,
) -> dict[str, str | None]:  # fmt: skip
    """Publishes every finished run directly inside `folder`.

    Returns, by folder name, the repository's address, or why the folder was left out ("error: ..." where something is wrong with it),
    or None for a run that is not finished. A run that cannot be published does not stop the others. Raises `InputError` where there is
    no finished run, and, before anything is uploaded, where two runs would go to one repository.
    """
    folder = Path(folder)
    if (folder / RECIPE).is_file():
        raise InputError(f"'{folder}' is a run itself, not a folder of runs: publish it without --all")
    checked_repo_id(f"{namespace}/model")
    outcomes: dict[str, str | None] = {}
    finished: dict[str, list[Path]] = {}  # by repository in lower case: the Hub does not distinguish names by case
    for path in sorted(path for path in folder.glob("*") if path.is_dir()):
        try:
            if os.path.lexists(path / RECIPE) or os.path.lexists(path / RESULTS):
                check_regular_files(path)
                run, outcomes[path.name] = Run(path), None
                if is_imported(run) or run.results()["training"]:
                    finished.setdefault(repository_id(run, namespace).lower(), []).append(path)
            elif any(path.glob(f"*/{RECIPE}")):
                outcomes[path.name] = f"left out: it holds runs itself, publish them with `publish --all {path}`"
        except InputError as error:
            outcomes[path.name] = f"error: {error}"
    for repository, paths in finished.items():
        if len(paths) > 1:
            both = " and ".join(map(str, paths))
            raise InputError(f"{both} lead to one repository, {repository}: nothing was uploaded, publish the one you mean without --all")
    if not finished and not any(outcomes.values()):
        raise InputError(f"no finished run in the folders of '{folder}'")
    paths = sorted(path for paths in finished.values() for path in paths)
    for path in tqdm(paths, unit="run", desc=f"publishing to {namespace}", disable=not sys.stderr.isatty()):
        try:
            outcomes[path.name] = publish(
                path, namespace, private=private, dry_run=dry_run, with_images=with_images, token=token
            )
        except (InputError, PublishError) as error:
            outcomes[path.name] = f"error: {error}"
    return outcomes


def _print_dry_run(run: Run, repository: str, files: dict[str, PublishedFile], visibility_unknown: bool) -> None:
    titles = "" if is_imported(run) else " and ".join(f"'{title}'" for title in collection_titles(run.recipe))
    print(f"would publish {repository}, {len(files)} files" + (f", into the collections {titles} if it is public:" if titles else ":"))
    for name, file in files.items():
        condition = ", unless the Hub does not show that data set to everyone" if visibility_unknown and name in IMAGES_SHOWN else ""
        print(f"{file.size:>15,} bytes  {name:32}  {file.reveals}{condition}")
    left_out = [name for name in IMAGES_SHOWN if name not in files and not is_imported(run)]
    if left_out and not visibility_unknown:
        dataset = source_name(run.recipe.dataset)
        print(f"not {' and '.join(left_out)}: '{dataset}' is not known to be public, --with-images publishes them")


def _check_complete(run: Run) -> None:
    """Raises `InputError` unless every file is there, undamaged, and the one that the training or import left."""
    imported = is_imported(run)
    if not imported:
        run.recipe  # noqa: B018 - has the best message for a folder that is not a run
        checked_training(run)
    missing = [name for name in required_files(run) if not (run.folder / name).is_file()]
    if missing:
        if any((run.folder / f"{name}.index.json").is_file() for name in missing):
            advice = "its weights are in shards: save them anew, without max_shard_size"
        else:
            advice = "import the weights again" if imported else "finish the training with --resume"
        raise InputError(f"{run.folder} is not complete: {', '.join(missing)} missing; {advice}")
    for name in (WEIGHTS,) if imported else (WEIGHTS, HEADS):
        try:
            with safe_open(run.folder / name, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(f"{run.folder / name} is damaged: {first_line(error)}; {'import' if imported else 'train'} again") from error
    check_integrity(run)
