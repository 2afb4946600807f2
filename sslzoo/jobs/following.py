"""Jobs that run: their list, their logs as they come, and ending one."""

import re
import sys
from collections.abc import Iterable, Iterator

from huggingface_hub import HfApi, JobInfo, JobStage
from tqdm import tqdm

from sslzoo.errors import InputError, PublishError
from sslzoo.hub.hub_errors import explain, status_code

from .access import request
from .specification import LABEL

_PROGRESS = re.compile(r"step ([\d,]+) of ([\d,]+)  (.*)")  # as training prints it where there is no terminal


def list_sslzoo_jobs(api: HfApi, namespace: str) -> Iterator[str]:
    """A line for each job that sslzoo started, the newest first. Raises `PublishError`."""
    for job in request("list your jobs", lambda: list(api.list_jobs(namespace=namespace))):
        if job.labels and LABEL in job.labels:
            seconds = job.durations.running_secs if job.durations else None
            time = f"{(seconds or 0) / 60:.1f} min"
            began = f"{job.created_at:%Y-%m-%d %H:%M}" if job.created_at else ""
            yield f"{job.id}  {job.status.stage:10}  {began}  {time:>10}  {job.flavor:12}  {job.labels[LABEL]} {job.labels.get('name', '')}"


def follow(api: HfApi, job: JobInfo) -> JobInfo:
    """Prints the job's log from its beginning until the job ends; returns how it then is. Ctrl-C ends this and not the job.

    In a terminal, the lines that say how far the training is become a progress bar. Raises `PublishError`.
    """
    try:
        _show(_log_lines(api, job))
    except KeyboardInterrupt:
        place = f"{job.id} --namespace {job.owner.name}"
        print(f"\nthe job goes on: `sslzoo jobs {place}` comes back to its log, and with --cancel ends it", file=sys.stderr)
    return find_job(api, job.id, job.owner.name)


def cancel(api: HfApi, job: JobInfo) -> None:
    """Ends the job. Raises `PublishError`."""
    request(f"end job {job.id}", lambda: api.cancel_job(job_id=job.id, namespace=job.owner.name))


def find_job(api: HfApi, job_id: str, namespace: str) -> JobInfo:
    """The job as it now is. Raises `InputError` where there is none of this id, and `PublishError`."""

    def inspect() -> JobInfo:
        try:
            return api.inspect_job(job_id=job_id, namespace=namespace)
        except Exception as error:
            if status_code(error) == 404:
                raise InputError(f"{namespace} has no job {job_id}: `sslzoo jobs` lists them") from error
            raise

    return request(f"look up job {job_id}", inspect)


def is_failed(job: JobInfo) -> bool:
    """Whether the job has ended and is not complete."""
    return job.status.stage in (JobStage.ERROR, JobStage.CANCELED, JobStage.DELETED)


def _log_lines(api: HfApi, job: JobInfo) -> Iterator[str]:
    try:
        yield from api.fetch_job_logs(job_id=job.id, namespace=job.owner.name, follow=True)
    except Exception as error:  # the client has retried
        raise PublishError(f"cannot read the log of job {job.id}, which goes on: {explain(error, 'try again')}") from error


def _show(lines: Iterable[str]) -> None:
    bar: tqdm | None = None
    try:
        for line in lines:
            found = _PROGRESS.fullmatch(line) if sys.stderr.isatty() else None
            if found is None:
                tqdm.write(line)
                continue
            step, steps = (int(number.replace(",", "")) for number in found.groups()[:2])
            if bar is None:
                bar = tqdm(total=steps, initial=step, unit="step")
            bar.n = step
            bar.set_postfix_str(found[3])
    finally:
        if bar is not None:
            bar.close()
