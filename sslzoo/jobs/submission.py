"""Submitting a job: what it trains or evaluates, with everything checked that can fail, and sending it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, JobInfo, JobStage, get_token

from sslzoo.data import EMBEDDED
from sslzoo.errors import InputError, PublishError
from sslzoo.hub.card import checked_repo_id
from sslzoo.methods import method_class
from sslzoo.recipe import Recipe, shipped_recipes

from .access import check_on_hub, dataset_images, request, writable_namespace
from .hardware import Work, describe, estimate, find_hardware, price_per_hour
from .specification import IMAGE, SECRET, Specification, seconds_of, specification, training_minutes

_UNFINISHED = [JobStage.SCHEDULING, JobStage.RUNNING]


class Plan(NamedTuple):
    """A job and the lines of its dry run: label and text."""

    specification: Specification
    lines: dict[str, str]


def plan_training(
    api: HfApi, recipe: Recipe, flavor: str, timeout: str, *, namespace: str | None = None, evaluate: bool = False, private: bool = False
) -> Plan:  # fmt: skip
    """A job that trains the recipe, keeps its checkpoints in a repository and publishes the run; nothing is sent.

    namespace: where job, checkpoints and model are; None: the user's. evaluate: also measure the recipe's protocols.
    private: publish into a private repository. Raises `InputError`, and `PublishError` where the Hub does not answer.
    """
    for key in ("dataset", "init_from", "teacher"):
        check_on_hub(key, getattr(recipe, key))
    package = method_class(recipe.method).__module__.partition(".")[0]
    if package != "sslzoo":
        raise InputError(f"the method {recipe.method} is of the package {package}, which a job's machine does not have")
    seconds = seconds_of(timeout)
    namespace = writable_namespace(api, namespace)
    hardware = find_hardware(api, flavor)
    price, work = price_per_hour(hardware), Work(_training_images(api, recipe), recipe.epochs)
    model, checkpoints = (checked_repo_id(f"{namespace}/{recipe.name}{ending}") for ending in ("", "-checkpoints"))
    command = [
        "sslzoo", "train", "{job}/recipe.yaml", "--output", recipe.name, "--checkpoints-to", checkpoints, "--to", namespace,
        "--minutes", str(training_minutes(seconds)), *(["--evaluate"] if evaluate else []), *(["--private"] if private else []),
    ]  # fmt: skip
    job = specification("train", recipe.name, namespace, flavor, seconds, [command], yaml.safe_dump(recipe.flat(), sort_keys=False))
    lines = {
        "checkpoints": f"the private repository {checkpoints}, from which the same command continues",
        "publishes": f"{model}, {'private' if private else 'public'}",
        **_money(price, seconds),
        "work": str(work),
        "hours": estimate(recipe, work, hardware, price),
    }
    return Plan(job, _described(job, describe(hardware)) | lines)


def plan_evaluation(
    api: HfApi, model: str, flavor: str, timeout: str, options: Sequence[str], *, on: str | None = None, namespace: str | None = None
) -> Plan:  # fmt: skip
    """A job that evaluates a model of the Hub; one in `namespace` is published again with the numbers. Nothing is sent.

    options: further arguments of `sslzoo evaluate`. on: the data set, None: the model's. Raises like `plan_training`.
    """
    if Path(model).exists() or model.count("/") != 1:
        raise InputError(f"'{model}' is not on the Hub, and a job's machine cannot see this one: `sslzoo publish` it first")
    if on not in {name.partition("/")[0] for name in shipped_recipes()}:
        check_on_hub("--on", on)
    seconds = seconds_of(timeout)
    namespace = writable_namespace(api, namespace)
    hardware = find_hardware(api, flavor)
    owner, _, name = checked_repo_id(model).partition("/")
    info = request(f"find {model}", lambda: api.model_info(model))
    options = [*options, *(["--on", on] if on else [])]
    if own := owner == namespace:
        commands = [
            ["hf", "download", model, "--revision", info.sha, "--local-dir", name],
            ["sslzoo", "evaluate", name, *options],
            ["sslzoo", "publish", name, "--to", namespace, *(["--private"] if info.private else [])],
        ]
    else:
        commands = [["sslzoo", "evaluate", model, *options]]
    job = specification("evaluate", name, namespace, flavor, seconds, commands)
    published = f"{model} with the numbers" if own else "nothing: the log holds the numbers"
    lines = {"publishes": published, **_money(price_per_hour(hardware), seconds)}
    return Plan(job, _described(job, describe(hardware)) | lines)


def unfinished_job(api: HfApi, job: Specification) -> JobInfo | None:
    """A job of the same kind and name that has not ended: a second one would train the same run."""
    found = request("list your jobs", lambda: list(api.list_jobs(status=_UNFINISHED, labels=job.labels, namespace=job.namespace)))
    return found[0] if found else None


def submit(api: HfApi, job: Specification) -> JobInfo:
    """Uploads the job's files to a private repository and starts the job. Raises `PublishError`."""
    operations = [CommitOperationAdd(f"{job.folder}/{name}", content) for name, content in job.files.items()]
    request(f"upload to {job.inputs}", lambda: _upload(api, job, operations))
    # A second attempt could start a second job, which costs as much, where only the answer to the first was lost.
    return request("start the job, look at `sslzoo jobs` first", lambda: _run(api, job), once=True)


def _upload(api: HfApi, job: Specification, operations: list[CommitOperationAdd]) -> None:
    api.create_repo(job.inputs, private=True, exist_ok=True)
    if not api.model_info(job.inputs).private:
        raise PublishError(f"{job.inputs} is public: make it private, as recipes and code of your jobs are there")
    api.create_commit(job.inputs, operations, commit_message=f"{job.kind} {job.name}")


def _run(api: HfApi, job: Specification) -> JobInfo:
    return api.run_job(
        image=IMAGE, command=job.command, env=job.environment, secrets={SECRET: api.token or get_token()}, flavor=job.flavor,
        timeout=job.timeout, labels=job.labels, namespace=job.namespace,
    )  # fmt: skip


def _training_images(api: HfApi, recipe: Recipe) -> int | None:
    if recipe.dataset != EMBEDDED:
        return dataset_images(api, recipe.dataset, recipe.train_split)
    from sslzoo.data.digits import scattered_digits

    return len(scattered_digits(recipe.train_split)[1])


def _described(job: Specification, hardware: str) -> dict[str, str]:
    sizes = ", ".join(f"{name} ({len(content):,} bytes)" for name, content in job.files.items())
    return {
        "namespace": job.namespace,
        "image": IMAGE,
        "command": " ".join([*job.command[:2], f"'{job.command[2]}'"]),
        "hardware": hardware,
        "timeout": f"{job.timeout:,} s",
        "environment": ", ".join(f"{key}={value}" for key, value in job.environment.items()),
        "secrets": SECRET,
        "labels": ", ".join(f"{key}={value}" for key, value in job.labels.items()),
        "files": f"in {job.folder} of the private repository {job.inputs}: {sizes}",
    }


def _money(price: float, seconds: int) -> dict[str, str]:
    return {"price": f"${price:.2f} an hour, so ${price * seconds / 3600:.2f} at most until the timeout"}


def print_plan(plan: Plan) -> None:
    """The lines of a dry run."""
    print(f"{plan.specification.kind} {plan.specification.name} on Hugging Face Jobs:")
    for label, text in plan.lines.items():
        print(f"  {label:12} {text}")
