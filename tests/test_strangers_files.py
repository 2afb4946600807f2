"""Files of strangers, every value of theirs replaced: a line that names the file, or a model that works; nothing else, and at no cost."""

import copy
import json
import random
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from hub_server import HubServer
from safetensors.torch import load_file, save_file
from test_card import make_run
from test_reproduce import make_pets

import sslzoo
from sslzoo.cli import main
from sslzoo.encoders import build_encoder, encoder_config, features, load_pretrained, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, load_encoder
from sslzoo.memory import peak_memory
from sslzoo.run import Run

ODD = [None, "", "x", -1, 0, 1.5, 10**12, True, [], {}, [[]], {"a": 1}, float("nan"), 1e308, [10**9] * 4, 10**9]
INDEX = "model.safetensors.index.json"
TRANSFORMER = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
# How a model is run, where its code and kernels come from: what every file may hold beside its architecture.
RUNNING = {
    "return_dict": False, "output_hidden_states": True, "output_attentions": True, "torchscript": True, "use_kernels": True,
    "attn_implementation": "kernels-community/flash-attn2", "_attn_implementation": "kernels-community/flash-attn2", "torch_dtype": "x",
    "dtype": "float8_e4m3fn", "trust_remote_code": True, "auto_map": {"AutoModel": "someone/else--mine.Mine"}, "id2label": "x",
    "transformers_weights": "../../elsewhere.bin", "fusion_config": {"patch_embeddings": True}, "to_dict": 1, "sub_configs": {"a": 1},
    "attribute_map": {"hidden_size": "x"}, "num_labels": 10**9, "per_layer_config": {"0": {}}, "hidden_sizes_": [], "name_or_path": 1,
    "neck_hidden_sizes": "x", "is_encoder_decoder": True, "architectures": [1], "problem_type": 3, "chunk_size_feed_forward": 10**9,
}  # fmt: skip


@contextmanager
def soon(seconds: int = 60):
    """An error where the block hangs."""

    def late(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(call, *arguments):
    """What it gives, or None where it is refused in one line."""
    try:
        with soon():
            return call(*arguments)
    except InputError as error:
        assert str(error).isprintable() and "\n" not in str(error), "one line"
        return None


def encoders():
    torch.manual_seed(0)
    yield "small resnet", to_plain(build_encoder(encoder_config("res6", 16)))
    yield "vit", to_plain(build_encoder(transformers.ViTConfig(intermediate_size=32, **TRANSFORMER)))
    small = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"}
    yield "resnet", build_encoder(transformers.ResNetConfig(**small))
    yield "dinov2", build_encoder(transformers.Dinov2Config(mlp_ratio=2, **TRANSFORMER))
    convolution = {"hidden_sizes": [16, 24], "depths": [1, 1]}
    yield "convnext", build_encoder(transformers.ConvNextConfig(num_stages=2, **convolution))
    yield "swin", build_encoder(transformers.SwinConfig(image_size=16, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, Path]:
    """A folder of each encoder."""
    folders = {}
    for name, encoder in encoders():
        folders[name] = tmp_path_factory.mktemp("stored") / name.replace(" ", "-")
        encoder.save_pretrained(folders[name])
        Preprocessing(16, 16).write(folders[name])
    return folders


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "run")


def leaves(value, path=()):
    """Where every value is, whole parts too."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


def replaced(value, path, other):
    value = copy.deepcopy(value)
    part = value
    for key in path[:-1]:
        part = part[key]
    if path:
        part[path[-1]] = other
    return value if path else other


@contextmanager
def little_memory(most: int = 300 * 2**20):
    """The process's peak may rise by `most` bytes inside; what it took before does not hide it."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    before = peak_memory(torch.device("cpu"))
    yield
    assert peak_memory(torch.device("cpu")) - before < most


def use(folder: Path) -> torch.Tensor:
    """What every command does with an encoder."""
    encoder = load_encoder(folder, Preprocessing.read(folder))
    with torch.no_grad():
        return features(encoder, torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize("name", ["small resnet", "vit", "resnet", "dinov2"])
def test_config_of_an_encoder(name, stored, tmp_path):
    folder = shutil.copytree(stored[name], tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    right = use(folder)
    tried = [replaced(values, path, other) for path in leaves(values) for other in ODD] + [values | {key: 1} for key in RUNNING]
    worked = 0
    with little_memory():
        for odd in random.Random(0).sample(tried, 40):
            (folder / "config.json").write_text(json.dumps(odd))
            found = outcome(use, folder)
            worked += found is not None
            assert found is None or found.shape == right.shape and found.isfinite().all(), odd
    assert worked, "what does not matter is no error"


def test_how_a_model_is_run_is_not_the_files_to_say(stored, tmp_path):
    """Nothing is fetched, features are the same, and the outputs are those that everything here reads."""
    folder = shutil.copytree(stored["vit"], tmp_path / "model")
    values, right = json.loads((folder / "config.json").read_text()), use(folder)
    for key, value in RUNNING.items():
        (folder / "config.json").write_text(json.dumps(values | {key: value}))
        assert torch.equal(use(folder), right), key
    (folder / "config.json").write_text(json.dumps(values | RUNNING))
    assert torch.equal(use(folder), right)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"adapter_config.json": '{"base_model_name_or_path": "someone/else"}'}, "an adapter of PEFT's"),
        ({"config.json": '{"model_type": "timm_wrapper", "architecture": "hf_hub:a/b"}'}, "built by timm, which cannot"),
        ({"config.json": '{"model_type": ["vit"]}'}, "transformers does not know"),
        ({"config.json": '{"model_type": "vit", "quantization_config": {"quant_method": "bitsandbytes"}}'}, "quantised"),
        ({"config.json": '{"model_type": "vit", "hidden_size": NaN}'}, "NaN is no number"),
        ({"config.json": "[" * 100_000}, "cannot read"),
        ({"model.safetensors": None}, "has no model.safetensors.*convert them"),
        ({"model.safetensors": None, "model.gguf": ""}, "but model.gguf.*convert it to safetensors"),
        ({"model.safetensors": None, "config.json": None}, "neither config.json nor model.safetensors"),
        ({"model.safetensors": None, INDEX: '{"weight_map": {"a": "../other.safetensors"}}'}, "names no files"),
        ({"model.safetensors": None, INDEX: '{"weight_map": 3}'}, "names no files"),
        ({"model.safetensors": None, INDEX: '{"weight_map": {"a": "b.safetensors"}}'}, "cannot read b.safetensors"),
    ],
)  # fmt: skip
def test_folders_that_hold_something_else(files, message, stored, tmp_path):
    folder = shutil.copytree(stored["vit"], tmp_path / "model")
    for name, text in files.items():
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value) and str(caught.value).isprintable()


