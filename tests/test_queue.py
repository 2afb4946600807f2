"""The queue against a plain list; that all processes hold the same one is tested with the methods that have it."""

import collections

import pytest
import torch

from sslzoo.parts.queue import Queue


def rows(*numbers):
    """Rows filled with their number."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 3)


def contents(queue):
    """From the oldest row to the newest."""
    place = int(queue.position)
    return torch.cat((queue.rows[place:], queue.rows[:place]))[:, 0].tolist()


def test_starts_with_random_unit_vectors():
    torch.manual_seed(0)
    queue = Queue(500, 16)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(500))
    assert queue.rows.mean(dim=0).norm() < 0.2, "in all directions"
    assert int(queue.position) == 0 and set(queue.state_dict()) == {"rows", "position"}, "saved"
    assert not list(queue.parameters())


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 8, 19])
@pytest.mark.parametrize("length", [7, 8])
def test_keeps_the_last_rows(length, batch):
    """Also with batches that do not divide the length or are longer than the queue."""
    queue, plain = Queue(length, 3), collections.deque(maxlen=length)
    for step in range(6):
        numbers = range(step * batch, (step + 1) * batch)
        queue.enqueue(rows(*numbers))
        plain.extend(numbers)
        assert contents(queue)[-len(plain) :] == list(plain)


def test_accepts_rows_of_another_precision_and_detaches_them():
    queue = Queue(4, 3)
    queue.enqueue(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True) * 2)
    assert queue.rows.dtype == torch.float32 and not queue.rows.requires_grad
    assert contents(queue)[-2:] == [2, 2]


def test_resumes_from_its_state_dict():
    queue, other = Queue(5, 3), Queue(5, 3)
    queue.enqueue(rows(1, 2, 3))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.enqueue(rows(4, 5, 6))
    assert torch.equal(queue.rows, other.rows) and contents(other) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_local_rows_of_all_devices_make_up_the_queue(world, monkeypatch):
    queue = Queue(8, 3)
    queue.enqueue(rows(*range(8)))
    if world > 1:
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
    shares = []
    for process in range(world):
        if world > 1:
            monkeypatch.setattr("torch.distributed.get_rank", lambda process=process: process)
        shares += queue.local_rows()[:, 0].tolist()
    assert sorted(shares) == list(range(8))
