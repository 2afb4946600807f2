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


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Of each method, None where its step went through."""
    command = [sys.executable, HERE / "fake_cuda.py", tmp_path_factory.mktemp("device") / "fake_cuda.so", *method_names()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_the_device_refuses_what_cuda_would(errors):
    assert errors["refusals"] is None, errors["refusals"]


@pytest.mark.parametrize("name", method_names())
def test_step_and_neighbours(errors, name):
    assert errors[name] is None, errors[name]