def test_weights_in_several_files_are_read(stored, tmp_path):
    encoder = load_pretrained(stored["vit"])
    encoder.save_pretrained(tmp_path, max_shard_size="5KB")
    assert not (tmp_path / "model.safetensors").exists()
    again = load_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vit", {"hidden_size": 10**9}), ("vit", {"num_hidden_layers": 10**6}), ("vit", {"image_size": 10**7}),
        ("vit", {"intermediate_size": 60_000, "hidden_size": 60_000}), ("resnet", {"depths": [10**6, 1]}), ("dinov2", {"mlp_ratio": 10**6}),
        ("convnext", {"depths": [10**12, 1]}), ("swin", {"window_size": 60_000}), ("swin", {"depths": [10**5, 10**5]}),
    ],
)  # fmt: skip
def test_numbers_cost_no_memory(name, values, stored, tmp_path):
    folder = shutil.copytree(stored[name], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with little_memory(200 * 2**20), soon(), pytest.raises(InputError, match="more than its weights can be of|far larger model|do not fit"):
        load_pretrained(folder)


def test_preprocessor_config(stored, tmp_path):
    folder = shutil.copytree(stored["small resnet"], tmp_path / "model")
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text())
    pad = {"pad_size": {"height": 10**5, "width": 10**5}, "do_pad": True}
    more = {**pad, "crop_pct": 1e-9, "__call__": 1, "preprocess": "x", "auto_map": 3}
    tried = [replaced(values, path, other) for path in leaves(values) for other in ODD] + [values | {key: more[key]} for key in more]
    worked = 0
    with little_memory():
        for odd in [*random.Random(0).sample(tried, 60), values | pad, values | more]:
            file.write_text(json.dumps(odd))
            found = outcome(use, folder)
            worked += found is not None
    assert worked, "what does not matter is no error"


@pytest.mark.parametrize("std", [[0.2, 0.0, 0.2], [0.2, -0.1, 0.2], [0.2, float("inf"), 0.2]])
def test_a_preprocessor_that_divides_by_nothing_is_refused(std, stored, tmp_path):
    values = json.loads((stored["vit"] / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values | {"image_std": std}))
    with pytest.raises(InputError, match="image_std|Infinity"):
        Preprocessing.read(tmp_path)


