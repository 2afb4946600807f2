"""The kNN classifier, feature extraction, and the preprocessing that is published with the weights."""

import io
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm
from transformers import AutoImageProcessor, ResNetConfig, ResNetModel

from sslzoo.accelerator import make_accelerator
from sslzoo.data.images import Batch, ImageSet
from sslzoo.encoders import build_encoder, encoder_config, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import KNN_PROTOCOLS, Preprocessing, extract, knn, knn_accuracy, make_data, measure, nearest, quiet_session
from sslzoo.evaluation.knn import KNNProtocol


def naive(bank, bank_labels, queries, labels, k, temperature, classes, first):
    """The share of queries whose class is among the `first` with the most votes, one query and one neighbour after the other."""
    right = 0
    for query, label in zip(queries.tolist(), labels.tolist(), strict=True):
        cosines = []
        for row, its_label in zip(bank.tolist(), bank_labels.tolist(), strict=True):
            product = sum(a * b for a, b in zip(query, row, strict=True))
            cosines.append((product / math.hypot(*query) / math.hypot(*row), its_label))
        votes = [0.0] * classes
        for cosine, its_label in sorted(cosines, reverse=True)[:k]:
            votes[its_label] += math.exp(cosine / temperature)
        right += label in sorted((one for one in range(classes) if votes[one]), key=lambda one: -votes[one])[:first]
    return right / len(labels)


def problem(classes, seed=0, count=40, queries=30):
    """Features of very different lengths, so noisy that all settings err, and differently."""
    generator = torch.Generator().manual_seed(seed)
    centres = 0.7 * torch.randn(classes, 4, generator=generator)
    parts = []
    for size in (count, queries):
        labels = torch.randint(classes, (size,), generator=generator)
        rows = centres[labels] + torch.randn(size, 4, generator=generator)
        parts += [rows * torch.rand(size, 1, generator=generator).add(0.05).mul(20), labels]
    return parts


