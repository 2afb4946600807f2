"""Two processes find what one finds: losses, gradients and states of every method, features, and trained classifiers."""

import functools
import tempfile

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from test_broken_in_evaluation import features_with_broken
from test_classifier import short_trainings
from test_contract import BATCH, build, every_method, optimizer_of, progress, random_views, snapshot, without_scalars
from test_knn import features_of_five
from test_parts import gathered, rows
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from sslzoo import method_names

STEPS = 2


def synchronised_steps(name, rank, world):
    """Loss, gradients and states of `STEPS` steps in float64 over the global batch 2 * BATCH; batch norms do not see the batch."""
    method = build(name).double()
    with pytest.MonkeyPatch.context() as patch:
        # `.float()` is there for halves; float64 shall stay, or rounding would hide small differences.
        to_float = torch.Tensor.float
        patch.setattr(torch.Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else to_float(tensor))
        return _synchronised_steps(method, name, rank, world)


def _synchronised_steps(method, name, rank, world):
    for module in method.modules():
        if isinstance(module, BatchNorm):
            module.eval()
    optimizer = optimizer_of(method)
    share = 2 * BATCH // world
    found = []
    for step in range(STEPS):
        views = [view[rank * share : (rank + 1) * share] for view in random_views(name, 2 * BATCH, seed=step, dtype=torch.float64)]
        now = progress(step, first=rank * share, count=share)
        out = method(views, now)
        out["loss"].backward()
        gradients = {key: weight.grad for key, weight in method.named_parameters() if weight.requires_grad}
        values = {"loss": out["loss"].detach().clone(), **gradients}
        if world > 1:
            for value in values.values():
                distributed.all_reduce(value)
                value.div_(world)
        found.append(snapshot(values.items()))
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(without_scalars(out), now)
    return [*found, snapshot(method.state_dict().items())]


def _process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {name: synchronised_steps(name, rank, 2) for name in method_names()}
    torch.save({"methods": results, "parts": _parts(rank)}, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _parts(rank):
    """What is shared out or put together, beside the methods' losses."""
    return {"gather": gathered(rank), "extract": features_of_five(), "broken": features_with_broken(), "classifiers": short_trainings()}


@functools.cache
def two_processes():
    """What each of two gloo processes found."""
    for attempt in range(2):  # gloo aborts once in a while when processes start and end in the wrong moment
        with tempfile.TemporaryDirectory() as folder:
            try:
                multiprocessing.spawn(_process, (folder,), nprocs=2)
            except multiprocessing.ProcessExitedException:
                if attempt:
                    raise
                continue
            return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


def distances(found, expected):
    """Relative to the tensor; to a millionth of all together for one that is zero but for rounding."""
    norms = {key: float(value.double().norm()) for key, value in expected.items()}
    least = 1e-6 * sum(norms.values())
    return {key: float((found[key] - value).double().norm()) / max(norms[key], least) for key, value in expected.items()}


class TestTwoProcesses:
    @every_method
    def test_give_the_loss_gradients_and_states_of_one(self, name):
        one = synchronised_steps(name, 0, 1)
        for results in two_processes():
            for found, expected in zip(results["methods"][name], one, strict=True):
                assert found.keys() == expected.keys()
                apart = distances(found, expected)
                worst = max(apart, key=apart.get)
                assert apart[worst] <= 1e-6, worst


def test_gather_puts_the_processes_rows_in_order_and_sums_what_each_of_them_sends_back():
    weights = rows(6, seed=10) + rows(6, seed=11)
    for process, results in enumerate(two_processes()):
        found = results["parts"]["gather"]
        assert torch.equal(found["every"], rows(6)) and found["counts"].tolist() == [0, 1] and found["rank"] == process
        torch.testing.assert_close(found["gradient"], weights[process * 3 : process * 3 + 3])


def test_features_are_shared_out_and_put_together_in_order():
    expected, labels = features_of_five()
    for results in two_processes():
        features, found = results["parts"]["extract"]
        torch.testing.assert_close(features, expected)
        assert torch.equal(found, labels)


def test_broken_images_are_left_out_wherever_they_fall():
    expected = features_with_broken()
    for results in two_processes():
        for budget, (features, labels) in results["parts"]["broken"].items():
            assert len(features) == 316 and torch.equal(labels, expected[budget][1])
            torch.testing.assert_close(features, expected[budget][0])


def test_classifiers_end_with_the_weights_of_one():
    for name, alone in short_trainings().items():
        for results in two_processes():
            found = results["parts"]["classifiers"][name]
            assert found["history"] == alone["history"]
            for key, value in alone["network"].items():
                assert torch.allclose(found["network"][key], value, rtol=1e-3, atol=1e-4), (name, key)
