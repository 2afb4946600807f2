"""Python in processes of their own that begin with torch and transformers imported, which takes eight seconds: a server forks them.

    done = run_python("import sslzoo; print(sslzoo.__file__)", env=os.environ)

sslzoo is not among what is imported: the process imports it anew, from where its PYTHONPATH says, or cannot. The Hub's client takes its
settings from the environment that was given, but for HF_HUB_DISABLE_PROGRESS_BARS, which is set.
"""

import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

IMPORTED = (
    "torch", "torch._dynamo", "pandas", "pyarrow.parquet", "pyarrow.dataset", "aiohttp", "fsspec.implementations.local",
    "multiprocess.pool", "xxhash", "PIL.TiffImagePlugin", "matplotlib.backends.backend_agg", "simplejpeg", "accelerate",
    "transformers.image_processing_backends",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.image_processing_auto", "transformers.models.convnext",
    "transformers.models.dinov2.modeling_dinov2", "transformers.models.resnet.modeling_resnet", "transformers.models.vit.modeling_vit",
    "transformers.models.vit_mae.modeling_vit_mae", "huggingface_hub.hf_api", "huggingface_hub.repocard",
)  # fmt: skip
_SIZE = 1 << 17  # of a request


class PythonProcess:
    """As `subprocess.Popen` with pipes for text: what is written to `stdin`, and read from `stdout`."""

    def __init__(self, connection: socket.socket, stdin: int, stdout: int):
        self._connection, self.stdin, self.stdout = connection, os.fdopen(stdin, "w"), os.fdopen(stdout)
        self.pid = int(connection.recv(_SIZE))
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `TimeoutError`."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._connection.recv(_SIZE))
        return self.returncode

    def __enter__(self) -> "PythonProcess":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends its input, and waits until the process has ended."""
        self.stdin.close()
        self.wait(timeout=600)
        self.stdout.close()
        self._connection.close()


def start_python(code: str, *arguments: str, env: Mapping[str, str], cwd: Path | None = None, stderr: int = 2) -> PythonProcess:
    """Runs `code` as `python -c` does. stderr: a file descriptor. The process is killed when the one that started it ends."""
    (child_stdin, stdin), (stdout, child_stdout) = os.pipe(), os.pipe()
    connection = request(_start_server()[0], code, arguments, env, cwd or Path.cwd(), (child_stdin, child_stdout, stderr))
    os.close(child_stdin)
    os.close(child_stdout)
    return PythonProcess(connection, stdin, stdout)


def run_python(
    code: str, *arguments: str, env: Mapping[str, str], cwd: Path | None = None, timeout: float = 600
) -> subprocess.CompletedProcess:
    """As `subprocess.run` with captured text. timeout: s, after which the process is killed."""
    with tempfile.TemporaryFile("w+") as errors, start_python(code, *arguments, env=env, cwd=cwd, stderr=errors.fileno()) as process:
        limit = threading.Timer(timeout, process.send_signal, [signal.SIGKILL])
        limit.daemon = True
        limit.start()
        process.stdin.close()
        out = process.stdout.read()
        process.wait()
        limit.cancel()
        errors.seek(0)
        return subprocess.CompletedProcess([code, *arguments], process.returncode, out, errors.read())


def request(address: str, code: str, arguments, env: Mapping[str, str], cwd: Path, descriptors: tuple[int, int, int]) -> socket.socket:
    """Asks the server for a process. The connection gives its id, then its exit code; closing it kills the process."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    socket.send_fds(connection, [json.dumps([code, list(arguments), dict(env), str(cwd)]).encode()], descriptors)
    return connection


def python_command() -> list[str]:
    """For other programs that start processes: a command that runs the code that follows, as `python -c` does, in one of the server's."""
    return [sys.executable, "-P", __file__, "ask", _start_server()[0]]


@functools.cache
def _start_server() -> tuple[str, subprocess.Popen]:
    """Its address, and its process, which ends with this one: it waits for the end of its input."""
    address = str(Path(tempfile.mkdtemp(prefix="sslzoo-python-")) / "server")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("HF_")}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers reads it as it is imported
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, "serve", address], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )  # fmt: skip
    assert server.stdout.readline() == b"ready\n"
    return address, server


def serve(address: str) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                attend(connection)
                os._exit(0)
            connection.close()
    Path(address).unlink()
    Path(address).parent.rmdir()


def attend(connection: socket.socket) -> None:
    """Forks the process, and waits until it ends or the one that asked for it has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, descriptors, *_ = socket.recv_fds(connection, _SIZE, 3)
    child = os.fork()
    if not child:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, max(descriptors) + 1)
        os._exit(run(*json.loads(data)))
    for descriptor in (0, 1, *descriptors):
        os.close(descriptor)
    connection.send(str(child).encode())
    ended = os.pidfd_open(child)
    if connection in select.select([connection, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    else:
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def run(code: str, arguments: list[str], env: dict[str, str], cwd: str) -> int:
    """As a new interpreter would, but that it does not take itself apart at the end."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    sys.path = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    main = sys.modules["__main__"] = ModuleType("__main__")
    read_environment_again()
    status = 0
    try:
        exec(code, vars(main))
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    sys.stdout.flush()
    return status


def read_environment_again() -> None:
    """The Hub's client reads it when it is imported, and other modules have copies of what it read."""
    from huggingface_hub import constants

    before = dict(vars(constants))
    importlib.reload(constants)
    changed = {name: value for name, value in before.items() if name.isupper() and value != getattr(constants, name)}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("accelerate", "huggingface_hub", "transformers") and module is not constants:
            for key in changed.keys() & vars(module).keys():
                if vars(module)[key] == changed[key]:
                    setattr(module, key, getattr(constants, key))
    from transformers import dynamic_module_utils

    dynamic_module_utils.HF_MODULES_CACHE = os.environ.get("HF_MODULES_CACHE", os.path.join(constants.HF_HOME, "modules"))


if __name__ == "__main__":
    do, address, *what = sys.argv[1:]
    if do == "serve":
        serve(address)
    else:
        process = request(address, what[0], what[1:], os.environ, Path.cwd(), (0, 1, 2))
        process.recv(_SIZE)  # its id
        sys.exit(int(process.recv(_SIZE)))
