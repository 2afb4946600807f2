"""`sslzoo train --on-jobs`, `sslzoo evaluate --on-jobs` and `sslzoo jobs`."""

import argparse
from typing import TYPE_CHECKING

from sslzoo.errors import InputError, PublishError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo

    from sslzoo.jobs import Plan
    from sslzoo.recipe import Recipe

_TIMEOUT = "4h"
_HERE = ("output", "resume", "minutes", "cpu", "checkpoints_to")  # options that say how something is done on this machine


def check_job_options(options: argparse.Namespace) -> None:
    """Raises `InputError` for options that would do nothing: of jobs without --on-jobs, and of this machine with it."""
    if options.on_jobs is None:
        unused = [name for name in ("dry_run", "timeout") if getattr(options, name)]
        reason = "is of --on-jobs, which names the hardware"
    else:
        unused = [name for name in _HERE if getattr(options, name, None) not in (None, False)]
        reason = "is of a run on this machine: leave it out with --on-jobs"
    if unused:
        raise InputError(f"--{unused[0].replace('_', '-')} {reason}")
    if options.on_jobs is None and options.command == "evaluate" and options.to:
        raise InputError("--to is of --on-jobs: `sslzoo publish` publishes the numbers of an evaluation on this machine")
    if options.on_jobs is None and options.command == "train" and options.private and not options.to:
        raise InputError("--private is of --to, which publishes the run")


def train_on_jobs(options: argparse.Namespace, recipe: "Recipe") -> int:
    """`sslzoo train --on-jobs`."""
    from sslzoo.jobs import plan_training

    api = _api()
    plan = plan_training(
        api, recipe, options.on_jobs, options.timeout or _TIMEOUT, namespace=options.to, evaluate=options.evaluate, private=options.private
    )
    return _run(api, plan, options.dry_run, "the same command again continues from its newest checkpoint")


def evaluate_on_jobs(options: argparse.Namespace) -> int:
    """`sslzoo evaluate --on-jobs`."""
    from sslzoo.jobs import plan_evaluation

    passed = ["--protocol", *options.protocol] if options.protocol else []
    for name in ("train_split", "test_split", "image_column", "label_column"):
        passed += [f"--{name.replace('_', '-')}", getattr(options, name)] if getattr(options, name) else []
    passed += ["--json"] if options.json else []
    api = _api()
    plan = plan_evaluation(api, options.model, options.on_jobs, options.timeout or _TIMEOUT, passed, on=options.on, namespace=options.to)
    return _run(api, plan, options.dry_run, "see its log")


def show_jobs(options: argparse.Namespace) -> int:
    """`sslzoo jobs`."""
    from sslzoo.jobs import find_job, list_sslzoo_jobs, writable_namespace

    api = _api()
    namespace = writable_namespace(api, options.namespace)
    if options.job is None:
        if options.cancel:
            raise InputError("--cancel needs the id of a job: `sslzoo jobs` lists them")
        for line in list_sslzoo_jobs(api, namespace):
            print(line)
        return 0
    if options.cancel:
        from sslzoo.jobs import cancel

        cancel(api, find_job(api, options.job, namespace))
        return 0
    return _follow(api, find_job(api, options.job, namespace), "see its log")


def _run(api: "HfApi", plan: "Plan", dry_run: bool, after_failure: str) -> int:
    """Starts the job, or finds the one that runs already, and follows it."""
    from sslzoo.jobs import print_plan, submit, unfinished_job

    print_plan(plan)
    if dry_run:
        return 0
    job = unfinished_job(api, plan.specification)
    print(f"job {job.id} does this already" if job else "sending it", flush=True)
    job = job or submit(api, plan.specification)
    print(f"job {job.id}: {job.url}; Ctrl-C leaves it running", flush=True)
    return _follow(api, job, after_failure)


def _follow(api: "HfApi", job: "JobInfo", after_failure: str) -> int:
    from sslzoo.jobs import follow, is_failed

    job = follow(api, job)
    if is_failed(job):
        reason = f" ({job.status.message})" if job.status.message else ""
        raise PublishError(f"job {job.id} ended as {job.status.stage}{reason}: {after_failure}")
    return 0


def _api() -> "HfApi":
    from sslzoo.hub.upload import make_api

    return make_api(None)
