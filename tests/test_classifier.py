"""The classifier protocols: constants, training steps against float64, resuming, several processes."""

import copy
import io
import math
import os
import signal
from contextlib import nullcontext
from dataclasses import asdict, replace

import pytest
import torch
import torch.distributed as distributed
from tqdm import tqdm
from transformers import ViTConfig, ViTModel

from sslzoo.accelerator import make_accelerator
from sslzoo.data import load_images
from sslzoo.data.resident import ResidentImages
from sslzoo.encoders import build_encoder, encoder_config, features, to_plain
from sslzoo.errors import InputError, StoppedError, TrainingError
from sslzoo.evaluation import Classes, Data, Preprocessing, Session, classifier_training, quiet_session
from sslzoo.evaluation.classifier_protocol import CLASSIFIER_PROTOCOLS
from sslzoo.evaluation.classifier_training import ClassifierTraining
from sslzoo.evaluation.layer_decay import layer_groups
from sslzoo.stopping import TimeLimit
from sslzoo.views import RandAugment, RandomErasing, TrainingCrops, View

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(16, 16, mean=(0.2, 0.3, 0.4), std=(0.3, 0.4, 0.5))
# Fine-tuning with every kind of randomness, on few images, with a learning rate that moves the weights in a few steps.
SHORT = replace(CLASSIFIER_PROTOCOLS["finetune-mae-v1"], epochs=3, warmup_epochs=1, batch_size=9, lr=0.02)


def some(split, count, classes=10):
    """The first images of the digits with a label below `classes`."""
    images = load_images("digits", split, device=CPU)
    rows = (images.labels < classes).nonzero()[:count, 0]
    batch = next(images.batches([rows]))
    return ResidentImages("digits", split, None, "", batch.pixels, batch.sizes, batch.samples, batch.labels, ["image"] * count, [])


def digits(train=40, test=25, classes=10):
    return Data(some("train", train, classes), some("test", test, classes), Classes(classes, torch.arange(classes)), PREPROCESSING)


def halves(count, seed):
    """Three easy classes with noise: the upper half is bright, the lower half, or neither."""
    labels = torch.arange(count) % 3
    pixels = 100 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    pixels[labels == 0, :, :8] += 150
    pixels[labels == 1, :, 8:] += 150
    sizes, rows = torch.full((count, 2), 16), torch.arange(count)
    return ResidentImages("halves", "", None, "", pixels.byte(), sizes, rows, labels, ["image"] * count, [])


def encoder_named(name, seed=0):
    torch.manual_seed(seed)
    return build_encoder(encoder_config(name, 16)).eval()


def session(seed=3, **changes):
    return quiet_session(make_accelerator("fp32", cpu=True), seed)._replace(**changes)


def trained(protocol, encoder, data, seed=3):
    """A finished training."""
    training = ClassifierTraining(protocol, encoder, data, session(seed))
    training.run_to_end()
    return training


def top1(protocol, encoder, data):
    return protocol.measure(encoder, data, session())[0].value


