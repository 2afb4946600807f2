"""Training that starts from published weights: what the recipe pins, what the run starts from, and what its card says."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import HubServer
from test_training import train_until
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessorPil, CLIPModel, Dinov2Config, Dinov2Model, ViTModel

from sslzoo.accelerator import make_accelerator, to_device
from sslzoo.encoders import describe, encoder_config, features, from_description, load_pretrained
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import write_card
from sslzoo.optim import set_learning_rates
from sslzoo.recipe import load_recipe, parse_changes, pinned_folder, read_recipe, write_recipe
from sslzoo.run import Run
from sslzoo.training import setup, train
from sslzoo.views import IMAGENET_MEAN

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "image_size": 32}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}


def save(folder, model, card="---\nlicense: mit\n---\n"):
    model.save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    (folder / "README.md").write_text(card)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A DINOv2 for 32 px, with weights that are far from those of a fresh one."""
    torch.manual_seed(7)
    model = Dinov2Model(Dinov2Config(**TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return save(tmp_path_factory.mktemp("somewhere") / "tiny-dinov2", model)


def recipe_from(source, recipe="digits/simclr", **changes):
    return read_recipe(recipe, {"init_from": str(source), "epochs": 1, **changes})


def refused(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


def with_weights(recipe):
    torch.manual_seed(0)
    method = setup.make_training_method(recipe, make_accelerator("fp32", cpu=True))
    setup.load_starting_weights(method, recipe)
    return method


class TestRecipe:
    def test_pins_architecture_weights_licence_and_normalisation(self, base, tmp_path):
        recipe = recipe_from(base)
        assert recipe.init_from == str(base) and recipe.init_license == "mit" and (recipe.mean, recipe.std) == (MEAN, STD)
        assert recipe.encoder["name"] == "tiny-dinov2" and recipe.method_config().encoder.hidden_size == 16
        assert recipe.method_config().encoder.image_size == recipe.image_size == 16
        assert recipe.name == "simclr-from-tiny-dinov2-digits"
        write_recipe(recipe, tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml").flat() == recipe.flat() == read_recipe(tmp_path / "recipe.yaml").flat()

    def test_a_file_may_name_it_too(self, base, tmp_path):
        values = yaml.safe_load(Path("recipes/digits/simclr.yaml").read_text())
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, "init_from": str(base), "encoder": None, "name": "mine"}))
        recipe = read_recipe(tmp_path / "mine.yaml")
        assert recipe.name == "mine" and recipe.encoder["name"] == "tiny-dinov2" and recipe.init_sha256 == recipe_from(base).init_sha256

    def test_an_encoder_of_a_short_name_keeps_it(self, tmp_path):
        torch.manual_seed(0)
        recipe = recipe_from(save(tmp_path / "vit", ViTModel(encoder_config("vit-xs4", 32))))
        assert recipe.encoder == "vit-xs4"

    def test_another_encoder_than_that_of_the_weights_is_refused(self, base):
        assert recipe_from(base, encoder=str(base)) == recipe_from(base)
        refused(lambda: recipe_from(base, encoder="res6"), "'tiny-dinov2'", "'res6'", "leave `encoder` out")

    def test_an_encoder_by_folder_is_its_architecture_alone(self, base):
        recipe = read_recipe("digits/simclr", {"encoder": str(base)})
        assert recipe.init_from is None and recipe.encoder == recipe_from(base).encoder and recipe.mean == MEAN
        torch.manual_seed(0)
        fresh, published = recipe.make_method().encoder.state_dict(), load_pretrained(base).state_dict()
        assert not torch.equal(fresh["encoder.layer.0.mlp.fc1.weight"], published["encoder.layer.0.mlp.fc1.weight"])

    def test_of_a_model_of_images_and_texts_the_image_half_is_taken(self, tmp_path):
        vision = {**TINY, "intermediate_size": 32}
        torch.manual_seed(0)
        folder = save(tmp_path / "clip", CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=16)))
        recipe = recipe_from(folder, image_size=32)
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = CLIPModel.from_pretrained(folder).vision_model(pixels).pooler_output
            assert torch.allclose(features(with_weights(recipe).encoder.eval(), pixels), expected, atol=1e-6)

    def test_goes_on_with_another_image_size_or_source(self, base, tmp_path):
        write_recipe(recipe_from(base), tmp_path / "recipe.yaml")
        larger = read_recipe(tmp_path / "recipe.yaml", {"image_size": 32})
        assert larger.method_config().encoder.image_size == 32 and larger.init_from == str(base)
        other = read_recipe(tmp_path / "recipe.yaml", {"init_from": None, "encoder": "res6"})
        assert other.init_from is None and other.init_sha256 is None and other.encoder == "res6"
        assert other.mean == IMAGENET_MEAN and larger.mean == MEAN

    @pytest.mark.parametrize(
        ("break_it", "parts"),
        [
            (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), ["pytorch_model.bin", "safetensors"]),
            (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), ["cannot read model.safetensors"]),
            (lambda folder: BertModel(BertConfig(**TEXT)).save_pretrained(folder), ["'bert'", "an encoder of images is needed"]),
            (lambda folder: (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {}}'), ["'mine'"]),
        ],
        ids=["pickle only", "damaged", "no vision model", "unknown architecture"],
    )  # fmt: skip
    def test_what_is_no_encoder_is_refused(self, base, tmp_path, break_it, parts):
        folder = tmp_path / "broken"
        shutil.copytree(base, folder)
        break_it(folder)
        refused(lambda: recipe_from(folder), *parts)

    def test_sizes_and_missing_models_are_refused(self, base, tmp_path):
        refused(lambda: recipe_from(base, image_size=30), "30", "28", "32")
        refused(lambda: recipe_from(tmp_path / "no" / "such"), "no folder")
        refused(lambda: parse_changes(["init_from"]), "init_from")

    def test_views_are_whole_patches(self, base):
        """DINO's local views are 96/224 of the image; a rest of a patch would be cut off without a word."""
        views = recipe_from(base, "imagenet100/dino", image_size=60).make_views()
        assert all(view.size % 4 == 0 for view in views.values()) and views["local"].size == 24, "25 px else"
        refused(lambda: recipe_from(base, **{"view.both.size": 14}), "view.both.size is 14", "take 12 or 16")

    def test_a_description_by_a_stranger_is_bounded(self):
        huge = {**describe(Dinov2Config(**TINY), "x"), "num_hidden_layers": 10**6}
        refused(lambda: from_description(huge), "num_hidden_layers")
        refused(lambda: from_description({"model_type": "timm_wrapper"}), "built by timm")

    def test_older_recipes_keep_their_published_text(self, tmp_path):
        """Digests of published recipes are of their text, and must not change when a key is added."""
        for file in sorted(Path("model_cards").glob("*/recipe.yaml"))[:3]:
            run = Run(file.parent)
            assert run.digests()["recipe.yaml"] == run.results()["training"]["files"]["recipe.yaml"]
        assert "encoder_lr_factor" not in file.read_text(), "written before there was this key"