class TestAccuracy:
    @pytest.mark.parametrize("classes", [2, 5, 7])
    def test_equals_a_loop_over_queries_and_neighbours(self, classes):
        bank, bank_labels, queries, labels = problem(classes)
        ks, temperatures = (1, 3, 20, 500), (0.02, 0.07, 0.5)
        accuracy = knn_accuracy(bank, bank_labels, queries, labels, KNNProtocol(ks, temperatures, ""))
        for k in ks:
            for temperature in temperatures:
                top1 = naive(bank, bank_labels, queries, labels, k, temperature, classes, 1)
                assert accuracy["top1", k, temperature] == pytest.approx(top1, abs=1e-6), (k, temperature)
        assert len({value for (metric, *_), value in accuracy.items() if metric == "top1"}) >= 3, "the settings matter"

    @pytest.mark.parametrize("k", [1, 3, 8, 60])
    def test_top5_equals_the_loop(self, k):
        bank, bank_labels, queries, labels = problem(9, count=60)
        accuracy = knn_accuracy(bank, bank_labels, queries, labels, KNNProtocol((k,), (0.07, 0.5), ""))
        for temperature in (0.07, 0.5):
            expected = naive(bank, bank_labels, queries, labels, k, temperature, 9, 5)
            assert accuracy["top5", k, temperature] == pytest.approx(expected, abs=1e-6) and 0 < expected < 1

    def test_a_class_without_a_vote_is_never_among_the_first_five(self):
        """20 neighbours of class 9 in a bank of 20 and of 200; a query of each class."""
        for others in (0, 180):
            bank = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(20, 1), torch.tensor([[-1.0, 0.1]]).repeat(others, 1)])
            bank_labels = torch.cat([torch.full((20,), 9), torch.arange(others) % 9])
            queries, labels = torch.tensor([[1.0, 0.2]]).repeat(10, 1), torch.arange(10)
            accuracy = knn_accuracy(bank, bank_labels, queries, labels, KNNProtocol((20, 500), (0.07,), ""), 10)
            assert accuracy["top1", 20, 0.07] == accuracy["top5", 20, 0.07] == 0.1
            assert accuracy["top5", 500, 0.07] == (0.5 if others else 0.1), "of all 200: class 9, and the lowest four of equal ones"

    def test_a_vote_that_rounds_to_zero_is_a_vote(self):
        """Class 5 has one neighbour, on the other side; exp(-2 / 0.001) is no float32. Classes 0 to 4 have none, class 6 is near."""
        bank, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([6, 5])
        accuracy = knn_accuracy(bank, labels, bank[:1].repeat(3, 1), torch.tensor([6, 5, 0]), KNNProtocol((2,), (0.001,), ""))
        assert accuracy == {("top1", 2, 0.001): pytest.approx(1 / 3), ("top5", 2, 0.001): pytest.approx(2 / 3)}

    def test_votes_are_weighed_by_the_temperature(self):
        """One near neighbour of class 1 against two of class 0 at cosine 0.8: the near one wins only where the temperature is low."""
        bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
        accuracy = knn_accuracy(
            bank, torch.tensor([1, 0, 0]), torch.tensor([[1.0, 0.0]]), torch.tensor([1]), KNNProtocol((3,), (0.1, 0.5), "")
        )
        # e^(1 / T) against 2 e^(0.8 / T): 0.2 / T against ln 2
        assert accuracy == {("top1", 3, 0.1): 1.0, ("top1", 3, 0.5): 0.0}

    def test_low_temperature_does_not_overflow(self):
        bank, bank_labels, queries, labels = problem(3)
        accuracy = knn_accuracy(bank, bank_labels, queries, labels, KNNProtocol((1, 20), (1e-4,), ""))
        assert accuracy["top1", 20, 1e-4] == accuracy["top1", 1, 1e-4] > 0.3

    def test_top5_is_there_from_six_classes_on(self):
        for classes, there in ((5, False), (6, True)):
            rows, labels = torch.randn(12, 3), torch.arange(12) % classes
            accuracy = knn_accuracy(rows, labels, rows, labels, KNNProtocol((1,), (0.1,), ""))
            assert accuracy["top1", 1, 0.1] == 1.0 and (("top5", 1, 0.1) in accuracy) == there

    def test_one_class_is_always_right(self):
        rows, labels = torch.randn(8, 3), torch.zeros(8, dtype=torch.int64)
        assert knn_accuracy(rows, labels, rows, labels, KNNProtocol((1, 20), (0.1,), "")) == {("top1", 1, 0.1): 1.0, ("top1", 20, 0.1): 1.0}

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_constant_features_know_no_more_than_the_largest_class(self, value):
        labels = torch.tensor([0, 1, 1, 2, 1, 0])
        bank, queries, protocol = torch.full((6, 3), value), torch.full((4, 3), value), KNNProtocol((9,), (0.1,), "")
        accuracy = knn_accuracy(bank, labels, queries, torch.tensor([0, 1, 2, 1]), protocol)
        assert accuracy["top1", 9, 0.1] == 0.5

    def test_votes_of_many_queries_are_counted_in_parts(self, monkeypatch):
        bank, bank_labels, queries, labels = problem(7)
        expected = knn_accuracy(bank, bank_labels, queries, labels, KNNProtocol((1, 20), (0.1,), ""))
        monkeypatch.setattr("sslzoo.evaluation.knn._VOTING_QUERIES", 7)
        assert knn_accuracy(bank, bank_labels, queries, labels, KNNProtocol((1, 20), (0.1,), "")) == expected
        assert 0 < expected["top1", 20, 0.1] < expected["top5", 20, 0.1]

    def test_top5_depends_on_the_given_number_of_classes(self):
        rows, labels = torch.randn(12, 3), torch.arange(12) % 2
        assert ("top5", 1, 0.1) in knn_accuracy(rows, labels, rows, labels, KNNProtocol((1,), (0.1,), ""), 10)

    def test_classes_of_the_queries_that_the_bank_lacks_are_wrong(self):
        bank, queries = torch.eye(3), torch.eye(3)
        accuracy = knn_accuracy(bank, torch.tensor([0, 0, 1]), queries, torch.tensor([0, 4, 1]), KNNProtocol((1,), (0.1,), ""))
        assert accuracy["top1", 1, 0.1] == pytest.approx(2 / 3)

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_features_that_are_not_finite_are_refused(self, broken, split):
        bank, labels = torch.randn(4, 2), torch.arange(4)
        queries = bank.clone()
        (bank if split == "train" else queries)[2, 1] = broken
        with pytest.raises(InputError, match=f"features of the {split} images"):
            knn_accuracy(bank, labels, queries, labels, KNNProtocol((1,), (0.1,), ""))

    def test_the_protocol_is_instdiscs(self):
        protocol = KNN_PROTOCOLS["knn-instdisc-v2"]
        assert 200 in protocol.k and 20 in protocol.k and {0.07, 0.1} <= set(protocol.temperature)


