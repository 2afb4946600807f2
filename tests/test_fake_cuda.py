"""Each method's training step and kNN on a CUDA device, which FakeTensorMode and a device guard that does nothing stand in for.

Seen are tensors on different devices, what is read back or copied while the device waits, the types under autocast, and the branches for
CUDA. Not seen are values, speed and memory.
"""

import json
import shutil
import sys

import pytest
import torch
from fake_cuda import write_errors
from two_processes import run_in_process

from sslzoo.methods import method_names

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="the device is built with g++"),
    pytest.mark.skipif(torch.version.cuda is not None or sys.platform != "linux", reason="for Linux and torch without CUDA of its own"),
]


def test_every_methods_step_and_neighbours_and_what_the_device_refuses(tmp_path):
    """One test: a fixture that many tests share would be made once in each of pytest's workers, and it takes a minute."""
    run_in_process(write_errors, (tmp_path / "fake_cuda.so", method_names(), tmp_path / "errors.json"))
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors.keys() == {"refusals", *method_names()}
    wrong = [f"{name}: {error}" for name, error in errors.items() if error is not None]
    assert not wrong, "\n".join(wrong)
