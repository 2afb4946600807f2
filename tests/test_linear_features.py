"""The fast linear protocol: a grid of classifiers on stored features."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from sslzoo.accelerator import make_accelerator
from sslzoo.data.images import Batch, ImageSet
from sslzoo.encoders import build_encoder, encoder_config
from sslzoo.errors import InputError
from sslzoo.evaluation import Classes, Data, Preprocessing, Session, linear_features
from sslzoo.evaluation.linear_features import FEATURE_PROTOCOLS, FeatureLinearProtocol, Setting

SMALL = FeatureLinearProtocol(
    learning_rates=(0.003, 0.3), weight_decays=(0.0, 0.01), momentum=0.9, epochs=3, batch_size=8, holdout=0.1, tolerance=0.0,
    precision="fp32",
)  # fmt: skip


def problem(count=40, width=5, classes=3, spread=1.0, seed=0):
    """Features float64 whose dimensions differ in mean and scale, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    features = centres[labels] + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return features * torch.logspace(-2, 2, width, dtype=torch.float64) + torch.arange(width), labels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fit(protocol, features, labels, settings, classes=3):
    return protocol.fit(features, labels, torch.arange(len(labels)), classes, settings, seeded())


def alone(protocol, features, labels, setting, classes):
    """torch's own layer, loss, gradients and optimiser, for one setting."""
    inputs = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    layer = torch.nn.Linear(features.shape[1], classes, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=protocol.momentum, weight_decay=setting.weight_decay)
    generator, steps = seeded(), len(labels) // protocol.batch_size
    for epoch in range(protocol.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for index in range(steps):
            through = (epoch * steps + index) / (protocol.epochs * steps - 1)
            optimizer.param_groups[0]["lr"] = setting.lr * (1 + math.cos(math.pi * through)) / 2
            batch = order[index * protocol.batch_size :][: protocol.batch_size]
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return torch.cat((layer.weight.T, layer.bias[None])).detach()


class TestFit:
    def test_together_equals_torchs_own_training_of_each_setting(self):
        features, labels = problem(count=43)
        settings = [Setting(0.01, 0.0), Setting(0.3, 0.0), Setting(0.3, 0.1), Setting(2.0, 1e-3)]
        together = fit(SMALL, features, labels, settings)
        assert together.weights.shape == (6, 4, 3) and together.weights.dtype == torch.float64
        for index, setting in enumerate(settings):
            torch.testing.assert_close(together.weights[:, index], alone(SMALL, features, labels, setting, 3), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(together.weights[:, index], fit(SMALL, features, labels, [setting]).weights[:, 0])

    def test_setting_that_diverges_leaves_the_others_alone(self):
        features, labels = problem()
        settings = [Setting(0.1, 0.0), Setting(1e200, 1e200), Setting(0.3, 0.01)]
        classifiers = fit(SMALL, features, labels, settings)
        assert classifiers.finite().tolist() == [True, False, True]
        torch.testing.assert_close(classifiers.weights[:, ::2], fit(SMALL, features, labels, settings[::2]).weights)

    def test_reaches_the_optimum_that_sklearn_finds(self):
        features, labels = problem(count=600, spread=1.5)
        others, their_labels = problem(count=400, spread=1.5, seed=1)
        theirs = LogisticRegression(C=1e6, max_iter=1000).fit((features - features.mean(0)) / features.std(0), labels)
        expected = theirs.score((others - features.mean(0)) / features.std(0), their_labels)
        protocol = replace(FEATURE_PROTOCOLS["linear-features-v1"], batch_size=64)
        setting = protocol.select(features, labels, 3, seed=0)
        scores = fit(protocol, features, labels, [setting]).logits(others)[:, 0]
        assert 0.6 < expected < 0.95, "an easier or harder problem shows nothing"
        assert float((scores.argmax(dim=1) == their_labels).double().mean()) == pytest.approx(expected, abs=0.015)
        loss = F.cross_entropy(fit(protocol, features, labels, [Setting(0.1, 0.0)]).logits(features)[:, 0], labels)
        probabilities = torch.from_numpy(theirs.predict_proba((features - features.mean(0)) / features.std(0)))
        assert float(loss) == pytest.approx(float(F.nll_loss(probabilities.log(), labels)), abs=0.003)

    def test_units_of_the_dimensions_do_not_matter(self):
        features, labels = problem()
        once, again = (fit(SMALL, rows, labels, SMALL.settings) for rows in (features, features * torch.logspace(-1, 4, 5) - 2))
        torch.testing.assert_close(once.weights, again.weights)

    def test_constant_dimensions_count_as_nothing_even_where_rounding_stirs_them(self):
        features, labels = problem()
        features = features.float()
        constants = torch.tensor([0.0, 3.0, 1e6]).repeat(len(features), 1)
        stirred = torch.cat((features, constants * (1 + 1e-7 * torch.randn(len(features), 3, generator=seeded()))), dim=1)
        weights = fit(SMALL, stirred, labels, SMALL.settings).weights
        assert torch.isfinite(weights).all() and weights[5:8].abs().max() < 1e-6
        torch.testing.assert_close(weights[:5], fit(SMALL, features, labels, SMALL.settings).weights[:5])

    def test_nothing_is_read_from_the_device(self):
        """On `meta` tensors, which hold no values."""
        features, labels = torch.empty(40, 5, device="meta"), torch.empty(40, dtype=torch.int64, device="meta")
        assert fit(SMALL, features, labels, SMALL.settings).weights.shape == (6, 4, 3)


class Recording(FeatureLinearProtocol):
    """Keeps what its classifiers were trained on."""

    def fit(self, features, labels, rows, classes, settings, generator, done=lambda count: None):
        EVENTS.append((len(settings), rows, generator.initial_seed()))
        return super().fit(features, labels, rows, classes, settings, generator, done)


EVENTS = []


@pytest.fixture
def recording():
    EVENTS.clear()
    return Recording(**vars(SMALL))


class TestChoice:
    @pytest.mark.parametrize("count", [2, 9, 40])
    def test_trains_on_nine_tenths_and_keeps_at_least_one_image(self, recording, count):
        features, labels = problem(count=count)
        done = []
        recording.select(features, labels, 3, seed=0, done=done.append)
        rows = EVENTS[0][1].tolist()
        assert EVENTS[0][0] == 4 and len(rows) == len(set(rows)) == {2: 1, 9: 8, 40: 36}[count] and set(rows) < set(range(count))
        assert sum(done) == count

    def test_images_held_out_do_not_move_what_is_trained(self, recording):
        features, labels = problem()
        recording.select(features, labels, 3, seed=0)
        kept = EVENTS[0][1]
        others = torch.full_like(features, 1e3).index_copy(0, kept, features[kept])
        once, again = (SMALL.fit(rows, labels, kept, 3, SMALL.settings, seeded()) for rows in (features, others))
        assert torch.equal(once.weights, again.weights) and torch.equal(once.scale, again.scale)

    def test_depends_on_the_seed_alone(self, recording):
        features, labels = problem()
        for seed in (0, 0, 1):
            recording.select(features, labels, 3, seed)
        assert torch.equal(EVENTS[0][1], EVENTS[1][1]) and set(EVENTS[0][1].tolist()) != set(EVENTS[2][1].tolist())

    def test_is_made_with_the_sessions_seed(self, recording, monkeypatch):
        features, labels = problem()
        embedded(monkeypatch, features.float(), features.float())
        chosen_on, trained_in = [], []
        for seed in (3, 4):
            EVENTS.clear()
            recording.measure(None, data_of(labels, labels), session(seed=seed))
            recording.select(features, labels, 3, seed)
            assert torch.equal(EVENTS[1][1], EVENTS[-1][1]), "as `select` draws with this seed"
            chosen_on.append(set(EVENTS[1][1].tolist()))
            trained_in.append(EVENTS[2][2])
        assert chosen_on[0] != chosen_on[1] and trained_in == [3, 4]

    def test_is_what_is_right_on_the_images_held_out_not_on_those_trained_on(self, recording):
        """With the learning rate 0 a classifier always says class 0, which only the images held out have."""
        protocol = replace(recording, learning_rates=(0.0, 0.3), weight_decays=(0.0,))
        features, labels = problem()
        protocol.select(features, labels, 3, seed=0)
        assert protocol.select(features, torch.zeros(40, dtype=torch.int64).index_fill(0, EVENTS[0][1], 1), 3, seed=0).lr == 0.0
        assert protocol.select(features, torch.ones(40, dtype=torch.int64), 3, seed=0).lr == 0.3

    def test_is_the_surest_among_those_that_are_right_as_often(self):
        features, labels = problem(spread=0.01)
        for rates in ((1e-5, 0.1), (0.1, 1e-5)):
            assert replace(SMALL, learning_rates=rates, weight_decays=(0.0,)).select(features, labels, 3, seed=0).lr == 0.1

    def test_is_none_that_diverges(self):
        """What is not a number is the largest to argmax, so that such a classifier says class 0, which is right here."""
        features, labels = problem()
        zeros = torch.zeros_like(labels)
        for rates in ((math.inf, 0.01), (0.01, math.inf)):
            assert replace(SMALL, learning_rates=rates, weight_decays=(0.0,)).select(features, zeros, 3, seed=0) == (0.01, 0.0)
        with pytest.raises(InputError, match="diverge at every learning rate"):
            replace(SMALL, learning_rates=(math.inf,)).select(features, labels, 3, seed=0)


class Colours(ImageSet):
    """Images of one colour for each class, with noise."""

    source, label_names, fingerprint, resident, skipped = "colours", None, "0" * 64, True, []

    def __init__(self, split, labels):
        self.split, self.labels = split, torch.as_tensor(labels)
        generator = torch.Generator().manual_seed(len(labels))
        colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [40, 200, 200], [200, 40, 200]])
        noise = torch.randint(0, 40, (len(labels), 3, 16, 16), generator=generator)
        self.pixels = (colours[self.labels % 6, :, None, None] + noise).to(torch.uint8)

    def __len__(self):
        return len(self.labels)

    def name(self, position):
        return f"row {position}"

    def batches(self, order):
        for rows in order:
            yield Batch(self.pixels[rows], torch.full((len(rows), 2), 16), rows, self.labels[rows])


