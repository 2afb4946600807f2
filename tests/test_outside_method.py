"""A method in another installed package, made here on the fly: known by its entry point wherever one of sslzoo's own is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_digits import small_digits

ROOT = Path(__file__).parents[1]
METHOD = '''"""Twin: two views of an image become alike, and the projections of a batch spread out."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig, Paper
from sslzoo.parts.forward_views import forward_views
from sslzoo.parts.hyperparameters import dim, weight
from sslzoo.views import View


@strict
class TwinConfig(MethodConfig):
    """spread: weight of the distance from a deviation of 1."""

    model_type = "sslzoo-twin"

    projection_dim: int = dim(32)
    spread: float | int = weight(1.0)


class Twin(Method):
    config_class = TwinConfig
    paper = Paper("Twins of the Tests", "Nobody and others", 2026, "2601.00001")

    def __init__(self, config: TwinConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = nn.Linear(feature_width(self.backbone), config.projection_dim)
        self.post_init()

    @property
    def encoder(self):
        return self.backbone

    @staticmethod
    def views(size):
        return {"both": View(size, count=2, scale=(0.5, 1.0))}

    def loss(self, views, progress):
        first, second = forward_views(lambda view: self.projector(features(self.backbone, view)), views, self.config.joint_views)
        apart = (1 - torch.cat([first, second]).float().std(dim=0)).relu().mean()
        return {"loss": (first - second).pow(2).mean() + self.config.spread * apart}
'''
RECIPE = {
    "name": "twin-digits", "method": "twin", "encoder": "res6", "dataset": "",
    "image_size": 16, "batch_size": 64, "epochs": 1, "optimizer": "sgd", "lr": 0.01,
    "weight_decay": 0.0, "lr_scaling": "none", "schedule": "constant", "warmup_epochs": 0, "spread": 2.0,
}  # fmt: skip
# What a user of it does, in a process that has the package installed.
USE = """
import json, sys
from pathlib import Path
import sslzoo
from sslzoo.cli import main
from sslzoo.hub import card_models, read_entries

recipe, run, cards = sys.argv[1:]
assert main(["train", recipe, "--cpu", "--output", run]) == 0
assert main(["card", run]) == 0
method = sslzoo.load(run)
(entry,), broken = read_entries(card_models(Path(cards)))
told = [type(method).__module__, sslzoo.method_name(type(method)), method.config.spread, entry.method, len(broken)]
print(json.dumps(["told", "twin" in sslzoo.method_names(), *told]))
"""


def install(place: Path, **points: str) -> None:
    """Puts the package into the folder, as pip leaves one."""
    (place / "twins").mkdir(parents=True)
    (place / "twins/__init__.py").touch()
    (place / "twins/twin.py").write_text(METHOD)
    distribution = place / "twins-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: twins\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (distribution / "entry_points.txt").write_text("\n".join(["[sslzoo.methods]", *lines, ""]))


def run_python(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


@pytest.mark.slow
def test_is_trained_loaded_published_and_listed_like_one_of_ours(tmp_path):
    install(tmp_path / "site", twin="twins.twin:Twin")
    recipe = tmp_path / "twin.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "dataset": small_digits()}))
    # The card lies where the leaderboard looks for that of "sslzoo/<name>".
    run = tmp_path / "cards" / "twin-digits"
    used = run_python(tmp_path / "site", "-c", USE, str(recipe), str(run), str(run.parent))
    assert used.returncode == 0, used.stderr[-3000:]
    assert json.loads(used.stdout.splitlines()[-1]) == ["told", True, "twins.twin", "twin", 2.0, "twin", 0]


@pytest.mark.slow
def test_passes_the_contract_that_ours_keep(tmp_path):
    install(tmp_path / "site", twin="twins.twin:Twin")
    tried = run_python(tmp_path / "site", "-m", "pytest", "-p", "no:cacheprovider", "tests/test_contract.py", "-k", "twin")
    assert tried.returncode == 0, tried.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", tried.stdout)[1]) > 20


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"twin": "twins.nothing:Twin"}, "the method 'twin' of twins cannot be imported: No module named 'twins.nothing'"),
        ({"twin": "twins.twin:TwinConfig"}, "the method 'twin' of twins is twins.twin:TwinConfig, which is no subclass of sslzoo.Method"),
        ({"double": "twins.twin:Twin"}, "the method 'double' of twins has the model_type 'sslzoo-twin': must be 'sslzoo-double'"),
        ({"simclr": "twins.twin:Twin"}, None),
    ],
)
def test_what_is_no_method_is_named_and_none_takes_the_place_of_ours(points, message, tmp_path, monkeypatch):
    from sslzoo import SimCLR, method_class, method_names
    from sslzoo.errors import InputError

    install(tmp_path, **points)
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = points
    assert method_names().count(name) == 1
    if message is None:
        assert method_class(name) is SimCLR
    else:
        with pytest.raises(InputError) as caught:
            method_class(name)
        assert str(caught.value) == message