class TestNearest:
    @pytest.mark.parametrize("k", [1, 4, 90, 200, 300])
    def test_in_chunks_of_any_size_gives_cosines_and_rows_in_order(self, k):
        bank, _, queries, _ = problem(3, count=200)
        expected = torch.nn.functional.cosine_similarity(queries[:, None].double(), bank.double(), dim=2)
        best = expected.argsort(dim=1, descending=True)[:, :k]
        for chunk in (1, 2, 7, 1024):  # against 64, 128, 448 ... rows at a time
            cosines, rows = nearest(queries, bank, k, chunk)
            assert cosines.shape == rows.shape == (30, min(k, 200)) and cosines.dtype == torch.float32
            assert torch.equal(rows, best)
            torch.testing.assert_close(cosines.double(), expected.gather(1, best), rtol=0, atol=1e-6)

    def test_finds_the_nearest_wherever_they_stand(self):
        """All in one block of neighbouring rows, or at a regular distance from each other, and behind rows that all look away."""
        generator = torch.Generator().manual_seed(0)
        query = torch.nn.functional.normalize(torch.randn(1, 8, generator=generator), dim=1)
        for step in (1, 16, 17, 64, 128):
            bank = -query + 0.1 * torch.randn(3000, 8, generator=generator)
            places = torch.arange(20) * step + 11
            bank[places] = query + 0.1 * torch.randn(20, 8, generator=generator)
            _, rows = nearest(query, bank, 20)
            assert sorted(rows[0].tolist()) == places.tolist(), step

    def test_is_true_float32_whatever_is_allowed_and_leaves_that_as_it_was(self, monkeypatch):
        product, seen = torch.mm, []

        def settings():
            return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision

        def watched(*arguments, **named):
            seen.append(settings())
            if len(seen) == 2:
                raise ZeroDivisionError
            return product(*arguments, **named)

        monkeypatch.setattr(torch, "mm", watched)
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("medium")
            allowed = settings()
            assert "bf16" in allowed and "ieee" not in allowed
            with torch.autocast("cpu", torch.bfloat16):
                cosines, _ = nearest(torch.tensor([[1.0, 1 / 512]]), torch.eye(2), 1)
            assert abs(float(cosines) - 0.99999809) < 1e-7 and settings() == allowed
            with pytest.raises(ZeroDivisionError):
                nearest(torch.eye(2), torch.eye(2), 1)
            assert settings() == allowed and seen == [("ieee", "ieee")] * 2
        finally:
            torch.set_float32_matmul_precision(before)

    def test_no_more_cosines_than_of_one_chunk_are_in_memory(self):
        shapes = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, arguments=(), named=None):
                found = function(*arguments, **(named or {}))
                shapes.extend(one.numel() for one in (found if isinstance(found, (tuple, list)) else [found]) if torch.is_tensor(one))
                return found

        queries, bank = torch.randn(300, 4), torch.randn(5000, 4)
        with Watch():
            nearest(queries, bank, 2, chunk=8)
        assert max(shapes) <= 5000 * 4 < 300 * 5000


