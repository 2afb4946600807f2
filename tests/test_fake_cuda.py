"""Each method's training step and kNN on a CUDA device, which FakeTensorMode and a device guard that does nothing stand in for.

Seen are tensors on different devices, what is read back or copied while the device waits, the types under autocast, and the branches for
CUDA. Not seen are values, speed and memory.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslzoo.methods import method_names

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="the device is built with g++"),
    pytest.mark.skipif(torch.version.cuda is not None or sys.platform != "linux", reason="for Linux and torch without CUDA of its own"),
]


def test_every_methods_step_and_neighbours_and_what_the_device_refuses(tmp_path):
    """One test: a fixture that many tests share would be made once in each of pytest's workers, and it takes a minute."""
    command = [sys.executable, HERE / "fake_cuda.py", tmp_path / "fake_cuda.so", *method_names()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    errors = json.loads(ended.stdout.splitlines()[-1])
    assert errors.keys() == {"refusals", *method_names()}
    wrong = [f"{name}: {error}" for name, error in errors.items() if error is not None]
    assert not wrong, "\n".join(wrong)