def data_of(labels, test_labels, classes=3, of_test=None):
    of_test = torch.arange(classes) if of_test is None else torch.tensor(of_test)
    return Data(Colours("train", labels), Colours("test", test_labels), Classes(classes, of_test), Preprocessing(16, 16))


def session(state=None, seed=0):
    return Session(make_accelerator("fp32", cpu=True), seed, tqdm(disable=True), state)


def embedded(monkeypatch, train, test, fail=None):
    """Instead of the encoder's, these features; returns the list of what was embedded."""

    def extract(encoder, images, preprocessing, batch_size=256, done=lambda count: None):
        EVENTS.append(images.split)
        if images.split == fail:
            raise KeyboardInterrupt
        features = train if images.split == "train" else test
        done(len(features))
        return features.clone(), images.labels.clone()

    EVENTS.clear()
    monkeypatch.setattr(linear_features, "extract", extract)


class TestMeasure:
    @pytest.fixture(scope="class")
    def encoder(self):
        torch.manual_seed(5)
        return build_encoder(encoder_config("res6", 16))

    def test_of_an_encoder_that_tells_colours_apart(self, encoder):
        """Six classes, of which the test split counts the labels the other way round."""
        before = copy.deepcopy(encoder.state_dict())
        data = data_of(list(range(6)) * 10, [0, 0, 1, 5, 3], 6, of_test=[0, 1, 2, 3, 4, 5])
        found = SMALL.measure(encoder.train(), data, session())
        assert [number.metric for number in found] == ["linear_top1", "linear_top5"] and [number.value for number in found] == [1.0, 1.0]
        assert set(found[0].arguments) == {"selected_lr", "selected_weight_decay"} and found[0].arguments["selected_lr"] in (0.003, 0.3)
        wrong = SMALL.measure(encoder, data._replace(classes=Classes(6, torch.tensor([1, 2, 3, 4, 5, 0]))), session())
        assert wrong[0].value == 0.0, "the test split's labels mean what `of_test` says"
        assert encoder.training and all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())

    def test_the_test_images_are_embedded_once_and_after_all_training(self, monkeypatch, recording):
        features, labels = problem()
        embedded(monkeypatch, features.float(), features[:7].float())
        bar = tqdm(disable=False, file=open("/dev/null", "w"))  # noqa: SIM115
        recording.measure(None, data_of(labels, labels[:7]), session()._replace(bar=bar))
        assert [event if isinstance(event, str) else event[0] for event in EVENTS] == ["train", 4, 1, "test"]
        assert EVENTS[2][1].tolist() == list(range(40)), "the second training is on all training images"
        assert bar.n == bar.total == 3 * 40 + 7

    def test_the_choice_does_not_know_the_test_images(self, monkeypatch):
        """Their labels are such that the learning rate 0, which always says class 0, would be right, and every other wrong."""
        features = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
        embedded(monkeypatch, features, torch.ones(6, 1))
        protocol = replace(SMALL, learning_rates=(0.0, 0.3))
        (found,) = protocol.measure(None, data_of([0, 1] * 20, [0] * 6, 2), session())
        assert found.arguments["selected_lr"] == 0.3 and found.value == 0.0
        embedded(monkeypatch, features, torch.tensor([[1.0], [1.0], [-1.0], [1.0]]))
        (found,) = protocol.measure(None, data_of([0, 1] * 20, [0, 1, 0, 1], 2), session())
        assert found.value == 0.75

    def test_goes_on_with_the_features_of_a_measurement_that_was_stopped(self, monkeypatch, tmp_path):
        features, labels = problem(spread=2.0)
        features, data = features.float(), data_of(labels, labels)
        embedded(monkeypatch, features, features)
        expected = SMALL.measure(None, data, session())
        embedded(monkeypatch, features, features, fail="test")
        with pytest.raises(KeyboardInterrupt):
            SMALL.measure(None, data, session(tmp_path))
        assert EVENTS == ["train", "test"] and len(list(tmp_path.iterdir())) == 1
        embedded(monkeypatch, None, features)
        bar = tqdm(disable=False, file=open("/dev/null", "w"))  # noqa: SIM115
        assert SMALL.measure(None, data, session(tmp_path)._replace(bar=bar)) == expected
        assert EVENTS == ["test"] and bar.n == bar.total and not list(tmp_path.iterdir()), "nothing is left once there is a number"

    def test_embeds_again_what_was_stored_and_is_damaged(self, monkeypatch, tmp_path, caplog):
        features, labels = problem()
        embedded(monkeypatch, features.float(), features.float(), fail="test")
        with pytest.raises(KeyboardInterrupt):
            SMALL.measure(None, data_of(labels, labels), session(tmp_path))
        (stored,) = tmp_path.iterdir()
        stored.write_bytes(stored.read_bytes()[:-100])
        embedded(monkeypatch, features.float(), features.float())
        SMALL.measure(None, data_of(labels, labels), session(tmp_path))
        assert EVENTS == ["train", "test"] and str(stored) in caplog.text

    @pytest.mark.parametrize(
        ("labels", "features", "queries", "answers"),
        [
            pytest.param([0, 1], [-1, 1], [-2, 2], [0, 1], id="two images: one to train on, one to choose on, then both"),
            pytest.param([1, 1, 1, 1], [-1, 1, 2, 3], [0, 9], [1, 1], id="one class"),
            pytest.param([1, 0, 1, 1], [2, 2, 2, 2], [2, 7], [1, 1], id="features that are all alike: the commonest class"),
            pytest.param([1, 1, 1, 2], [0, 0, 0, 5], [0, 0], [1, 1], id="a class of one image"),
        ],
    )
    def test_small_and_degenerate_sets_have_defined_values(self, monkeypatch, labels, features, queries, answers):
        embedded(monkeypatch, torch.tensor(features).float()[:, None], torch.tensor(queries).float()[:, None])
        for seed in range(4):
            (found,) = SMALL.measure(None, data_of(labels, answers), session(seed=seed))
            assert found.value == 1.0

    def test_refuses_what_it_cannot_learn_from(self, monkeypatch):
        features, labels = problem()
        embedded(monkeypatch, features.float(), features.float())
        with pytest.raises(InputError, match=r"colours \(train\) has one image"):
            SMALL.measure(None, data_of([0], [0]), session())
        for split in ("train", "test"):
            for value in (math.nan, math.inf, -math.inf):
                broken = features.float().index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(value))
                rows = (broken, features.float()) if split == "train" else (features.float(), broken)
                embedded(monkeypatch, *rows)
                with pytest.raises(InputError, match=f"features of the {split} images are not finite"):
                    SMALL.measure(None, data_of(labels, labels), session())

    def test_the_protocol_spans_what_encoders_need(self):
        protocol = FEATURE_PROTOCOLS["linear-features-v1"]
        assert protocol.precision == "fp32" and protocol.holdout == 0.1 and len(set(protocol.settings)) == 40
        assert min(protocol.learning_rates) < 0.001 and max(protocol.learning_rates) >= 10 and 0.0 in protocol.weight_decays
