"""Hugging Face Jobs for the tests: the Hub of `hub_server`, which keeps each job's specification and runs its command in a local process.

The "machine" of a job runs the very command that was sent, through bash, in an empty folder and with no more of this session's environment
than any process on the Hub's server gets; its token comes from the job's secrets. There is no internet, so `uvx` alone is a stand-in, first
in the PATH: it holds the constraints against the versions that are installed here, unpacks the wheel that it is given, and runs the entry
point that this wheel names, with the wheel's own code and this Python's other packages, in a process of `python_server`. `hf` is the
installed client's own.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from hub_server import Call, HubServer, Json, Refused, Response, _now, _route
from python_server import python_command
from starlette.responses import StreamingResponse

_UVX = '''#!{python}
import configparser, os, sys, zipfile
from importlib.metadata import version
from pathlib import Path

arguments, options = sys.argv[1:], {{}}
while arguments[0].startswith("--"):
    options[arguments[0]], arguments = arguments[1], arguments[2:]
assert options.get("--python", "{minor}") == "{minor}", options
for line in Path(options["--constraints"]).read_text().split() if "--constraints" in options else []:
    name, _, pinned = line.partition("==")
    assert version(name).partition("+")[0] == pinned, line
source, program = options["--from"], arguments[0]
if not source.endswith(".whl"):
    name, _, pinned = source.partition("==")
    assert version(name) == pinned, source
    os.execv("{bin}/" + program, [program, *arguments[1:]])
unpacked = Path("unpacked").absolute()
with zipfile.ZipFile(source) as archive:
    archive.extractall(unpacked)
scripts = configparser.ConfigParser()
scripts.read(next(unpacked.glob("*.dist-info/entry_points.txt")))
module, _, function = scripts["console_scripts"][program].partition(":")
code = "import sys; sys.path[0] = %r; from %s import %s; sys.argv = %r; sys.exit(%s())"
code %= (str(unpacked), module, function, arguments, function)
os.execv("{python}", {ask} + [code])
'''


@dataclass
class Job:
    id: str
    namespace: str
    specification: dict
    process: subprocess.Popen
    created: str = field(default_factory=_now)
    lines: list[str] = field(default_factory=list)
    canceled: bool = False

    @property
    def stage(self) -> str:
        code = self.process.poll()
        return "RUNNING" if code is None else "CANCELED" if self.canceled else "ERROR" if code else "COMPLETED"

    def row(self) -> dict:
        """What the Hub tells about a job: names of secrets, and not their values."""
        code = self.process.poll()
        told = {key: value for key, value in self.specification.items() if key not in ("secrets", "timeoutSeconds")}
        message = f"Job failed with exit code: {code}" if code and not self.canceled else None
        return told | {
            "id": self.id, "createdAt": self.created, "owner": {"id": self.namespace, "name": self.namespace, "type": "user"},
            "secrets": dict.fromkeys(self.specification.get("secrets", {})), "status": {"stage": self.stage, "message": message},
            "durations": {"schedulingSecs": 0, "runningSecs": 60, "totalSecs": 60},
        }  # fmt: skip


def _flavor(name: str, pretty: str, price: float, model: str | None = None, quantity: int = 1) -> dict:
    gpu = {"type": "gpu", "model": model, "quantity": str(quantity), "vram": "24 GB", "manufacturer": "Nvidia"}
    cost = {"unitCostMicroUSD": round(price * 1e6), "unitCostUSD": price, "unitLabel": "minute"}
    return {"name": name, "prettyName": pretty, "cpu": "4 vCPU", "ram": "15 GB", "accelerator": gpu if model else None, **cost}


HARDWARE = [
    _flavor("cpu-basic", "CPU Basic", 0.000167), _flavor("a10g-small", "Nvidia A10G - small", 0.0175, "A10G"),
    _flavor("a10g-largex2", "2x Nvidia A10G - large", 0.05, "A10G", 2),
]  # fmt: skip


class JobsServer(HubServer):
    """folder: where the machines' disks are."""

    def __init__(self, tokens, folder: Path):
        super().__init__(tokens)
        self.folder, self.jobs = folder, {}

    def __exit__(self, *error) -> None:
        for job in self.jobs.values():
            job.process.kill()
        super().__exit__(*error)

    def start(self, namespace: str, specification: dict) -> Job:
        disk = Path(tempfile.mkdtemp(dir=self.folder))
        (disk / "bin").mkdir()
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        script = _UVX.format(python=sys.executable, minor=minor, bin=Path(sys.executable).parent, ask=python_command())
        (disk / "bin/uvx").write_text(script)
        (disk / "bin/uvx").chmod(0o755)
        environment = self.environment(disk / "home") | specification["environment"] | specification.get("secrets", {})
        environment |= {"PATH": f"{disk / 'bin'}:{os.environ['PATH']}", "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": self.url}
        environment.pop("PYTHONPATH", None)
        process = subprocess.Popen(
            [*specification["command"], *specification["arguments"]], cwd=disk, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        job = self.jobs[f"job{len(self.jobs)}"] = Job(f"job{len(self.jobs)}", namespace, specification, process)
        threading.Thread(target=lambda: job.lines.extend(line.rstrip("\n") for line in process.stdout), daemon=True).start()
        return job


def _own(call: Call) -> str:
    if call.path.split("/")[0] not in call.account:
        raise Refused(403 if call.account else 401, "You cannot use Jobs in this namespace")
    return call.path.split("/")[0]


def _job(server: JobsServer, call: Call) -> Job:
    job = server.jobs.get(call.path.split("/")[1])
    if job is None or job.namespace != _own(call):
        raise Refused(404, "Job not found")
    return job


@_route("GET", "/api/jobs/hardware")
async def _hardware(server: JobsServer, call: Call) -> Response:
    return Json(HARDWARE)


@_route("POST", "/api/jobs/(?P<path>[^/]+)")
async def _start(server: JobsServer, call: Call) -> Response:
    return Json(server.start(_own(call), await call.request.json()).row())


@_route("GET", "/api/jobs/(?P<path>[^/]+)")
async def _list(server: JobsServer, call: Call) -> Response:
    stages, labels = call.query.getlist("stage"), [label.split("=", 1) for label in call.query.getlist("label")]
    rows = [job.row() for job in server.jobs.values() if job.namespace == _own(call) and (not stages or job.stage in stages)]
    return Json([row for row in rows if all((row.get("labels") or {}).get(key) == value for key, value in labels)])


@_route("GET", "/api/jobs/(?P<path>[^/]+/[^/]+)")
async def _inspect(server: JobsServer, call: Call) -> Response:
    return Json(_job(server, call).row())


@_route("POST", "/api/jobs/(?P<path>[^/]+/[^/]+)/cancel")
async def _cancel(server: JobsServer, call: Call) -> Response:
    job = _job(server, call)
    job.canceled = True
    job.process.kill()
    return Json({})


@_route("GET", "/api/jobs/(?P<path>[^/]+/[^/]+)/logs")
async def _logs(server: JobsServer, call: Call) -> Response:
    job = _job(server, call)

    async def events():
        sent = 0
        while True:
            ended = job.stage != "RUNNING"
            for line in job.lines[sent:]:
                sent += 1
                yield f"data: {json.dumps({'data': line, 'timestamp': _now()})}\n\n"
            if ended:
                return
            await asyncio.sleep(0.05)

    return StreamingResponse(events(), media_type="text/event-stream")