class Pictures(ImageSet):
    """`count` images of random colours and two sizes; the sixth and so on repeat."""

    source, split, label_names, fingerprint, resident, skipped = "pictures", "test", None, "0" * 64, True, []

    def __init__(self, count, labelled=True):
        generator = torch.Generator().manual_seed(3)
        self.pixels = torch.randint(0, 256, (count, 3, 20, 24), dtype=torch.uint8, generator=generator)
        self.sizes = torch.tensor([[20, 24], [18, 16]]).repeat(count, 1)[:count]
        self.labels = torch.arange(count) * 10 if labelled else None

    def __len__(self):
        return len(self.pixels)

    def name(self, position):
        return f"row {position}"

    def batches(self, order):
        for positions in order:
            labels = None if self.labels is None else self.labels[positions]
            yield Batch(self.pixels[positions], self.sizes[positions], positions, labels)


def small_encoder():
    torch.manual_seed(5)
    return build_encoder(encoder_config("res6", 16))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations have made and that are still held, and the most of them at once."""

    def __init__(self):
        super().__init__()
        self.held, self.most = {}, 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        out = operation(*arguments, **(named or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.held[StorageWeakRef(storage)] = storage.nbytes()
        self.held = {reference: size for reference, size in self.held.items() if not reference.expired()}
        self.most = max(self.most, sum(self.held.values()))
        return out


class WideEncoder(torch.nn.Module):
    """Features of 65,536 numbers, next to which the images are small."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, 65_536))
        self.config = SimpleNamespace(hidden_size=65_536, model_type="wide")

    def forward(self, pixel_values):
        return SimpleNamespace(pooler_output=pixel_values.mean(dim=(1, 2, 3), keepdim=True)[..., 0] * self.weight, last_hidden_state=None)


def peak_of_wide_features():
    """The most bytes held while features of 40 images are made in batches of two, as a multiple of all features' bytes."""
    with LiveBytes() as live:
        found, _ = extract(WideEncoder(), Pictures(40), Preprocessing(16, 16), batch_size=2)
    return live.most / (40 * 65_536 * 4), found[:, 0].clone()


def features_of_five(batch_size=2):
    return extract(small_encoder(), Pictures(5), Preprocessing(16, 16), batch_size=batch_size)


class TestExtract:
    def test_keeps_the_order_whatever_the_batches(self):
        expected, labels = features_of_five(batch_size=100)
        assert expected.shape == (5, 64) and expected.dtype == torch.float32 and labels.tolist() == [0, 10, 20, 30, 40]
        for batch_size in (1, 2, 5):
            rows, labels = features_of_five(batch_size)
            torch.testing.assert_close(rows, expected)
            assert labels.tolist() == [0, 10, 20, 30, 40]
        assert (expected[:, None] - expected).abs().amax(dim=2).add(torch.eye(5)).min() > 1e-4, "every image has other features"

    @pytest.mark.parametrize("training", [True, False])
    def test_is_made_in_evaluation_mode_and_leaves_the_encoder_as_it_was(self, training):
        encoder = small_encoder().train(training)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        rows, _ = extract(encoder, Pictures(4), Preprocessing(16, 16))
        alone, _ = extract(encoder, Pictures(4), Preprocessing(16, 16), batch_size=1)
        torch.testing.assert_close(rows, alone)
        assert encoder.training is training and all(module.training is training for module in encoder.modules())
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items()) and not rows.requires_grad

    def test_restores_the_mode_after_an_error_too(self):
        encoder = small_encoder().train()
        with pytest.raises(ZeroDivisionError):
            extract(encoder, Pictures(2), Preprocessing(16, 16), done=lambda count: 1 / 0)
        assert encoder.training

    def test_holds_all_features_once(self):
        peak, _ = peak_of_wide_features()
        assert 1 <= peak < 1.25, "one buffer and the numbers of a batch"

    @pytest.mark.parametrize(
        "side, threads, expected", [(16, 1, [128, 72]), (96, 1, [16] * 12 + [8]), (96, 8, [28] * 7 + [4]), (16, 9, [200])]
    )
    def test_a_cpu_takes_fewer_large_images_at_once(self, monkeypatch, side, threads, expected):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        done = []
        extract(WideEncoder(), Pictures(200), Preprocessing(side, side), done=done.append)
        assert done == expected

    def test_tells_how_many_are_done_and_does_without_labels(self):
        done = []
        _, labels = extract(small_encoder(), Pictures(5, labelled=False), Preprocessing(16, 16), batch_size=2, done=done.append)
        assert labels is None and done == [2, 2, 1]


