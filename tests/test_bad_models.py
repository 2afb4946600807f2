"""Models of the Hub that cannot be used, as a user meets them: each command says in one line what is wrong and what to do."""

import json

import pytest
from families import SIZE, random_encoder
from hub_server import HubServer
from transformers import BertConfig, BertModel

from sslzoo.encoders import to_plain
from sslzoo.evaluation import Preprocessing

# What each command line says of the model, by its name.
SAID = {
    "ada/text": "'bert': an encoder of images is needed",
    "ada/gated": "is gated: ask for access on https://huggingface.co/ada/gated, then `hf auth login`",
    "ada/pickle": "weights as pickles or GGUF are not read: convert them to safetensors",
    "ada/fine@v9": "the model 'ada/fine' has no revision 'v9' on the Hub: give one of its branches, tags or commits",
    "ada/none": "there is no model 'ada/none'",
    "ada/pictures": "a model, not a data set?",
    "ada/code": "the model_type 'mine', which transformers does not know",
}
FINE = {  # what they say of a model that fits, and is not asked as it should be
    "train digits/simclr --set init_from=ada/fine image_size=30": "image_size 30 is no multiple of it (the nearest: 24 and 32)",
    "train digits/simclr --set init_from=ada/fine init_license=bsd": "init_license is 'bsd', but the card of ada/fine says 'mit'",
    "train digits/simclr --set init_from=ada/fine encoder=res6": "not the encoder 'res6': leave `encoder` out",
    "train digits/seed --set teacher=ada/fine teacher_size=30": "teacher_size is 30",
    "train digits/seed --set teacher=ada/fine teacher_license=bsd": "teacher_license is 'bsd', but the card of ada/fine says 'mit'",
    "evaluate ada/fine": "names a data set: choose one with --on",
}
PROGRAM = """
import contextlib, io, json, os, sys
from sslzoo.cli import main
os.chdir(os.environ["HF_HOME"])
said = {}
for name in NAMES:
    commands = {
        "train": ["train", "digits/simclr", "--set", f"init_from={name}", "epochs=1"],
        "teacher": ["train", "digits/seed", "--set", f"teacher={name}", "epochs=1"],
        "encoder": ["train", "digits/simclr", "--set", f"encoder={name}", "epochs=1"],
        "evaluate": ["evaluate", name, "--on", "digits"],
        "embed": ["embed", name, "digits", "--output", "features.parquet"],
        "similar": ["similar", name, "digits"],
        "export": ["export", name, "--output", "encoder.onnx"],
    }
    if name == "ada/pickle":  # whose architecture alone can be taken
        del commands["encoder"]
    for command, arguments in commands.items():
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            code = main([*arguments, *["--cpu"] * (command != "export")])
        said[f"{name} {command}"] = [code, stream.getvalue()]
for line in LINES:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        code = main([*line.split(), "--cpu"])
    said[line] = [code, stream.getvalue()]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_each_command_says_what_is_wrong_in_one_line(tmp_path):
    text, fine = tmp_path / "text", tmp_path / "fine"
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(tiny).save_pretrained(text)
    to_plain(random_encoder("dinov2")).save_pretrained(fine)
    for folder in (text, fine):
        Preprocessing(SIZE, SIZE).write(folder)
    files = {file.name: file.read_bytes() for file in fine.iterdir()} | {"README.md": b"---\nlicense: mit\n---\n"}
    with HubServer({"hf_bob": "bob"}) as server:
        server.add("ada/text", {file.name: file.read_bytes() for file in text.iterdir()})
        for name in ("ada/fine", "ada/gated"):
            server.add(name, files)
        server.repository("ada/gated").gated = "manual"
        server.add("ada/pickle", {**{name: data for name, data in files.items() if name.endswith("json")}, "pytorch_model.bin": b"x"})
        server.add("ada/code", {**files, "config.json": '{"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}'})
        server.add("ada/pictures", {"README.md": "text"}, kind="datasets")
        done = server.run_python(PROGRAM.replace("NAMES", str([*SAID])).replace("LINES", str([*FINE])), tmp_path, "hf_bob")
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert not {"similar", "features.parquet", "encoder.onnx", "runs"} & {file.name for file in tmp_path.iterdir()}
    wrong = {}
    for what, (code, lines) in said.items():
        name, command, *_ = what.split()
        expected = FINE[what] if what in FINE else "'bert'" if command == "encoder" and name == "ada/text" else SAID[name]
        if code != 2 or len(lines.splitlines()) != 1 or not lines.startswith("error: ") or expected not in lines:
            wrong[what] = (code, lines)
    assert not wrong, json.dumps(wrong, indent=1)
