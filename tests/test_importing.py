"""Weights of others become encoders of ours: against networks written out here, as torchvision and timm build and name them."""

import collections
import csv
import hashlib
import http.server
import json
import math
import pickle
import threading
from pathlib import Path

import pytest
import torch
from foreign_networks import ResNet, ViT, pixels, randomised, res6, vit
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel

from sslzoo.encoders import convert_weights, features, load_pretrained
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import import_weights, known_checkpoints, lightly_checkpoints
from sslzoo.run import Run


def saved(network, file):
    torch.save(network.state_dict(), file)
    return file


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def prefixed(prefix, network):
    return {prefix + name: value for name, value in network.state_dict().items()}


def assert_equal(folder, network, size):
    """The folder, loaded by plain transformers, gives what the network gives."""
    plain, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), "loads silently"
    with torch.no_grad():
        expected = network(pixels(size))
        assert expected.std(dim=0).max() > 1e-2 and expected.abs().max() < 1e3, "the test itself: images tell themselves apart"
        torch.testing.assert_close(plain.eval()(pixels(size)).pooler_output.flatten(1), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(features(load_pretrained(folder), pixels(size)), expected, rtol=1e-5, atol=1e-5)


class TestParity:
    def test_resnet_of_bottlenecks_and_what_the_folder_says(self, tmp_path):
        network = randomised(ResNet(64, (64, 128, 256, 512), (3, 4, 6, 3), bottleneck=True))
        folder = import_weights(saved(network, tmp_path / "resnet50.pth"), tmp_path / "mine")
        assert_equal(folder, network, 64)
        assert Preprocessing.read(folder) == Preprocessing(256, 224)
        results = results_of(folder)
        assert results == Run(folder).results() and (results["training"], results["numbers"]) == ({}, [])
        sha, files = results["imported"].pop("sha256"), results["imported"].pop("files")
        assert results["imported"] == {
            "source": "resnet50.pth", "layout": "torchvision", "encoder": "res50", "branch": "", "reported": None
        }  # fmt: skip
        assert sha == hashlib.sha256((tmp_path / "resnet50.pth").read_bytes()).hexdigest()
        assert files == {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("config.json", "model.safetensors", "preprocessor_config.json")
        }
        assert sorted(file.name for file in folder.iterdir()) == [
            "config.json", "model.safetensors", "preprocessor_config.json", "results.json"
        ]  # fmt: skip
        assert str(tmp_path) not in "".join(file.read_text() for file in folder.glob("*.json"))

    def test_resnet_of_basic_blocks(self, tmp_path):
        network = randomised(ResNet(64, (64, 128, 256, 512), (2, 2, 2, 2), bottleneck=False))
        assert convert_weights(network.state_dict()).name == "res18"
        network = res6()
        assert_equal(import_weights(saved(network, tmp_path / "a.pt"), tmp_path / "mine"), network, 96)

    def test_weights_of_any_size_are_one_file(self, tmp_path, monkeypatch):
        """Tensors count a billion times their bytes: what is over 50 GB, transformers would split."""
        monkeypatch.setattr("huggingface_hub.serialization._torch.get_torch_storage_size", lambda tensor: tensor.nbytes * 10**9)
        folder = import_weights(saved(res6(), tmp_path / "a.pt"), tmp_path / "mine")
        assert [file.name for file in folder.glob("*.safetensors*")] == ["model.safetensors"]

    @pytest.mark.parametrize("scaled", [False, True])
    @pytest.mark.parametrize("size", [16, 32])
    def test_vit(self, size, scaled, tmp_path):
        network = vit(size=size, scaled=scaled)
        folder = import_weights(saved(network, tmp_path / "a.pt"), tmp_path / "mine")
        assert_equal(folder, network, size)
        assert (results_of(folder)["imported"]["layout"], results_of(folder)["imported"]["encoder"]) == ("timm", "vit-xs4")
        assert Preprocessing.read(folder).crop == size

    @pytest.mark.parametrize(("name", "arguments"), [("vit-s16", (16, 384, 12)), ("vit-b32", (32, 768, 12))])
    def test_vits_are_told_by_their_shapes(self, name, arguments):
        patch, width, layers = arguments
        with torch.device("meta"):
            state = ViT(224, patch, width, layers).state_dict()
        state = {key: torch.zeros(1).expand(value.shape) for key, value in state.items()}
        found = convert_weights(state)
        assert (found.name, found.image_size) == (name, 224)

    def test_from_safetensors_in_half_precision(self, tmp_path):
        network = res6()
        network.load_state_dict({name: value.half().to(value.dtype) for name, value in network.state_dict().items()})
        halves = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
        save_file(halves, tmp_path / "a.safetensors")
        folder = import_weights(tmp_path / "a.safetensors", tmp_path / "mine")
        assert_equal(folder, network, 96)
        assert AutoModel.from_pretrained(folder).dtype == torch.float32

    def test_from_a_file_of_the_old_format_without_counters(self, tmp_path):
        network = res6()
        state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
        torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        assert_equal(import_weights(tmp_path / "a.pth", tmp_path / "mine"), network, 96)


HEAD = nn.Linear(3, 3)
# What lightly's benchmark modules hold, by method (lightly-ai/lightly, benchmarks/imagenet): encoders and the rest.
MODULES = {
    "simclr": (["backbone."], ["projection_head.layers.0", "online_classifier.linear"], "backbone"),
    "byol": (
        ["backbone.", "teacher_backbone."],
        ["projection_head.layers.0", "prediction_head.layers.0", "teacher_projection_head.layers.0"],
        "backbone",
    ),
    "mocov2": (["backbone.", "key_backbone."], ["projection_head.layers.0", "key_projection_head.layers.0", "criterion"], "backbone"),
    "mocov2, before": (["backbone.", "query_backbone."], ["projection_head.layers.0", "query_projection_head.layers.0"], "backbone"),
    "dino, tico": (["backbone.", "student_backbone."], ["student_projection_head.layers.0", "criterion"], "backbone"),
    "tico, before": (
        ["backbone.", "backbone_momentum."],
        ["projection_head.layers.0", "projection_head_momentum.layers.0", "online_classifier.linear"],
        "backbone",
    ),
    "dino, vit": (["backbone.vit.", "student_backbone.vit."], ["projection_head.last_layer", "student_projection_head.layers"], "backbone"),
    "ibot": (
        ["teacher_backbone.vit.", "student_backbone.vit."],
        ["student_head.layers.0", "student_cls_head.layers.0", "teacher_patch_head.layers.0", "cls_criterion", "patch_criterion.center"],
        "teacher_backbone",
    ),
    "mae": (["backbone.vit."], ["decoder.decoder_embed", "decoder.decoder_blocks.0.norm1"], "backbone"),
    "lejepa": (["backbone."], ["projection_head.layers.0", "criterion"], "backbone"),
    "swav": (["backbone."], ["prototypes.heads.0", "queues.0"], "backbone"),
}


def lightning(name, file, network, **more):
    """A checkpoint as Lightning writes it, each encoder in it with weights of its own; and the networks by prefix."""
    prefixes, rest, _ = MODULES[name]
    networks = {prefix: network(seed) for seed, prefix in enumerate(reversed(prefixes))}
    state = {key: value for prefix, one in networks.items() for key, value in prefixed(prefix, one).items()}
    for prefix in rest:
        state |= prefixed(f"{prefix}.", HEAD)
    if name in ("mae", "ibot"):
        state |= {f"{prefix.split('.')[0]}.mask_token": torch.zeros(1, 1, 64) for prefix in prefixes}
    torch.save(
        {
            "epoch": 99, "global_step": 500400, "pytorch-lightning_version": "2.1.0", "state_dict": collections.OrderedDict(state),
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
            "hyper_parameters": {"batch_size_per_device": 128, "num_classes": 1000}, **more,
        },
        file,
    )  # fmt: skip
    return networks


class TestBranches:
    @pytest.mark.parametrize("name", MODULES)
    def test_the_one_that_the_reference_evaluates_is_taken(self, name, tmp_path):
        is_vit = name in ("dino, vit", "ibot", "mae", "lejepa")
        networks = lightning(name, tmp_path / "a.ckpt", (lambda seed: vit(seed, scaled=name == "ibot")) if is_vit else res6)
        _, _, expected = MODULES[name]
        folder = import_weights(tmp_path / "a.ckpt", tmp_path / "mine")
        assert results_of(folder)["imported"]["branch"] == expected
        network = next(one for prefix, one in networks.items() if prefix.split(".")[0] == expected)
        assert_equal(folder, network, 16 if is_vit else 96)

    def test_another_is_taken_when_it_is_named(self, tmp_path):
        networks = lightning("byol", tmp_path / "a.ckpt", res6)
        folder = import_weights(tmp_path / "a.ckpt", tmp_path / "mine", branch="teacher_backbone")
        assert_equal(folder, networks["teacher_backbone."], 96)
        assert results_of(folder)["imported"]["branch"] == "teacher_backbone"
        with pytest.raises(InputError, match="unknown branch 'teacher': did you mean 'teacher_backbone'"):
            import_weights(tmp_path / "a.ckpt", tmp_path / "other", branch="teacher")

    def test_several_that_none_is_known_of_are_listed(self):
        state = prefixed("module.left.", res6()) | prefixed("module.right.", res6(1))
        with pytest.raises(InputError, match="--branch which is meant: module.left, module.right"):
            convert_weights(state)
        state = {name: value for name, value in state.items() if "right" not in name}
        assert convert_weights(state).branch == "module.left"


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


class TestMismatch:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda state: without(state, "bn1.bias"), "1 missing .*embedder.embedder.normalization.bias"),
            (lambda state: without(state, "layer2.0.downsample.0.weight"), "1 missing .*shortcut.convolution.weight"),
            (lambda state: without(state, "bn1.running_mean"), "running_mean"),
            (lambda state: state | {"layer1.0.se.weight": torch.zeros(3)}, "1 unexpected: layer1.0.se.weight"),
            (lambda state: state | {"layer1.0.conv9.weight": torch.zeros(3)}, "1 unexpected: layer1.0.conv9.weight"),
            (lambda state: state | {"bn2.weight": torch.zeros(3)}, "1 unexpected: bn2.weight"),
            (lambda state: state | {"layer3.weight": torch.zeros(3)}, "1 unexpected: layer3.weight"),
            (lambda state: state | {"layer1.9.conv1.weight": torch.zeros(3)}, "10 missing.*; 1 unexpected: layer1.9.conv1.weight"),
            (lambda state: state | {"conv1.weight": torch.zeros(32, 3, 5, 5)}, r"of shape \(32, 3, 5, 5\): stems of 7x7 or 3x3"),
            (lambda state: state | {"conv1.weight": torch.zeros(32, 1, 7, 7)}, "images of 3 channels"),
            (lambda state: state | {"conv1.weight": torch.zeros(16, 3, 7, 7)}, r"wrong shape: bn1.weight \(32,\) for \(16,\)"),
            (lambda state: state | {"bn1.weight": torch.zeros(1)}, r"wrong shape: bn1.weight \(1,\) for \(32,\)"),
            (lambda state: state | {"layer3.0.conv1.weight": torch.zeros(1)}, "no 'layer3.0.conv2.weight'"),
            (lambda state: without(state, "conv1.weight"), "neither a ResNet"),
            (lambda state: {}, "neither a ResNet.*there is nothing"),
            (
                lambda state: without(state | {"bn2.a": torch.zeros(1), "bn2.b": torch.zeros(1)}, "bn1.bias"),
                "1 missing.*; 2 unexpected: bn2.a, bn2.b",
            ),
        ],
    )
    def test_of_a_resnet_is_told(self, change, told):
        with pytest.raises(InputError, match=told) as caught:
            convert_weights(change(res6().state_dict()))
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda state: without(state, "blocks.3.attn.qkv.bias"), "3 missing .*layers.3.attention.q_proj.bias"),
            (lambda state: without(state, "pos_embed"), "'pos_embed' must"),
            (lambda state: state | {"pos_embed": torch.zeros(1, 16, 64)}, "'pos_embed' must"),
            (lambda state: state | {"pos_embed": torch.zeros(2, 17, 64)}, r"wrong shape: pos_embed \(2, 17, 64\)"),
            (lambda state: state | {"reg_token": torch.zeros(1, 4, 64)}, "1 unexpected: reg_token"),
            (lambda state: state | {"fc_norm.weight": torch.zeros(64)}, "1 unexpected: fc_norm.weight"),
            (lambda state: state | {"blocks.0.attn.q_norm.weight": torch.zeros(16)}, "1 unexpected: blocks.0.attn.q_norm.weight"),
            (lambda state: state | {"blocks.0.ls1.gamma": torch.zeros(3)}, "1 unexpected: blocks.0.ls1.gamma"),
            (lambda state: state | {"blocks.0.attn.qkv.weight": torch.zeros(193, 64)}, "3 missing .*1 unexpected: blocks.0.attn.qkv"),
            (lambda state: state | {"cls_token": torch.zeros(())}, r"wrong shape: cls_token \(\) for \(1, 1, 64\)"),
            (lambda state: state | {"patch_embed.proj.weight": torch.zeros(())}, "'patch_embed.proj.weight' must have 4 dimensions"),
            (lambda state: state | {"patch_embed.proj.weight": torch.zeros(64, 3, 2, 4, 4)}, "'patch_embed.proj.weight' must have 4"),
            (lambda state: state | {"blocks.0.mlp.fc1.weight": torch.zeros(0, 64)}, "'blocks.0.mlp.fc1.weight' must have 2 dimensions"),
            (lambda state: {name: value for name, value in state.items() if "blocks.3." not in name}, "ViT 64 wide.*say it with --heads"),
            (lambda state: {name: value for name, value in state.items() if "blocks.2." not in name}, "ViT 64 wide.*say it with --heads"),
            (lambda state: state | {"norm_pre.weight": torch.zeros(64)}, "1 unexpected: norm_pre.weight"),
            (lambda state: state | {"dist_token": torch.zeros(1, 1, 64)}, "1 unexpected: dist_token"),
            (lambda state: state | {f"norm.{number}": torch.zeros(1) for number in range(5)}, r"5 unexpected: norm.0, norm.1, norm.2, "),
        ],
    )
    def test_of_a_vit_is_told(self, change, told):
        with pytest.raises(InputError, match=told):
            convert_weights(change(vit().state_dict()))

    def test_names_the_file_and_leaves_nothing(self, tmp_path):
        torch.save(without(res6().state_dict(), "bn1.bias"), tmp_path / "a.pth")
        with pytest.raises(InputError, match="a.pth: .*1 missing"):
            import_weights(tmp_path / "a.pth", tmp_path / "mine")
        assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


