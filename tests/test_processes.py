"""Two processes compute what one computes, and an error in one ends both: methods, features, classifiers, resuming."""

import functools
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from safetensors import SafetensorError
from test_broken_in_evaluation import features_with_broken
from test_classifier import encoder_named, session, short_linear, short_trainings
from test_contract import BATCH, build, every_method, optimizer_of, progress, random_views, snapshot, without_scalars
from test_knn import Pictures, features_of_five, peak_of_wide_features, small_encoder
from test_parts import gathered, rows
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from two_processes import start_two_processes

from sslzoo import method_names
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, classifier_training, data_facts, extract, linear_features, make_data
from sslzoo.evaluation.classifier_training import ClassifierTraining
from sslzoo.evaluation.train_test_overlap import HashedImages, count_overlap
from sslzoo.processes import broadcast_from_main, check_equal, gather_in_place

STEPS = 2
# KoLeo is of each process's own images, so its weight is 0 here: all else of the method is compared.
CHANGES = {"dinov2": {"koleo_weight": 0.0}}
AS_IT_IS = Preprocessing(16, 16)


def synchronised_steps(name, rank, world):
    """Loss, gradients and states of `STEPS` steps in float64 over the global batch 2 * BATCH; batch norms do not see the batch."""
    method = build(name, **CHANGES.get(name, {})).double()
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
    distributed.init_process_group(  # a process that waits in vain shall fail
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    results = {name: synchronised_steps(name, rank, 2) for name in method_names()}
    torch.save({"methods": results, "parts": _parts(rank, Path(folder, f"state{rank}"))}, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _parts(rank, state):
    """Everything distributed apart from the methods' losses. state: a folder of this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        return {
            "gather": gathered(rank), "in_place": _gathered_in_place(rank), "peak": peak_of_wide_features(),
            "extract": features_of_five(), "broken": features_with_broken(),
            "classifiers": short_trainings(), "shared": _shared(rank),
            "errors": _errors(rank), "features": _kept_features(rank, state / "features", patch),
            "resumed": _resumed_classifier(rank, state / "classifier", patch),
        }  # fmt: skip


def _gathered_in_place(rank):
    """Of 6,000 rows each process has a place for half: all are there, some are missing, or only the last process has any."""
    numbers = torch.arange(6000.0)[:, None].expand(-1, 3)
    found = []
    for counts in ((3000, 3000), (500, 2900), (0, 2)):
        rows, first = torch.full((6000, 3), -1.0), 3000 * rank
        rows[first : first + counts[rank]] = numbers[first : first + counts[rank]]
        gathered_rows = gather_in_place(rows, first, counts[rank])
        found.append((gathered_rows.clone(), gathered_rows.data_ptr() == rows.data_ptr()))
    return found


class Watched(Pictures):
    """Records which positions were read; if `broken`, the image at position 4 cannot be decoded."""

    def __init__(self, count, broken=False):
        super().__init__(count)
        self.broken, self.seen = broken, []

    def batches(self, order):
        for positions in order:
            assert len(positions), "no image set makes empty batches"
            self.seen += positions.tolist()
            if self.broken and 4 in positions:
                raise InputError("picture 4 cannot be read")
            yield from super().batches([positions])


def _shared(rank):
    train, test = Watched(6), Watched(5)
    train.skipped, test.skipped = ["a", "b"][: rank + 1], ["c"][rank:]
    data = make_data(train, test, AS_IT_IS)
    extract(small_encoder(), data.train, AS_IT_IS)
    return data_facts(data) | {"read": (train.seen, test.seen)}


def _errors(rank):
    """The error in each process when one fails."""

    def told(work):
        try:
            work()
        except (InputError, RuntimeError, ZeroDivisionError) as error:
            return f"{type(error).__name__}: {error}"

    broken, encoder = Watched(5, broken=True), small_encoder()
    training = ClassifierTraining(short_linear(), encoder_named("res6"), make_data(Pictures(20), broken, AS_IT_IS), session())
    return {
        "extract": told(lambda: extract(encoder, broken, AS_IT_IS)),
        "count_overlap": told(lambda: count_overlap(HashedImages(Pictures(3)), HashedImages(broken))),
        "test": told(training._test),
        "images": told(lambda: make_data(Pictures(6), Pictures(5 + rank), AS_IT_IS)),
        "value": told(lambda: check_equal("weights", "abc" if rank else "abd")),
        "decision": told(lambda: broadcast_from_main(lambda: 1 / 0)),
        "after": broadcast_from_main(lambda: 7 + rank),
    }


def _kept_features(rank, state, patch):
    """Features and how many images were read: storing fails, stored, reused, damaged, and present only for the wrong process."""
    state.mkdir(parents=True)
    encoder, stored, found = small_encoder(), state / "train_features.safetensors", []

    def again():
        watched = Watched(6)
        data = make_data(watched, Pictures(4), AS_IT_IS)
        values = linear_features._train_features(encoder, data, session(state=state))
        found.append((*values, len(watched.seen), [file.name for file in state.iterdir()]))

    def full(tensors, file):
        Path(file).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    with patch.context() as disk:
        disk.setattr(linear_features, "save_file", full)
        again()
    again()
    again()
    if rank == 0:
        whole = stored.read_bytes()
        stored.write_bytes(whole[:-9])
    again()
    stored.unlink() if rank == 0 else stored.write_bytes(b"of an earlier launch")
    again()
    return found


def _resumed_classifier(rank, state, patch):
    """Stopped after the first epoch, whose checkpoint only the main process has, and resumed; and on a full disk."""
    state.mkdir(parents=True)

    def training(**changes):
        protocol, data = short_linear(), make_data(Pictures(20), Watched(1), AS_IT_IS)
        return ClassifierTraining(protocol, encoder_named("res6"), data, session(**changes))

    whole, stopped = training(), training(state=state)
    whole.run_to_end()
    stopped._train_epoch(0, None)
    stopped.history.append(stopped._test())
    stopped._save()
    kept, resumed = [file.name for file in state.iterdir()], training(state=state)
    begun = len(resumed.history)
    resumed.run_to_end()

    def full(*arguments):
        raise OSError("No space left on device")

    patch.setattr(classifier_training, "save_checkpoint", full)
    on_full_disk = training(state=state).run_to_end()
    weights = [one.network.classifier.state_dict() for one in (whole, resumed)]
    return {"kept": kept, "begun": begun, "histories": (whole.history, resumed.history, on_full_disk), "weights": weights}


@functools.cache
def _outcome():
    """The results of two gloo processes, or the error that ended them."""
    for _ in range(2):  # gloo aborts once in a while when processes start and end in the wrong moment
        with tempfile.TemporaryDirectory() as folder:
            try:
                start_two_processes(_process, (folder,))
                return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]
            except multiprocessing.ProcessExitedException as error:
                aborted = error
            except multiprocessing.ProcessRaisedException as error:
                return error
    return aborted


def two_processes():
    """The results of two gloo processes."""
    found = _outcome()
    if isinstance(found, Exception):
        raise found
    return found


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


def test_rows_are_gathered_in_place_and_close_up():
    numbers = torch.arange(6000.0)[:, None].expand(-1, 3)
    expected = [numbers, torch.cat((numbers[:500], numbers[3000:5900])), numbers[3000:3002]]
    for results in two_processes():
        for (found, in_place), rows_of_both in zip(results["parts"]["in_place"], expected, strict=True):
            assert torch.equal(found, rows_of_both) and in_place


def test_each_process_holds_all_features_once():
    _, expected = peak_of_wide_features()
    for results in two_processes():
        peak, found = results["parts"]["peak"]
        assert 1 <= peak < 1.25
        torch.testing.assert_close(found, expected)


def test_features_are_distributed_and_gathered_in_order():
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


def test_each_process_reads_its_share_once_for_features_and_overlap():
    for process, results in enumerate(two_processes()):
        facts = results["parts"]["shared"]
        assert facts["test_images_in_train"] == 5 and facts["read"] == [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [3, 4])][process]
        assert facts["skipped"] == 3, "a, b and c, each of which both or one have met"


def test_an_error_in_one_process_is_raised_in_both():
    for process, results in enumerate(two_processes()):
        told, from_other = results["parts"]["errors"], "" if process else "process 1: "
        for name in ("extract", "count_overlap", "test"):
            assert told[name] == f"InputError: {from_other}picture 4 cannot be read", name
        for name, what in (("images", "the images"), ("value", "weights")):
            assert told[name].startswith(f"InputError: {what} must be alike for all processes: ")
        assert told["decision"] == ("TrainingError: process 0:" if process else "ZeroDivisionError:") + " division by zero"
        assert told["after"] == 7, "the main process's"


def test_only_the_main_processs_stored_features_are_used_and_all_get_them():
    one, labels = extract(small_encoder(), Pictures(6), AS_IT_IS)
    file = "train_features.safetensors"
    for process, results in enumerate(two_processes()):
        for features, found, _, _ in results["parts"]["features"]:
            torch.testing.assert_close(features, one)
            assert torch.equal(found, labels)
        read, kept = [[step[place] for step in results["parts"]["features"]] for place in (2, 3)]
        assert read == [3, 3, 0, 3, 3]
        assert kept == ([[], [], [], [], [file]] if process else [[], [file], [file], [file], [file]])


def test_a_classifier_resumes_from_the_main_processs_checkpoint():
    for process, results in enumerate(two_processes()):
        found = results["parts"]["resumed"]
        assert found["kept"] == ([] if process else ["step-2"]) and found["begun"] == 1
        whole, resumed, on_full_disk = found["histories"]
        assert whole == resumed == on_full_disk and len(whole) == 2
        assert all(torch.equal(found["weights"][0][name], found["weights"][1][name]) for name in found["weights"][0])
        assert whole == two_processes()[0]["parts"]["resumed"]["histories"][0]
