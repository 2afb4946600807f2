"""The command line in a process of its own whose Hub is a `HubServer`, for several commands, as its libraries are slow to import."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hub_server import HubServer
from python_server import PythonProcess, start_python

_LOOP = """
import contextlib, io, json, os, sys
from sslzoo.cli import main
from sslzoo.hub import checkpoint_repository
checkpoint_repository._POLL, checkpoint_repository._INTERVAL = 0.01, 0.0
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(json.loads(line))
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class CliClient:
    def __init__(self, process: PythonProcess, folder: Path):
        self.process, self.folder = process, folder

    def __call__(self, *arguments: object) -> Outcome:
        return self.start(*arguments)()

    def start(self, *arguments: object) -> Callable[[], Outcome]:
        """Starts a command; the result waits until it has ended."""
        self.process.stdin.write(json.dumps(list(map(str, arguments))) + "\n")
        self.process.stdin.flush()
        return lambda: Outcome(*json.loads(self.process.stdout.readline()))

    def error(self, *arguments: object) -> str:
        """The one line of a command that fails."""
        outcome = self(*arguments)
        lines = outcome.err.strip().splitlines()
        assert outcome.code and len(lines) == 1 and lines[0].startswith("error: "), outcome
        return lines[0]


@contextmanager
def cli_client(server: HubServer, folder: Path, token: str | None) -> Iterator[CliClient]:
    """folder: where the process runs. The Hub client's cache is in it."""
    folder.mkdir(exist_ok=True)
    with start_python(_LOOP, env=server.environment(folder / "home", token), cwd=folder) as process:
        yield CliClient(process, folder)