class TestStart:
    @pytest.mark.parametrize("method", ["simclr", "dino", "msn"])
    def test_every_copy_of_the_encoder_has_the_weights(self, base, method):
        recipe = recipe_from(base, f"digits/{method}", image_size=32)
        trained = with_weights(recipe)
        published = to_device(load_pretrained(base), torch.device("cpu"))
        copies = [module for module in trained.modules() if isinstance(module, Dinov2Model)]
        assert len(copies) == (1 if method == "simclr" else 2)
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for copy in copies:
                assert torch.equal(features(copy.eval(), pixels), features(published, pixels))

    def test_positions_are_interpolated_to_the_image_size(self, base):
        method = with_weights(recipe_from(base))
        pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(features(method.encoder.eval(), pixels), features(load_pretrained(base), pixels))

    def test_weights_that_have_changed_are_refused(self, base, tmp_path):
        folder = tmp_path / "tiny-dinov2"
        shutil.copytree(base, folder)
        recipe = recipe_from(folder)
        assert pinned_folder("init_from", recipe.init_from, recipe.init_sha256, "mit") == folder
        torch.manual_seed(1)
        save(folder, Dinov2Model(Dinov2Config(**TINY)))
        refused(lambda: with_weights(recipe), "have changed", str(folder))

    def test_another_licence_than_that_of_the_weights_is_refused(self, base, tmp_path):
        write_recipe(recipe_from(base), tmp_path / "recipe.yaml")
        pinned = read_recipe(tmp_path / "recipe.yaml", {"init_license": "apache-2.0"})
        for call in (lambda: recipe_from(base, init_license="apache-2.0"), lambda: with_weights(pinned)):
            refused(call, "init_license is 'apache-2.0'", f"the card of {base} says 'mit'")
        assert recipe_from(base, init_license="mit") == recipe_from(base)
        bare = shutil.copytree(base, tmp_path / "bare", ignore=shutil.ignore_patterns("README.md"))
        with_weights(recipe_from(bare))
        refused(lambda: recipe_from(bare, init_license="mit"), "init_license is 'mit'", f"{bare} names no licence")

    def test_learning_rates(self, base):
        factors = {"encoder_lr_factor": 0.1, "layer_decay": 0.5, "patch_lr_factor": 0.2}
        recipe = recipe_from(base, encoder_frozen_epochs=2, decay_norm_and_bias=True, **factors)
        method = with_weights(recipe)
        _, optimizer = setup.wrap(method, recipe, make_accelerator("fp32", cpu=True))
        rates, decays = {}, {}
        for epoch in (0, 2):
            set_learning_rates(optimizer, 1.0, 1.0, epoch)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    rates[epoch, id(parameter)], decays[id(parameter)] = group["lr"], group["weight_decay"]
        names = dict(method.named_parameters())
        blocks = "backbone.encoder.layer.{}.mlp.fc1.weight"
        patches = "backbone.embeddings.patch_embeddings.projection.weight"
        expected = {patches: 0.0025, "backbone.embeddings.cls_token": 0.0125, blocks.format(0): 0.025, blocks.format(1): 0.05}
        for name, rate in expected.items():
            assert rates[0, id(names[name])] == 0 and rates[2, id(names[name])] == pytest.approx(rate), name
        assert rates[0, id(names["projector.0.weight"])] == 1.0
        assert decays[id(names[blocks.format(0)])] == recipe.weight_decay > 0
        assert decays[id(names["projector.1.weight"])] == recipe.weight_decay, "a norm, but of the heads"
        for name in ("embeddings.cls_token", "embeddings.position_embeddings", "encoder.layer.0.layer_scale1.lambda1", "layernorm.weight"):
            assert decays[id(names[f"backbone.{name}"])] == 0, name

    def test_clipping_by_network_tells_the_encoder_from_its_heads(self, base):
        recipe = recipe_from(base, clip="network", layer_decay=0.5)
        method = with_weights(recipe)
        networks = {id(each): group.network for group in setup.encoder_groups(method, recipe) for each in group.parameters}
        for name, parameter in method.named_parameters():
            if parameter.requires_grad:
                assert networks[id(parameter)] == ("encoder" if name.startswith("backbone.") else "heads"), name

    def test_a_rate_for_training_from_scratch_is_said(self, base, caplog):
        with_weights(recipe_from(base))
        assert "encoder_lr_factor=0.02" in caplog.text
        caplog.clear()
        with_weights(recipe_from(base, encoder_lr_factor=0.02))
        assert not caplog.text


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    return train(recipe_from(base, encoder_lr_factor=0.02), tmp_path_factory.mktemp("runs") / "run", cpu=True)