def session():
    return quiet_session(make_accelerator("fp32", cpu=True), 0)


class TestMeasure:
    def test_numbers_of_all_settings_come_with_a_bar_that_gets_full(self):
        train, test = Pictures(6), Pictures(4)
        data = make_data(train, test, Preprocessing(18, 16))
        bar = tqdm(file=io.StringIO())
        numbers = KNN_PROTOCOLS["knn-instdisc-v2"].measure(small_encoder(), data, session()._replace(bar=bar))
        assert (bar.n, bar.total) == (10, 10)
        for metric in ("knn_top1", "knn_top5"):  # the largest label is 50
            settings = {(number.arguments["k"], number.arguments["temperature"]) for number in numbers if number.metric == metric}
            assert settings == {(20, 0.1), (20, 0.07), (200, 0.1), (200, 0.07)}
        assert {number.value for number in numbers} == {1.0}, "the test images are among those of the bank"
        assert len(numbers) == 8

    def test_features_in_half_precision_are_searched_in_float32(self, monkeypatch):
        searched = []
        monkeypatch.setattr(knn, "knn_accuracy", lambda bank, labels, queries, *rest: searched.append((bank, queries)) or {})
        data, encoder = make_data(Pictures(6), Pictures(4), Preprocessing(16, 16)), small_encoder().train()
        for name in ("knn-instdisc-v2", "knn-instdisc-bf16-v2"):
            accelerator = make_accelerator("bf16", cpu=True)
            assert KNN_PROTOCOLS[name].precision_on(accelerator) == ("bf16" if "bf16" in name else "fp32")
            KNN_PROTOCOLS[name].measure(encoder, data, quiet_session(accelerator, 0))
        whole, half = searched
        with torch.autocast("cpu", torch.bfloat16):
            expected = [extract(encoder, images, data.preprocessing)[0] for images in (data.train, data.test)]
        for full, found, by_hand in zip(whole, half, expected, strict=True):
            assert found.dtype == torch.float32 and torch.equal(found, by_hand) and not torch.equal(found, full)
            torch.testing.assert_close(found, full, rtol=0.05, atol=0.05)

    def test_labels_of_the_test_split_are_read_by_the_names_of_the_classes(self):
        train, test = Pictures(6), Pictures(6)
        train.labels, train.label_names = torch.tensor([0, 1, 2, 0, 1, 2]), ["bird", "cat", "dog", "eel", "fox", "gnu"]
        test.labels, test.label_names = torch.tensor([2, 0, 1, 2, 0, 1]), ["cat", "dog", "bird"]
        protocol = KNNProtocol((1,), (0.1,), "")
        numbers = protocol.measure(small_encoder(), make_data(train, test, Preprocessing(16, 16)), session())
        assert [(number.metric, number.value) for number in numbers] == [("knn_top1", 1.0), ("knn_top5", 1.0)]

    def test_numbers_say_how_they_were_measured(self):
        data = make_data(Pictures(6), Pictures(4), Preprocessing(18, 16))
        numbers = measure(small_encoder(), data, "knn-instdisc-v2", session())
        for number in numbers:
            assert number["protocol"] == "knn-instdisc-v2" and number["dataset"] == "pictures" and number["split"] == "test"
        assert len(numbers) == 8 and json.loads(json.dumps(numbers)) == numbers

    def test_an_unknown_protocol_is_answered_with_the_nearest(self):
        with pytest.raises(InputError, match="knn-instdisc-v2"):
            measure(small_encoder(), make_data(Pictures(2), Pictures(2), Preprocessing(16, 16)), "knn-instdisc", session())


