"""How models are placed on a device, and what is known of its arithmetic."""

import platform
import subprocess
import sys

import pytest
import torch

from sslzoo.accelerator import emulates_bf16, make_accelerator, to_device
from sslzoo.encoders import build_encoder, encoder_config, features
from sslzoo.evaluation import Preprocessing
from sslzoo.inference import load_for_features
from sslzoo.methods import load
from sslzoo.recipe import read_recipe
from sslzoo.training.setup import make_training_method


def has_channels_last(model):
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4 and parameter.shape[2] > 1]
    return bool(weights) and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_convolutions_have_channels_last_on_a_cpu_and_give_the_same_features():
    encoder, images = build_encoder(encoder_config("res6", 16)).eval(), torch.randn(4, 3, 16, 16)
    before = features(encoder, images)
    assert not has_channels_last(encoder)
    assert has_channels_last(to_device(encoder, torch.device("cpu")))
    torch.testing.assert_close(features(encoder, images), before, rtol=1e-4, atol=1e-5)


def test_student_and_teacher_are_trained_and_embed_with_channels_last_and_are_saved_without(tmp_path):
    method = make_training_method(read_recipe("digits/byol"), make_accelerator("fp32", cpu=True))
    assert has_channels_last(method) and has_channels_last(method.encoder)
    method.save_pretrained(tmp_path)
    Preprocessing(16, 16).write(tmp_path)
    encoder, *_ = load_for_features(str(tmp_path), "digits", "test", None, None, cpu=True)
    assert has_channels_last(encoder)
    loaded = load(tmp_path)
    assert not has_channels_last(loaded)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in method.state_dict().items())


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_is_emulated_by_cpus_without_onednns_instructions_alone(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert emulates_bf16(torch.device("cpu")) is not supported
    assert not emulates_bf16(torch.device("cuda"))


_LAYERS = """
import resource
import torch
from sslzoo.accelerator import make_accelerator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        layers = [torch.ones(10, 2**18) for _ in range(2)]
        del layers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

make_accelerator("fp32", cpu=True)
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_memory_of_one_layer_is_reused_for_the_next_on_a_cpu():
    """In a process of its own, whose memory nothing else has shaped. 20 times 20 MiB are 102,400 pages."""
    told = subprocess.run([sys.executable, "-c", _LAYERS], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 1000
