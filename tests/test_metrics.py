"""Counts of right images, and accuracy from them."""

import math

import evaluate
import pytest
import torch

from sslzoo.errors import InputError
from sslzoo.evaluation.accuracy_metric import TopAccuracy
from sslzoo.evaluation.metrics import accuracy, top_counts


class TestTopAccuracy:
    def test_is_the_share_over_all_parts_however_large_they_are(self):
        metric = TopAccuracy()
        assert isinstance(metric, evaluate.Metric)
        assert metric.compute(correct=[1, 90], images=[10, 90]) == {"accuracy": 0.91}
        assert metric.compute(correct=[0], images=[3]) == {"accuracy": 0.0}, "nothing is left from before"

    def test_parts_can_be_added_one_by_one(self):
        metric = TopAccuracy()
        metric.add(correct=1, images=4)
        metric.add_batch(correct=[2, 0], images=[2, 0])
        assert metric.compute() == {"accuracy": 0.5}

    @pytest.mark.parametrize("counts", [[], [0]])
    def test_no_images_are_an_error(self, counts):
        with pytest.raises(InputError, match="no images"):
            TopAccuracy().compute(correct=counts, images=counts)

    def test_leaves_no_file_and_no_folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
        monkeypatch.chdir(tmp_path)
        assert TopAccuracy().compute(correct=[1], images=[2]) == {"accuracy": 0.5}
        assert list(tmp_path.iterdir()) == []


def test_accuracy_is_what_the_metric_computes():
    assert accuracy([1, 90], [10, 90]) == TopAccuracy().compute(correct=[1, 90], images=[10, 90])["accuracy"] == 0.91
    with pytest.raises(InputError, match="no images"):
        accuracy([], [])


class TestTopCounts:
    def test_counts_the_first_and_the_first_five(self):
        scores = torch.arange(7.0).repeat(7, 1)  # class 6 first, class 0 last
        assert top_counts(scores, torch.arange(7)) == {"top1": 1, "top5": 5}

    def test_below_six_classes_there_is_no_top5(self):
        assert top_counts(torch.eye(5), torch.arange(5)) == {"top1": 5}
        assert top_counts(torch.eye(6), torch.arange(6)) == {"top1": 6, "top5": 6}

    def test_of_equal_scores_the_lower_label_is_first(self):
        assert top_counts(torch.zeros(3, 3), torch.tensor([0, 1, 2])) == {"top1": 1}
        assert top_counts(torch.zeros(7, 7), torch.arange(7)) == {"top1": 1, "top5": 5}
        assert [top_counts(torch.zeros(1, 3), torch.tensor([label]))["top1"] for label in range(3)] == [1, 0, 0]
        assert [top_counts(torch.zeros(1, 7), torch.tensor([label]))["top5"] for label in range(7)] == [1, 1, 1, 1, 1, 0, 0]

    def test_one_class_is_always_right(self):
        assert top_counts(torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)) == {"top1": 4}

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    def test_scores_that_are_not_finite_are_refused(self, broken):
        scores = torch.eye(3)
        scores[1, 2] = broken
        with pytest.raises(InputError, match="not finite"):
            top_counts(scores, torch.arange(3))