def test_config_of_a_method(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    values = json.loads((folder / "config.json").read_text())
    tried = [replaced(values, path, other) for path in leaves(values) for other in ODD if path[:1] in ((), ("sslzoo",))]
    for odd in random.Random(0).sample(tried, 30):
        (folder / "config.json").write_text(json.dumps(odd))
        method = outcome(sslzoo.load, folder)
        assert method is None or all(value.isfinite().all() for value in method.state_dict().values())


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_heads_that_are_not_finite_are_named(value, run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    heads = load_file(folder / "ssl_heads.safetensors")
    name = next(name for name, tensor in heads.items() if tensor.is_floating_point())
    heads[name].view(-1)[-1] = value
    save_file(heads, folder / "ssl_heads.safetensors")
    with pytest.raises(InputError, match=f"ssl_heads.safetensors are not finite: 1 tensors, the first is '{name}'"):
        sslzoo.load(folder)


def test_results(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    values = json.loads((folder / "results.json").read_text())
    values["numbers"] = values["numbers"][:1]
    number = values["numbers"][0]
    tried = [replaced(values, path, other) for path in leaves(values) for other in ODD]
    for odd in random.Random(0).sample(tried, 150):
        before = json.dumps(odd)
        (folder / "results.json").write_text(before)
        read = outcome(Run(folder).results)
        outcome(lambda: Run(folder).weights_sha256)
        written = outcome(lambda: Run(folder).add_numbers([number]) or "written")
        after = (folder / "results.json").read_text()
        assert (read is None) == (written is None) and (after == before if written is None else number in json.loads(after)["numbers"])


@pytest.mark.slow
def test_commands_say_one_line(run, stored, tmp_path, capsys):
    """A sample of it through the command line: exit code 0, or 2 and a line."""
    pets = make_pets(tmp_path / "pets")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    file = str(tmp_path / "features.parquet")
    commands = (
        ["evaluate", str(folder), "--on", str(pets), "--cpu"], ["embed", str(folder), str(pets), "--output", file, "--cpu"],
        ["card", str(folder)],
    )  # fmt: skip
    files = ("config.json", "preprocessor_config.json", "results.json")
    texts = {name: (folder / name).read_text() for name in files}
    tried = [(name, path, other) for name in files for path in leaves(json.loads(texts[name])) for other in ODD]
    for index, (name, path, other) in enumerate(random.Random(1).sample(tried, 9)):
        for file, text in texts.items():
            (folder / file).write_text(text)
        (folder / name).write_text(json.dumps(replaced(json.loads(texts[name]), path, other)))
        with soon():
            code = main(commands[index % 3])
        said = capsys.readouterr().err
        assert code == 0 or code == 2 and said.splitlines()[-1].startswith("error: "), (name, path, other)


@pytest.mark.slow
def test_what_the_hub_does_not_give(tmp_path):
    """Through the Hub's own client: one line each, and what to do."""
    program = """
import json, sys
from sslzoo.encoders import load_pretrained, model_folder
from sslzoo.errors import InputError
said = {}
for name, revision in (("ada/none", None), ("ada/pictures", None), ("ada/secret", None), ("ada/open", "v9"), ("ada/open", None)):
    try:
        load_pretrained(model_folder(name, revision=revision))
    except InputError as error:
        said[f"{name} {revision}"] = str(error)
print(json.dumps(said))
"""
    with HubServer({"hf_ada": "ada"}) as server:
        server.add("ada/pictures", {"README.md": "text"}, kind="datasets")
        server.add("ada/secret", {"config.json": "{}"}, private=True)
        server.add("ada/open", {"config.json": '{"model_type": "vit"}', "pytorch_model.bin": "x", "unet/model.safetensors": "x"})
        done = server.run_python(program, tmp_path)
        asked = "\n".join(path for _, path in server.log)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in ("none", "pictures", "secret"):
        assert "a model, not a data set? Is it private? Then `hf auth login`" in said[f"ada/{name} None"]
    assert "has no revision 'v9'" in said["ada/open v9"]
    assert "weights as pickles or GGUF are not read: convert them" in said["ada/open None"]
    assert "pytorch_model.bin" not in asked and "unet/model.safetensors" not in asked, "what is not used is not downloaded"