class TestConstants:
    """EVALS.md, sections 2 to 4."""

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("linear-simclr-v1", {"trains_encoder": False, "epochs": 90, "lr": 0.1}),
            ("linear-mae-v1", {"trains_encoder": False, "epochs": 90, "lr": 0.1, "warmup_epochs": 10, "batch_norm": True}),
            ("finetune-simclr-v1", {"trains_encoder": True, "epochs": 30, "lr": 0.05}),
            (
                "finetune-mae-v1",
                {
                    "trains_encoder": True, "epochs": 100, "lr": 5e-4, "warmup_epochs": 5, "optimizer": "adamw", "weight_decay": 0.05,
                    "interpolation": "bicubic", "rand_augment": asdict(RandAugment()), "erasing": asdict(RandomErasing()),
                    "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "layer_decay": 0.65, "drop_path": 0.1,
                },
            ),
        ],
    )  # fmt: skip
    def test_are_those_of_the_table(self, name, expected):
        common = {
            "name": name, "batch_norm": False, "optimizer": "sgd", "momentum": 0.9, "betas": (0.9, 0.999), "weight_decay": 0.0,
            "batch_size": 256, "warmup_epochs": 0, "final_lr": 0.001, "precision": "fp16", "scale": (0.08, 1.0), "ratio": (0.75, 4 / 3),
            "interpolation": "bilinear", "rand_augment": None, "erasing": None, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0,
            "layer_decay": None, "drop_path": 0.0,
        }  # fmt: skip
        values = asdict(CLASSIFIER_PROTOCOLS[name])
        assert 0 < values.pop("tolerance") <= 0.01
        assert values == {**common, **expected}

    def test_of_a_step_reach_optimiser_and_network(self):
        training = ClassifierTraining(replace(SHORT, batch_size=8), encoder_named("vit-xs4"), digits(), session())
        factors = {}
        for group in training.optimizer.param_groups:
            for parameter in group["params"]:
                factors[id(parameter)] = (round(group["lr_factor"], 6), group["weight_decay"])
        names = {name: factors[id(parameter)] for name, parameter in training.network.named_parameters() if id(parameter) in factors}
        assert len(names) == len(factors)
        # 4 blocks: 0.65 to the fifth power before them, 1 behind them.
        assert names["encoder.embeddings.patch_embeddings.projection.weight"] == (0.116029, 0.05)
        assert names["encoder.embeddings.position_embeddings"] == names["encoder.embeddings.cls_token"] == (0.116029, 0.0)
        assert names["encoder.layers.0.mlp.fc1.weight"] == (0.178506, 0.05)
        assert names["encoder.layers.3.mlp.fc1.weight"] == (0.65, 0.05)
        assert names["encoder.layers.3.mlp.fc1.bias"] == names["encoder.layers.3.layernorm_before.weight"] == (0.65, 0.0)
        assert names["encoder.layernorm.weight"] == (1.0, 0.0)
        assert names["classifier.weight"] == names["classifier.bias"] == (1.0, 0.0)
        assert type(training.optimizer.optimizer).__name__ == "AdamW"
        crops = training.crops
        view = View(16, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic", horizontal_flip=0.5)
        assert crops._renderer._groups == [[view]]
        assert (crops._rand_augment, crops._erasing) == (RandAugment(), RandomErasing())
        assert (crops._mean, crops._std) == (PREPROCESSING.mean, PREPROCESSING.std)

    def test_of_layer_groups_are_all_parameters_once(self):
        encoder = encoder_named("vit-xs4")
        groups = layer_groups(encoder, 0.5)
        assert sorted(id(parameter) for group in groups for parameter in group.parameters) == sorted(map(id, encoder.parameters()))
        assert sorted({group.lr_factor for group in groups}) == [0.5**power for power in (5, 4, 3, 2, 1, 0)]


class TestLinear:
    @pytest.mark.parametrize(("name", "batch_size"), [("linear-simclr-v1", 16), ("linear-mae-v1", 16), ("linear-simclr-v1", 256)])
    def test_equals_steps_by_hand_in_float64(self, name, batch_size):
        """40 images: 2 steps of 16 an epoch and 8 images left out, or one step of all 40."""
        encoder, data, epochs = encoder_named("res6"), digits(), 3
        normalised, warmup = name == "linear-mae-v1", 1 if name == "linear-mae-v1" else 0
        protocol = replace(CLASSIFIER_PROTOCOLS[name], epochs=epochs, batch_size=batch_size, warmup_epochs=warmup, lr=20.0)
        training = ClassifierTraining(protocol, encoder, data, session())
        linear = training.network.classifier[1] if normalised else training.network.classifier
        weight, bias = (values.detach().double().clone().requires_grad_() for values in (linear.weight, linear.bias))
        assert weight.shape == (10, 64)
        # As torch starts a linear layer: uniform to 1 / sqrt(64).
        assert abs(float(weight.detach().std()) - 0.125 / 3**0.5) < 0.005
        assert max(values.detach().abs().max() for values in (weight, bias)) < 0.125
        training.run_to_end()

        rows = min(batch_size, 40)
        steps = 40 // rows
        exact, moments, step = copy.deepcopy(encoder).double(), [0.0, 0.0], 0
        crops = TrainingCrops(View(16), 3, mean=PREPROCESSING.mean, std=PREPROCESSING.std)
        means, variances = torch.zeros(64).double(), torch.ones(64).double()
        for epoch in range(epochs):
            order = torch.randperm(40, generator=torch.Generator().manual_seed(3 * 1_000_003 + epoch))
            for positions in order.split(rows)[:steps]:
                batch = next(data.train.batches([positions]))
                with torch.no_grad():
                    found = features(exact, crops(batch.pixels, batch.sizes, batch.samples, epoch).double())
                if normalised:
                    mean, variance = found.mean(dim=0), found.var(dim=0, correction=0)
                    means, variances = 0.9 * means + 0.1 * mean, 0.9 * variances + 0.1 * found.var(dim=0)
                    found = (found - mean) / (variance + 1e-6).sqrt()
                scores = found @ weight.T + bias
                loss = -(scores.log_softmax(dim=1)[torch.arange(rows), batch.labels]).mean()
                first, all_steps = warmup * steps, epochs * steps
                through = (step - first) / (all_steps - first - 1)
                factor = (step + 1) / first if step < first else 0.001 + 0.999 * (1 + math.cos(math.pi * through)) / 2
                for index, gradient in enumerate(torch.autograd.grad(loss, (weight, bias))):
                    moments[index] = 0.9 * moments[index] + gradient
                    with torch.no_grad():
                        (weight, bias)[index].sub_(20.0 * rows / 256 * factor * moments[index])
                step += 1
        assert float((linear.weight - weight).detach().abs().max()) < 1e-5 * float(weight.detach().abs().max())
        assert float((linear.bias - bias).detach().abs().max()) < 1e-5 * float(bias.detach().abs().max())

        test = next(data.test.batches([torch.arange(25)]))
        with torch.no_grad():
            found = features(exact, PREPROCESSING(test.pixels, test.sizes).double())
            scores = ((found - means) / (variances + 1e-6).sqrt() if normalised else found) @ weight.T + bias
        ranks = (scores > scores[torch.arange(25), test.labels][:, None]).sum(dim=1)
        assert training.history[-1] == {"top1": int((ranks == 0).sum()), "top5": int((ranks < 5).sum())}

    def test_of_the_digits_beats_chance_by_far(self):
        data = Data(some("train", 600), some("test", 300), Classes(10, torch.arange(10)), PREPROCESSING)
        protocol = replace(CLASSIFIER_PROTOCOLS["linear-mae-v1"], epochs=4, warmup_epochs=1, batch_size=32, scale=(0.8, 1.0))
        assert top1(protocol, encoder_named("res6"), data) > 0.25

    def test_does_not_change_the_encoder(self):
        encoder = encoder_named("res6").train()
        before = copy.deepcopy(encoder.state_dict())
        training = trained(replace(CLASSIFIER_PROTOCOLS["linear-simclr-v1"], epochs=1), encoder, digits())
        assert encoder.training and all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())
        for state in (encoder.state_dict(), training.network.encoder.state_dict()):
            assert all(torch.equal(state[name], value) for name, value in before.items())


