"""The order of what is asked of CUDA when a streamed batch is copied; CUDA itself is played by this test."""

from contextlib import contextmanager

import torch

from sslzoo.data.images import Batch
from sslzoo.data.to_device import copy_stream, receive, start_copy

BATCH = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.int64), torch.arange(2), None)


class FakeStream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def record_event(self):
        self.log.append(f"event on {self.name}")
        return f"event of {self.name}"

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event}")


def test_a_copy_runs_on_its_own_stream_and_the_steps_stream_waits_for_it(monkeypatch):
    log, copying, stepping = [], *(FakeStream(name, []) for name in ("copies", "steps"))
    copying.log = stepping.log = log

    @contextmanager
    def on_stream(stream):
        log.append(f"on {stream.name}")
        yield
        log.append("end")

    to = torch.Tensor.to
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stepping)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(f"memory kept for {stream.name}"))
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device, non_blocking: log.append(f"copy {device}, {non_blocking}") or to(tensor, "cpu")
    )
    device = torch.device("cuda", 0)
    copy = start_copy(BATCH, device, copy_stream(device))
    assert log == ["on copies", *["copy cuda:0, True"] * 3, "event on copies", "end"]
    log.clear()
    assert torch.equal(receive(copy).pixels, BATCH.pixels) and copy.positions is BATCH.samples
    assert log == ["steps waits for event of copies", *["memory kept for steps"] * 3]


def test_elsewhere_there_is_no_stream():
    assert copy_stream(torch.device("cpu")) is None
    copy = start_copy(BATCH, torch.device("cpu"), None)
    assert copy.done is None and receive(copy).pixels is BATCH.pixels
