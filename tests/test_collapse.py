"""Collapse metrics and the warning, on made-up features and in a run."""

import math

import pytest
import torch
from small_digits import small_digits

from sslzoo.errors import StoppedError
from sslzoo.evaluation import collapse_metrics, collapse_warning
from sslzoo.recipe import read_recipe
from sslzoo.stopping import TimeLimit
from sslzoo.training import logs, train

SHORT = {"dataset": small_digits(), "epochs": 1, "batch_size": 16, "test_split": None}  # 5 steps


def metrics(features):
    return {name: value.item() for name, value in collapse_metrics(features).items()}


def test_features_uniform_on_the_sphere_have_std_1_and_full_rank():
    features = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    found = metrics(features)
    assert found["feature_std"] == pytest.approx(1, abs=0.02) and found["feature_rank"] == pytest.approx(32, rel=0.02)
    assert collapse_warning(found, found) is None


def test_rank_is_the_exponential_of_the_entropy_of_the_singular_values():
    left = torch.linalg.qr(torch.randn(20, 6, generator=torch.Generator().manual_seed(0))).Q
    right = torch.linalg.qr(torch.randn(9, 6, generator=torch.Generator().manual_seed(1))).Q
    singular = torch.tensor([5.0, 3.0, 1.0, 0.5, 0.4, 0.1])
    shares = [value / 10 for value in singular.tolist()]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    for features in (left * singular @ right.T, (left * singular @ right.T).T):
        assert metrics(features)["feature_rank"] == pytest.approx(expected, rel=1e-2)


def test_equal_features_are_detected():
    one = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).repeat(64, 1)
    found = metrics(one + 1e-4 * torch.randn(64, 16))
    assert found["feature_std"] < 0.01 and found["feature_rank"] < 1.1
    assert "nearly the same features" in collapse_warning(found, found)


def test_features_on_a_line_are_detected():
    direction = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    found = metrics(torch.randn(64, 1, generator=torch.Generator().manual_seed(1)) * direction)
    assert found["feature_std"] > 0.5 and "one dimension" in collapse_warning(found, found)


def test_features_that_become_alike_during_the_run_are_detected():
    """I-JEPA's on digits: neither limit alone sees that they lost 85 % of their deviation."""
    start, end = {"feature_std": 0.059, "feature_rank": 2.0}, {"feature_std": 0.009, "feature_rank": 1.2}
    assert "become alike (feature_std 0.0090, 0.0590 at the start)" in collapse_warning(end, start)
    assert collapse_warning(end, end) is None, "what a small encoder begins with is no collapse"
    assert collapse_warning({"feature_std": 0.0316, "feature_rank": 1.43}, {"feature_std": 0.129, "feature_rank": 3.27}) is None, "PMSN's"


def test_zeros_and_identical_features_are_defined():
    for features in (torch.zeros(8, 4), torch.ones(8, 4)):
        assert all(math.isfinite(value) for value in metrics(features).values())


def test_a_run_logs_the_metrics_and_warns_once_of_a_collapse(tmp_path, capsys, monkeypatch):
    recipe = read_recipe("digits/simclr", {**SHORT, "log_every": 2})
    run = train(recipe, tmp_path / "well", cpu=True)
    assert all(line["feature_std"] > 0.05 and line["feature_rank"] > 1.5 for line in run.metrics())
    assert "collapsed" not in capsys.readouterr().err
    monkeypatch.setattr(logs, "features", lambda encoder, pixels: torch.ones(len(pixels), 8))
    train(recipe, tmp_path / "collapsed", cpu=True)
    said = capsys.readouterr().err
    assert said.count("has likely collapsed") == 1
    assert f"{recipe.name} has likely collapsed by step 4: all images get nearly the same features" in said


def test_a_resumed_run_compares_with_its_first_line(tmp_path, capsys, monkeypatch):
    recipe = read_recipe("digits/simclr", {**SHORT, "log_every": 1})
    monkeypatch.setattr(logs, "features", lambda encoder, pixels: torch.eye(len(pixels), 8) + 4)
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "run", cpu=True, limit=TimeLimit(0.0))
    monkeypatch.setattr(logs, "features", lambda encoder, pixels: torch.eye(len(pixels), 8) + 80)
    run = train(recipe, tmp_path / "run", cpu=True, resume=True)
    assert "features of different images become alike" in capsys.readouterr().err and len(run.metrics()) > 2


def test_collapse_metrics_change_no_weights(tmp_path):
    files = []
    for log_every in (1, 100):
        recipe = read_recipe("digits/simclr", {**SHORT, "log_every": log_every})
        files.append(train(recipe, tmp_path / str(log_every), cpu=True).folder / "model.safetensors")
    assert files[0].read_bytes() == files[1].read_bytes()