class TestFineTuning:
    def test_moves_a_copy_of_the_encoder_with_its_batch_norms(self):
        encoder = encoder_named("res6").requires_grad_(False)
        before = copy.deepcopy(encoder.state_dict())
        training = trained(replace(CLASSIFIER_PROTOCOLS["finetune-simclr-v1"], epochs=1, lr=1.0), encoder, digits())
        after = training.network.encoder.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
        assert any("running_mean" in name for name in after) and not [name for name in after if torch.equal(after[name], before[name])]

    def test_of_a_vit_beats_its_start(self):
        data = Data(halves(192, 0), halves(96, 1), Classes(3, torch.arange(3)), PREPROCESSING)
        protocol = replace(CLASSIFIER_PROTOCOLS["finetune-mae-v1"], epochs=3, warmup_epochs=1, batch_size=16, lr=0.005, scale=(0.8, 1.0))
        training = ClassifierTraining(protocol, encoder_named("vit-xs4"), data, session())
        start = training._test()["top1"]
        assert start < 0.4 * 96 and training.run_to_end()[-1]["top1"] > 0.55 * 96

    def test_freezes_what_features_do_not_use(self):
        """Processes would wait for the gradients of a pooling layer that nothing uses."""
        plain = to_plain(encoder_named("vit-xs4"))
        training = trained(replace(SHORT, epochs=2), plain, digits(18, 5))
        frozen = {name for name, parameter in training.network.named_parameters() if not parameter.requires_grad}
        assert frozen == {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}

    def test_uses_mixing_and_drop_path_only_in_training(self, monkeypatch):
        """Both are drawn anew at each step, and neither is active in the test."""
        given = {"mix": [], "drop": []}
        mix, drop_path = classifier_training.mix, classifier_training.drop_path

        def watched_mix(images, labels, classes, *, draw, **settings):
            given["mix"].append((classes, settings, draw.bit_generator.state["state"]["state"]))
            return mix(images, labels, classes, draw=draw, **settings)

        def watched_drop(encoder, rate, numbers):
            given["drop"].append((rate, tuple(numbers.flatten().tolist())))
            assert numbers.shape == (9, 8)
            return drop_path(encoder, rate, numbers)

        monkeypatch.setattr(classifier_training, "mix", watched_mix)
        monkeypatch.setattr(classifier_training, "drop_path", watched_drop)
        training = trained(replace(SHORT, epochs=2), encoder_named("vit-xs4"), digits(18, 5))
        assert len(given["mix"]) == len(set(map(str, given["mix"]))) == len(given["drop"]) == len(set(given["drop"])) == 4
        assert {(classes, *settings.values()) for classes, settings, _ in given["mix"]} == {(10, 0.8, 1.0, 0.1)}
        assert {rate for rate, _ in given["drop"]} == {0.1}
        assert training._test() == training._test() == training.history[-1]

    def test_draws_every_random_part_by_seed_epoch_and_step(self, monkeypatch):
        """Where the crops are, what is mixed, which branches are dropped, and torch's own numbers: a dropout's."""
        drawn = {}

        def mix(images, labels, classes, *, draw, **settings):
            drawn["mix"] = draw.random()
            return images, labels

        def drop_path(encoder, rate, numbers):
            drawn["drop"], drawn["torch"] = numbers.flatten().tolist(), float(torch.rand(()))
            return nullcontext()

        monkeypatch.setattr(classifier_training, "mix", mix)
        monkeypatch.setattr(classifier_training, "drop_path", drop_path)
        data, found = digits(9, 5), []
        for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1)):
            training = ClassifierTraining(SHORT, encoder_named("vit-xs4"), data, session(seed))
            batch = next(data.train.batches([torch.arange(9)]))
            drawn["crops"] = training.crops(batch.pixels, batch.sizes, batch.samples, epoch).flatten().tolist()
            training._train_step(batch, epoch, step=epoch)
            found.append(dict(drawn))
        assert found[0] == found[1] and set(found[0]) == {"mix", "drop", "torch", "crops"}
        for other in found[2:]:
            assert all(found[0][part] != other[part] for part in found[0]), other.keys()

    def test_with_decay_over_layers_needs_layers(self):
        with pytest.raises(InputError, match="transformer"):
            SHORT.measure(encoder_named("res6"), digits(18, 5), session())