class TestRun:
    def test_measures_the_starting_weights_first(self, base, run):
        first = run.metrics()[0]
        assert first["step"] == 0 and Preprocessing.read(run.folder)[3:5] == (MEAN, STD)
        card = write_card(run.folder).read_text()
        key = "knn_top1 k=20 T=0.1"
        last = [line[key] for line in run.metrics() if key in line][-1]
        assert f"before {100 * first[key]:.1f} %, after {100 * last:.1f} %" in card
        assert "license: mit" in card and "base_model" not in card, "a folder here is no model of the Hub"
        assert str(base.parent) not in card and "tiny-dinov2" in card

    def test_resumes_without_its_start(self, base, tmp_path, monkeypatch):
        recipe = recipe_from(base, checkpoint_every=3, encoder_lr_factor=0.02)
        train_until(7, recipe, tmp_path / "run", monkeypatch)
        missing = pytest.fail  # what would be called to find the start again
        monkeypatch.setattr(setup, "pinned_folder", missing)
        earlier = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
        monkeypatch.setattr("sslzoo.recipe.starting_point._from_weights", missing)
        changes = {"init_from": str(base), "epochs": 1, "checkpoint_every": 3, "encoder_lr_factor": 0.02}
        again = read_recipe("digits/simclr", changes, earlier)
        assert again == recipe
        train(again, tmp_path / "run", resume=True, cpu=True)
        assert Run(tmp_path / "run").results()["training"]["steps"] == 10