def smooth_image(height=41, width=57):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([128 + 120 * np.sin(rows / 7 + channel) * np.cos(columns / 9) for channel in range(3)], axis=2).round().astype(np.uint8)


class TestPreprocessing:
    @pytest.mark.parametrize(
        "preprocessing",
        [Preprocessing(32, 24), Preprocessing(16, 16, "bicubic"), Preprocessing(32, 24, "bilinear", (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))],
    )
    def test_comes_back_from_its_file_and_agrees_with_transformers(self, preprocessing, tmp_path):
        preprocessing.write(tmp_path)
        assert Preprocessing.read(tmp_path) == preprocessing
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        image = smooth_image()
        theirs = torch.as_tensor(np.asarray(processor(Image.fromarray(image), return_tensors="np")["pixel_values"]))
        pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        pixels[0, :, :41, :57] = torch.from_numpy(image).permute(2, 0, 1)
        ours = preprocessing(pixels, torch.tensor([[41, 57]]))
        assert ours.shape == theirs.shape == (1, 3, preprocessing.crop, preprocessing.crop)
        grey_levels = (ours - theirs).abs() * 255 * torch.tensor(preprocessing.std).view(3, 1, 1)
        assert grey_levels.max() < 1.1, "about one grey level, for transformers rounds the resized image"

    def test_grey_images_go_through_the_pipeline(self, tmp_path):
        from transformers import pipeline

        Preprocessing(16, 16).write(tmp_path)
        encoder = to_plain(small_encoder())
        encoder.save_pretrained(tmp_path)
        extractor = pipeline("image-feature-extraction", model=str(tmp_path), image_processor=str(tmp_path), pool=True, device="cpu")
        image = smooth_image()[:, :, 0]
        found = torch.tensor(extractor(Image.fromarray(image))).flatten()
        pixels = torch.from_numpy(image).expand(1, 3, -1, -1)
        with torch.no_grad():
            ours = encoder(Preprocessing(16, 16)(pixels, torch.tensor([[41, 57]]))).pooler_output.flatten()
        assert torch.nn.functional.cosine_similarity(found, ours, dim=0) > 0.999

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"size": 224, "resample": 3, "do_center_crop": False}, Preprocessing(224, 224, "bicubic", squash=True)),
            ({"size": {"height": 384, "width": 384}, "resample": 2}, Preprocessing(384, 384, squash=True)),
            ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True, "resample": 3}, Preprocessing(256, 224, "bicubic")),
            ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}, Preprocessing(256, 224)),
        ],
    )
    def test_reads_what_transformers_own_models_have(self, values, expected, tmp_path):
        statistics = {"image_mean": list(expected.mean), "image_std": list(expected.std)}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**values, **statistics}))
        assert Preprocessing.read(tmp_path) == expected

    @pytest.mark.parametrize(
        "text", [None, "", "[]", "{}", '{"size": {}}', '{"size": 8, "resample": 9, "image_mean": [0], "image_std": [1]}'], ids=str
    )
    def test_file_that_tells_nothing_is_named(self, text, tmp_path):
        if text is not None:
            (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(InputError, match="preprocessor_config.json") as caught:
            Preprocessing.read(tmp_path)
        assert str(caught.value).isprintable()


def test_encoders_of_others_give_features_too():
    torch.manual_seed(0)
    encoder = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    rows, _ = extract(encoder, Pictures(3), Preprocessing(20, 20))
    assert rows.shape == (3, 16)