class TestNumbers:
    def test_are_those_of_the_last_and_of_the_best_epochs(self, monkeypatch):
        """The best of top-1 and of top-5 are different epochs; of two equal ones it is the first."""
        counts = iter([{"top1": 3, "top5": 9}, {"top1": 5, "top5": 7}, {"top1": 5, "top5": 9}, {"top1": 4, "top5": 8}])
        monkeypatch.setattr(ClassifierTraining, "_test", lambda self: next(counts))
        protocol = replace(CLASSIFIER_PROTOCOLS["linear-simclr-v1"], epochs=4)
        found = protocol.measure(encoder_named("res6"), digits(8, 20), session())
        assert [tuple(measured) for measured in found] == [
            ("linear_top1", {"of": "last epoch"}, 0.2), ("linear_top1", {"of": "best epoch", "selected_epoch": 1}, 0.25),
            ("linear_top5", {"of": "last epoch"}, 0.4), ("linear_top5", {"of": "best epoch", "selected_epoch": 0}, 0.45),
        ]  # fmt: skip

    def test_are_called_after_what_is_trained_and_have_no_top5_of_few_classes(self):
        protocol = replace(CLASSIFIER_PROTOCOLS["finetune-simclr-v1"], epochs=1)
        found = protocol.measure(encoder_named("res6"), digits(12, 9, classes=3), session())
        assert [measured.metric for measured in found] == ["finetune_top1", "finetune_top1"]

    def test_translate_the_labels_of_the_test_split(self):
        protocol = replace(CLASSIFIER_PROTOCOLS["linear-mae-v1"], epochs=2, warmup_epochs=1, batch_size=16)
        data = digits()
        expected = trained(protocol, encoder_named("res6"), data).history
        # The test split counts its classes from the last to the first.
        data.test._labels = 9 - data.test._labels
        turned = data._replace(classes=Classes(10, torch.arange(9, -1, -1)))
        assert trained(protocol, encoder_named("res6"), turned).history == expected
        assert trained(protocol, encoder_named("res6"), data).history != expected

    def test_depend_on_the_seed(self):
        encoder, data, protocol = encoder_named("vit-xs4"), digits(18, 5), replace(SHORT, epochs=1, warmup_epochs=0)
        first, again, other = (trained(protocol, encoder, data, seed).network.state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
        starts = [ClassifierTraining(protocol, encoder, data, session(seed)).network.classifier.weight for seed in (1, 2)]
        assert not torch.equal(*starts)

    def test_are_refused_for_broken_weights(self):
        encoder = encoder_named("res6")
        with torch.no_grad():
            next(encoder.parameters()).fill_(math.inf)
        with pytest.raises(TrainingError, match="linear-simclr-v1.*nan before step 1"):
            CLASSIFIER_PROTOCOLS["linear-simclr-v1"].measure(encoder, digits(8, 5), session())

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_are_refused_if_the_loss_is_not_finite(self, value, monkeypatch):
        entropy = classifier_training.F.cross_entropy
        monkeypatch.setattr(classifier_training.F, "cross_entropy", lambda *given, **named: entropy(*given, **named) + value)
        with pytest.raises(TrainingError, match=f"the loss is {value} before step 1,"):
            CLASSIFIER_PROTOCOLS["linear-simclr-v1"].measure(encoder_named("res6"), digits(8, 5), session())

    def test_every_epoch_has_every_image_once_in_its_own_order(self):
        training = ClassifierTraining(replace(SHORT, batch_size=9), encoder_named("vit-xs4"), digits(27, 5), session())
        orders = [torch.cat(list(training._positions(epoch))).tolist() for epoch in (0, 1, 0)]
        assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(27))

    def test_progress_counts_every_image_once(self):
        protocol, written = replace(CLASSIFIER_PROTOCOLS["linear-simclr-v1"], epochs=2, batch_size=16), io.StringIO()
        with tqdm(file=written, mininterval=0) as bar:
            protocol.measure(encoder_named("res6"), digits(), session(bar=bar))
            assert bar.n == bar.total == 2 * (32 + 25)
        assert "top1=" in written.getvalue()