class Odd:
    """What no file of weights should hold."""


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


class TestFiles:
    @pytest.mark.parametrize("old", [False, True])
    def test_code_in_a_pickle_is_refused_and_not_run(self, old, tmp_path):
        state = {**res6().state_dict(), "x": Canary(tmp_path / "canary")}
        torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
        for name in ("a.pth", "b.ckpt"):
            with pytest.raises(InputError, match=f"{name}: holds more than weights .*may run code") as caught:
                import_weights(tmp_path / name, tmp_path / "mine")
            assert str(caught.value).isprintable()
        assert not (tmp_path / "canary").exists() and not (tmp_path / "mine").exists()

    def test_hyper_parameters_of_odd_types_are_named(self, tmp_path):
        lightning("simclr", tmp_path / "a.ckpt", res6, hyper_parameters={"transform": Odd()})
        with pytest.raises(InputError, match=r"more than weights \(\w*test_importing.Odd\).*save its tensors alone as .safetensors"):
            import_weights(tmp_path / "a.ckpt", tmp_path / "mine")

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
    def test_file_cut_short_is_refused(self, suffix, share, tmp_path):
        file = tmp_path / f"a{suffix}"
        (torch.save if suffix == ".pth" else save_file)(res6().state_dict(), file)
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        with pytest.raises(InputError, match=f"a{suffix}: "):
            import_weights(file, tmp_path / "mine")
        assert [one.name for one in tmp_path.iterdir()] == [file.name]

    def test_weights_that_are_not_finite_are_refused_and_leave_nothing(self, tmp_path):
        state = res6().state_dict()
        state["layer2.0.bn2.bias"][5] = math.nan
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(InputError, match="a.pth.*not finite.*normalization.bias") as caught:
            import_weights(tmp_path / "a.pth", tmp_path / "mine")
        assert ".new" not in str(caught.value) and [file.name for file in tmp_path.iterdir()] == ["a.pth"]

    @pytest.mark.parametrize("held", [[1, 2], {}, {"a": 1}, {"state_dict": {"a": "b"}}, torch.zeros(3)], ids=str)
    def test_file_without_named_tensors_is_refused(self, held, tmp_path):
        torch.save(held, tmp_path / "a.pth")
        with pytest.raises(InputError, match="a.pth: holds no tensors by name"):
            import_weights(tmp_path / "a.pth", tmp_path / "mine")

    def test_folder_that_holds_something_is_refused_and_stays_as_it_was(self, tmp_path):
        file = saved(res6(), tmp_path / "a.pth")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "README.md").write_text("mine")
        for place in (tmp_path / "mine", file):
            with pytest.raises(InputError, match="holds something already"):
                import_weights(file, place)
        assert (tmp_path / "mine" / "README.md").read_text() == "mine" and len(list((tmp_path / "mine").iterdir())) == 1

    def test_empty_folder_and_what_an_import_that_was_killed_left_are_no_hindrance(self, tmp_path):
        file = saved(res6(), tmp_path / "a.pth")
        (tmp_path / "mine").mkdir()
        (tmp_path / ".mine.new").mkdir()
        (tmp_path / ".mine.new" / "rest").write_text("")
        folder = import_weights(file, tmp_path / "mine")
        assert not (folder / "rest").exists() and not (tmp_path / ".mine.new").exists()

    def test_what_is_no_file_and_no_name_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="no file 'nothing.pth'"):
            import_weights("nothing.pth", tmp_path / "mine")
        with pytest.raises(InputError, match="unknown checkpoint 'lightly/simclr-res5': did you mean 'lightly/simclr-res50'"):
            import_weights("lightly/simclr-res5", tmp_path / "mine")