ROUND = """
import os, sys
from huggingface_hub import HfApi
from sslzoo.cli import main
from sslzoo.hub import publish
api = HfApi()
api.create_repo("ada/tiny")
api.upload_folder(repo_id="ada/tiny", folder_path=sys.argv[1] if len(sys.argv) > 1 else os.environ["BASE"])
for output, recipe, *changes in (
    ("first", "digits/simclr", "init_from=ada/tiny", "encoder_lr_factor=0.02"),
    ("second", "digits/simclr", "init_from=ada/simclr-from-tiny-digits", "encoder_lr_factor=0.02"),
    ("taught", "digits/simreg", "teacher=ada/simclr-from-tiny-digits", "encoder=vit-xs4"),
):
    folder = os.path.join(os.environ["HF_HOME"], output)
    code = main(["train", recipe, "--cpu", "--output", folder, "--set", "epochs=1", *changes])
    assert code == 0, code
    print(publish(folder, "ada"))
print(api.model_info("ada/simclr-from-tiny-digits").sha)
os._exit(0)
"""


PLAIN = """
import sys
sys.modules["sslzoo"] = None  # cannot be imported
from transformers import AutoModel
for name in NAMES:
    model, report = AutoModel.from_pretrained(name, output_loading_info=True)
    print(type(model).__name__, sum(map(len, report.values())))
"""


@pytest.mark.slow
def test_continues_from_the_hub_and_learns_from_what_that_published(base, tmp_path, monkeypatch):
    """By their ids on the Hub, and transformers alone loads from there what came of it."""
    monkeypatch.setenv("BASE", str(base))
    with HubServer({"hf_ada": "ada"}) as server:
        done = server.run_python(ROUND, tmp_path, "hf_ada")
        assert done.returncode == 0, done.stderr[-3000:]
        *printed, sha = done.stdout.splitlines()
        names = [line.removeprefix(f"{server.url}/") for line in printed if line.startswith(server.url)]
        loaded = server.run_python(PLAIN.replace("NAMES", str(names)), tmp_path)
        assert loaded.stdout.splitlines() == ["Dinov2Model 0", "Dinov2Model 0", "ViTModel 0"], loaded.stderr[-3000:]
    second, taught = (load_recipe(tmp_path / run / "recipe.yaml") for run in ("second", "taught"))
    assert second.init_from == taught.teacher == f"ada/simclr-from-tiny-digits@{sha}"
    assert second.init_license == taught.teacher_license == "mit" and second.mean == taught.teacher_mean == MEAN
    assert names == [f"ada/{name}" for name in ("simclr-from-tiny-digits", second.name, taught.name)]
    assert second.name == "simclr-from-simclr-from-tiny-digits-digits" and "-by-simclr-from-tiny-digits" in taught.name
    card = (tmp_path / "second" / "README.md").read_text()
    assert "base_model: ada/simclr-from-tiny-digits" in card and "base_model_relation: finetune" in card
    card = (tmp_path / "taught" / "README.md").read_text()
    assert f"ada/simclr-from-tiny-digits@{sha}" in card and "license: mit" in card and "base_model" not in card