class Killed(BaseException):
    """An error that no code catches."""


def killed_after(training, method, call, monkeypatch):
    """Runs until a method of ClassifierTraining has returned for the `call`th time."""
    original, calls = getattr(ClassifierTraining, method), iter(range(1, 100))

    def dying(self, *arguments):
        result = original(self, *arguments)
        if next(calls) == call:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTraining, method, dying)
        with pytest.raises(Killed):
            training()


class TestResuming:
    @pytest.mark.parametrize("kind", ["finetune", "linear"])
    def test_gives_the_numbers_and_weights_of_an_uninterrupted_run(self, kind, tmp_path, monkeypatch):
        torch.manual_seed(0)
        # With dropout, whose numbers are torch's own.
        vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "hidden_dropout_prob": 0.1}
        encoder = ViTModel(ViTConfig(**vit, image_size=16, patch_size=4), add_pooling_layer=False)
        linear = replace(CLASSIFIER_PROTOCOLS["linear-mae-v1"], epochs=3, warmup_epochs=1, batch_size=9)
        protocol, data = SHORT if kind == "finetune" else linear, digits(27, 15)
        uninterrupted = trained(protocol, encoder, data)
        finished = []

        def train():
            # An earlier process has drawn other random numbers, as would this one.
            torch.rand(1)
            training = ClassifierTraining(protocol, encoder, data, session(state=tmp_path / "state"))
            finished.append((training, training.run_to_end()))

        # In the first epoch; in the second; after the test of the third; after the last checkpoint.
        for method, call in (("_train_step", 1), ("_train_step", 5), ("_test", 2), ("_save", 1)):
            killed_after(train, method, call, monkeypatch)
        train()
        [(training, history)] = finished
        assert history == uninterrupted.history and len(history) == 3
        states = [one.network.state_dict() for one in (uninterrupted, training)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert not (tmp_path / "state").exists()

    @pytest.mark.parametrize("kind", ["finetune", "linear"])
    def test_under_a_time_limit_goes_on_in_the_middle_of_an_epoch(self, kind, tmp_path):
        """Without any time, each call does one step, or the test of an epoch."""
        torch.manual_seed(0)
        vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "hidden_dropout_prob": 0.1}
        encoder = ViTModel(ViTConfig(**vit, image_size=16, patch_size=4), add_pooling_layer=False)
        linear = replace(CLASSIFIER_PROTOCOLS["linear-mae-v1"], epochs=2, warmup_epochs=1, batch_size=9)
        protocol, data = replace(SHORT, epochs=2) if kind == "finetune" else linear, digits(27, 15)
        uninterrupted, calls = trained(protocol, encoder, data), 0
        while True:
            torch.rand(1)
            calls += 1
            training = ClassifierTraining(protocol, encoder, data, session(state=tmp_path / "state", limit=TimeLimit(0.0)))
            try:
                training.run_to_end()
            except StoppedError as error:
                assert error.exit_code == 75 and f"of 2 of {protocol.name}: the same command continues" in str(error)
            else:
                break
        # The sixth step is saved, and the seventh call tests.
        assert calls == 7 and training.history == uninterrupted.history
        states = [one.network.state_dict() for one in (uninterrupted, training)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_a_signal_is_obeyed_after_the_step_and_saves(self, tmp_path, monkeypatch):
        protocol, data = replace(CLASSIFIER_PROTOCOLS["linear-simclr-v1"], epochs=2, batch_size=8), digits(16, 5)
        original = ClassifierTraining._train_step

        def receiving(self, batch, epoch, step):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, batch, epoch, step)

        with monkeypatch.context() as patch:
            patch.setattr(ClassifierTraining, "_train_step", receiving)
            with pytest.raises(StoppedError, match="SIGTERM in epoch 2 of 2") as stopped:
                protocol.measure(encoder_named("res6"), data, session(state=tmp_path))
        assert stopped.value.exit_code == 143
        assert ClassifierTraining(protocol, encoder_named("res6"), data, session(state=tmp_path)).step == 3

    def test_starts_after_the_last_complete_epoch_and_shows_it_as_progress(self, tmp_path, monkeypatch):
        protocol, data = replace(CLASSIFIER_PROTOCOLS["linear-simclr-v1"], epochs=4, batch_size=16), digits()
        killed_after(lambda: protocol.measure(encoder_named("res6"), data, session(state=tmp_path)), "_train_step", 8, monkeypatch)
        steps, original = [], ClassifierTraining._train_step
        monkeypatch.setattr(ClassifierTraining, "_train_step", lambda self, *given: steps.append(given[2]) or original(self, *given))
        with tqdm(file=io.StringIO()) as bar:
            protocol.measure(encoder_named("res6"), data, session(state=tmp_path, bar=bar))
            assert bar.n == bar.total
        assert steps == [6, 7]  # of four epochs with two each

    def test_restores_the_gradient_scaler(self, tmp_path, monkeypatch):
        def measure(state):
            accelerator = make_accelerator("fp32", cpu=True)
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=2)
            one = Session(accelerator, 3, tqdm(disable=True), state)
            training = ClassifierTraining(replace(SHORT, epochs=2), encoder_named("vit-xs4"), digits(18, 5), one)
            return training.run_to_end(), training.network.classifier.weight, accelerator.scaler.get_scale()

        history, weight, scale = measure(None)
        killed_after(lambda: measure(tmp_path), "_train_step", 4, monkeypatch)
        resumed = measure(tmp_path)
        assert resumed[0] == history and torch.equal(resumed[1], weight) and resumed[2] == scale == 8.0

    def test_continues_without_a_checkpoint_on_a_full_disk(self, tmp_path, monkeypatch, caplog):
        def full(*arguments):
            raise OSError("No space left on device")

        monkeypatch.setattr(classifier_training, "save_checkpoint", full)
        protocol = replace(CLASSIFIER_PROTOCOLS["linear-simclr-v1"], epochs=2)
        assert len(protocol.measure(encoder_named("res6"), digits(8, 5), session(state=tmp_path))) == 4
        assert "No space left" in caplog.text


def short_linear():
    return replace(CLASSIFIER_PROTOCOLS["linear-mae-v1"], epochs=2, warmup_epochs=1, batch_size=9)


def short_trainings():
    """What this process finds of each; an odd batch, and test images that do not divide by two."""
    if distributed.is_initialized():  # Accelerate asks the environment how many processes there are
        rank, processes = str(distributed.get_rank()), str(distributed.get_world_size())
        os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    found = {}
    for name, protocol, encoder in (("linear", short_linear(), "res6"), ("finetune", replace(SHORT, epochs=2), "vit-xs4")):
        training = trained(protocol, to_plain(encoder_named(encoder)), digits(20, 11))
        assert training.session.accelerator.num_processes == (distributed.get_world_size() if distributed.is_initialized() else 1)
        found[name] = {"history": training.history, "network": training.network.state_dict()}
    return found


def test_too_few_images_for_the_processes_are_refused(monkeypatch):
    one = session()
    monkeypatch.setattr(type(one.accelerator), "num_processes", 5)
    with pytest.raises(InputError, match="8 training images are too few for 5 processes"):
        CLASSIFIER_PROTOCOLS["linear-simclr-v1"].measure(encoder_named("res6"), digits(8, 5), one)