class TestTable:
    def test_holds_fractions_and_addresses(self):
        table = known_checkpoints()
        assert len(table) == 14 and table["lightly/byol-res50"].numbers["knn_top1"] == 0.46
        assert table["lightly/ibot-vit-s16"].encoder == "vit-s16" and table["lightly/dcl-res50"].method == "dcl"
        for name, known in table.items():
            assert name == known.name == f"lightly/{known.method}-{known.encoder}"
            assert known.url.startswith("https://lightly-ssl-checkpoints.s3.amazonaws.com/") and known.url.endswith(".ckpt")
            assert all(0 < value < 1 for value in known.numbers.values()) and known.numbers["knn_top1"] < known.numbers["knn_top5"]
        assert len({known.url for known in table.values()}) == 14

    def test_says_what_the_facts_say(self):
        facts = Path(__file__).parents[2] / "shared" / "specs" / "lightly_checkpoints.csv"
        if not facts.exists():
            pytest.skip("the facts are not here")
        by_url = {known.url: known for known in known_checkpoints().values()}
        with open(facts, newline="") as file:
            for row in csv.DictReader(file):
                for metric, value in by_url[row["checkpoint_url"]].numbers.items():
                    assert value == pytest.approx(float(row[metric]) / 100, abs=1e-9), row


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked += 1
        self.send_response(server.status)
        if server.says_length:
            self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.sent])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The table has one checkpoint more, "lightly/mine-res6", and this server holds its file."""
    lightning("simclr", tmp_path / "made.ckpt", res6)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.content, server.sent = (tmp_path / "made.ckpt").read_bytes(), None
        server.status, server.asked, server.says_length = 200, 0, True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        header = lightly_checkpoints.TABLE.read_text().splitlines()[0]
        server.url = f"http://127.0.0.1:{server.server_port}/a/epoch%3D99.ckpt"
        (tmp_path / "table.csv").write_text(f"{header}\nlightly/mine-res6,mine,res6,0.4,0.7,0.5,0.8,0.6,0.9,{server.url}\n")
        monkeypatch.setattr(lightly_checkpoints, "TABLE", tmp_path / "table.csv")
        monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
        yield server
        server.shutdown()
        thread.join()


class TestDownload:
    def test_of_a_known_checkpoint_says_what_its_authors_reported_and_happens_once(self, server, tmp_path):
        folder = import_weights("lightly/mine-res6", tmp_path / "mine")
        assert_equal(folder, res6(), 96)
        results = results_of(folder)
        assert results["imported"]["source"] == server.url and results["numbers"] == []
        assert results["imported"]["reported"]["by"] == "lightly" and results["imported"]["reported"]["numbers"]["knn_top1"] == 0.4
        import_weights("lightly/mine-res6", tmp_path / "again")
        assert server.asked == 1

    @pytest.mark.parametrize("sent", [0, 1000, -1])
    def test_that_breaks_off_is_refused_and_nothing_is_kept(self, sent, server, tmp_path):
        server.sent = sent
        with pytest.raises(InputError, match="the download of lightly/mine-res6 broke off"):
            import_weights("lightly/mine-res6", tmp_path / "mine")
        assert not (tmp_path / "mine").exists() and not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
        server.sent = None
        assert_equal(import_weights("lightly/mine-res6", tmp_path / "mine"), res6(), 96)

    def test_of_unknown_length_or_of_nothing_is_refused(self, server, tmp_path):
        server.says_length = False
        with pytest.raises(InputError, match="does not say how long"):
            import_weights("lightly/mine-res6", tmp_path / "mine")
        server.says_length, server.status = True, 404
        with pytest.raises(InputError, match="cannot download lightly/mine-res6 from http://127.0.0.1.*404"):
            import_weights("lightly/mine-res6", tmp_path / "mine")
        assert not (tmp_path / "mine").exists() and not [file for file in (tmp_path / "home").rglob("*") if file.is_file()]

    def test_file_of_another_encoder_than_the_table_says_is_refused(self, server, tmp_path):
        table = lightly_checkpoints.TABLE.read_text().replace(",res6,", ",res50,")
        lightly_checkpoints.TABLE.write_text(table)
        with pytest.raises(InputError, match="holds 'res6', but lightly/mine-res6 is 'res50'"):
            import_weights("lightly/mine-res6", tmp_path / "mine")
