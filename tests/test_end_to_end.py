"""The whole way over a Hub on loopback, as a user types it: from a recipe to a stranger's machine that measures the same numbers."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from hub_server import HubServer
from PIL import Image
from python_server import start_python

ADA, ADA_AGAIN = "hf_adas_first_secret", "hf_adas_second_secret"
MODEL, DINOV2 = "ada/simclr-res6-digits", "facebook/dinov2-tiny"
DATA, FAR_AWAY = "ada/gratings", "ada/far-away"
RUN = "runs/simclr-res6-digits"
EVERY_COMMIT_HAS = {
    "README.md", "config.json", "configuration_sslzoo_resnet.py", "curves.png", "metrics.jsonl", "model.safetensors",
    "modeling_sslzoo_resnet.py", "preprocessor_config.json", "recipe.yaml", "results.json", "ssl_heads.safetensors",
}  # fmt: skip
# A line is a command of sslzoo's, or Python after ">", which sets `result`; the answer is a line. One process serves a person all along.
SHELL = """
import contextlib, io, json, shlex, sys, time
from sslzoo.cli import main
time.sleep = lambda seconds: None  # the waits between two tries are long
names = {}
for line in sys.stdin:
    command, out, code = json.loads(line), io.StringIO(), None
    with contextlib.redirect_stdout(out):
        if command.startswith(">"):
            exec(command[1:].strip(), names)
        else:
            code = main(shlex.split(command))
    print(json.dumps({"code": code, "out": out.getvalue(), "result": names.pop("result", None)}), flush=True)
"""


class Answer(NamedTuple):
    code: int | None  # of a command
    out: str
    error: str
    result: Any  # of Python

    @property
    def rows(self) -> list[dict]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]


class Person:
    """A machine and who sits there: a folder to work in, a cache, and a token where somebody signed in."""

    def __init__(self, server: HubServer, place: Path, **environment: str):
        self.folder, self.home, self._errors = place / "work", place / "home", place / "stderr"
        for folder in (self.folder, self.home):
            folder.mkdir(exist_ok=True, parents=True)
        with open(self._errors, "w") as errors:
            self._process = start_python(
                SHELL, env=server.environment(self.home) | environment, cwd=self.folder, stderr=errors.fileno()
            )

    def sign_in(self, token: str) -> None:
        """As `hf auth login` does it; a token in the environment would come first."""
        self.types("> import os; os.environ.pop('HF_TOKEN', None)")
        (self.home / "token").write_text(token)

    def types(self, command: str) -> Answer:
        start = self._errors.stat().st_size
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        error = self._errors.read_bytes()[start:].decode()
        assert line and not holds_token((line + error).encode()) and "Traceback" not in error, error
        answer = json.loads(line)
        return Answer(answer["code"], answer["out"], error, answer["result"])

    def succeeds(self, command: str) -> Answer:
        answer = self.types(command)
        assert answer.code in (0, None), answer
        return answer

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *_) -> None:
        self._process.close()


def holds_token(data: bytes) -> bool:
    return any(token.encode() in data for token in (ADA, ADA_AGAIN))


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def gratings() -> dict[str, bytes]:
    """A Hub data set in Parquet: six classes of stripes, too noisy for every neighbour to be right, neither square nor of one size."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Picture

    random, files = np.random.default_rng(0), {}
    for split, count in (("train", 90), ("test", 60)):
        images = []
        for index in range(count):
            height, width = random.integers(34, 50, 2)
            rows, columns = np.mgrid[:height, :width]
            angle = np.pi * (index % 6) / 6
            wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) / 2 + random.uniform(0, 6))
            pixels = 128 + 50 * wave[..., None] * random.uniform(0.2, 1, 3) + random.normal(0, 40, (height, width, 3))
            images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        features = Features({"image": Picture(), "label": ClassLabel(names=[f"{30 * step} degrees" for step in range(6)])})
        whole = BytesIO()
        Dataset.from_dict({"image": images, "label": [index % 6 for index in range(count)]}, features=features).to_parquet(whole)
        files[f"data/{split}-00000-of-00001.parquet"] = whole.getvalue()
    return files


def dinov2(folder: Path) -> dict[str, bytes]:
    """Weights of others: a tiny random one with its own processor, resized to 24 px, of which 21 are seen."""
    import torch
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42, "patch_size": 7}
    model = Dinov2Model(Dinov2Config(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 21, "width": 21}, resample=3, image_mean=[0.3, 0.5, 0.7], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(folder)
    return bytes_in(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    stripes = gratings()
    with HubServer({ADA: "ada", ADA_AGAIN: "ada"}) as server:
        for name in (DATA, FAR_AWAY):
            server.add(name, stripes, kind="datasets")
        server.add(DINOV2, dinov2(tmp_path_factory.mktemp("dinov2")))
        yield server


@pytest.fixture(scope="module")
def ada(server, tmp_path_factory):
    with Person(server, tmp_path_factory.mktemp("ada"), HF_TOKEN=ADA) as ada:
        yield ada


@pytest.fixture(scope="module")
def stranger(server, tmp_path_factory):
    with Person(server, tmp_path_factory.mktemp("stranger")) as stranger:
        yield stranger


@pytest.fixture(scope="module")
def published(ada) -> Path:
    """Ada's run folder, which is on the Hub too: trained and measured on the digits, measured on a data set of the Hub's."""
    ada.succeeds("train digits/simclr --set epochs=2 --cpu")
    ada.succeeds(f"evaluate {RUN} --protocol knn-instdisc-v2 linear-features-v1 --cpu")
    ada.succeeds(f"evaluate {RUN} --on {DATA} --cpu")
    ada.succeeds(f"card {RUN}")
    assert ada.succeeds(f"publish {RUN} --to ada").out.strip().endswith(f"/{MODEL}")
    return ada.folder / RUN


def numbers_of(rows: list[dict]) -> dict[str, float]:
    """Values by what they are of, whichever epoch was the best."""
    values = {}
    for row in rows:
        setting = sorted((name, value) for name, value in row["arguments"].items() if name != "epoch")
        values[str([*(row[key] for key in ("protocol", "dataset", "split", "metric", "when")), setting])] = row["value"]
    return values


def assert_no_token(person: Person, server: HubServer) -> None:
    """On the machine, but where it was signed in; and on the Hub. What was printed is looked through as it is read."""
    files = bytes_in(person.folder.parent)
    assert [name for name, data in files.items() if holds_token(data)] == [name for name in files if name == "home/token"]
    assert not any(map(holds_token, server.objects.values())), "a file of some commit, or one that was uploaded and not committed"
    said = [commit[:-1] for repository in server.repositories.values() for commit in repository.commits.values()]
    assert not holds_token(str([said, server.log]).encode())


@pytest.mark.slow
def test_a_stranger_measures_what_was_published(server, ada, stranger, published):
    results = json.loads((published / "results.json").read_text())
    last = [number for number in results["numbers"] if number["when"] == "last"]
    assert len(last) == 8 + 2 + 8 and {number["dataset"] for number in last} == {"digits", DATA}
    assert {name: data for name, data in server.files(MODEL).items() if name != ".gitattributes"} == bytes_in(published)

    commits = len(server.repository(MODEL).commits)
    again = ada.succeeds(f"publish {RUN} --to ada")
    assert len(server.repository(MODEL).commits) == commits == 2, "the one that creates the repository, and the run"
    assert again.error == "" and again.out.strip().endswith(f"/{MODEL}")

    listed, aside = stranger.succeeds(LIST).result
    assert aside == []
    (entry,) = (entry for entry in listed if entry["name"] == MODEL)
    assert (entry["method"], entry["encoder"], entry["dataset"], entry["images"]) == ("simclr", "res6", "digits", 1297)
    shown = [number | {"arguments": dict(number["arguments"])} for number in entry["numbers"]]
    assert numbers_of(shown) == numbers_of(results["numbers"]) and len(shown) == len(results["numbers"])

    findings = stranger.succeeds(f"reproduce {MODEL} --cpu --json").rows
    assert {finding["verdict"] for finding in findings} == {"equal", "cannot be repeated"}
    assert sum(finding["verdict"] == "cannot be repeated" for finding in findings) == len(results["numbers"]) - len(last)
    repeated = [finding["found"] for finding in findings if finding["what"].endswith(("-v1", "-v2"))]
    assert repeated == [number["value"] for number in last]

    stranger.succeeds(f"embed {MODEL} digits --output digits.parquet --cpu")
    assert stranger.succeeds(LOAD.format(name=MODEL, folder=str(published))).result == {
        "class": "SimCLR", "whole method": True, "same weights": True, "same features": True
    }  # fmt: skip
    measured = stranger.succeeds(f"evaluate {MODEL} --on {DATA} --cpu --json").rows
    assert numbers_of(measured) == numbers_of([number for number in last if number["dataset"] == DATA])
    assert_no_token(ada, server)
    assert_no_token(stranger, server)


LIST = """>
from dataclasses import asdict
from sslzoo.hub import hub_models, read_entries
kept, quarantined = read_entries(hub_models())
rows = [asdict(entry) | {"numbers": [one._asdict() for one in entry.measurements]} for entry in kept]
result = [rows, quarantined]
"""
# Braces are doubled, as the names are put in.
LOAD = """>
import pyarrow.parquet as parquet, sslzoo, torch
from PIL import Image
from safetensors.torch import load_file
from sslzoo.data.digits import scattered_digits
from transformers import AutoImageProcessor, AutoModel
model = AutoModel.from_pretrained("{name}").eval()
method = sslzoo.load("{name}")
images = [Image.fromarray(image) for image in scattered_digits("train")[0][:64]]
with torch.no_grad():
    pooled = model(**AutoImageProcessor.from_pretrained("{name}")(images, return_tensors="pt")).pooler_output.flatten(1)
embedded = torch.tensor(parquet.read_table("digits.parquet")["feature"][:64].to_pylist())
weights, heads = (load_file(f"{folder}/{{name}}.safetensors") for name in ("model", "ssl_heads"))
loaded, whole = model.state_dict(), method.state_dict()
result = {{
    "class": type(method).__name__, "same weights": all(torch.equal(loaded[key], value) for key, value in weights.items()),
    "whole method": len(whole) == len(weights) + len(heads) and all(torch.equal(whole[key], value) for key, value in heads.items()),
    "same features": bool(pooled.std() > 0.01) and torch.allclose(pooled, embedded, atol=1e-4),
}}
"""


@pytest.mark.slow
def test_a_card_on_the_hub_that_says_more_than_was_measured_is_found_out(server, stranger, published):
    """Eve publishes Ada's model as hers, one number of her card 9 points above, and a line of her own in the code."""
    files = server.files(MODEL)
    value = next(number["value"] for number in json.loads(files["results.json"])["numbers"] if number["when"] == "last")
    card = files["README.md"].decode()
    assert f"value: {value}\n" in card
    code = "modeling_sslzoo_resnet.py"
    changed = {"README.md": card.replace(f"value: {value}\n", f"value: {value + 0.09:.3f}\n"), code: files[code] + b"\nimport os\n"}
    server.add("eve/simclr", files | changed)
    try:
        listed, aside = stranger.succeeds(LIST).result
        answer = stranger.types("reproduce eve/simclr --cpu --json")
    finally:
        del server.repositories["models", "eve/simclr"]
    assert "eve/simclr" not in [entry["name"] for entry in listed]
    assert aside == [["eve/simclr", f"its card is that of {MODEL}"]]
    different = [finding for finding in answer.rows if finding["verdict"] == "different"]
    told = {finding["what"] for finding in different}
    assert answer.code == 1 and {"card: repository", "card: numbers[0].value", code} <= told
    assert all(what.startswith(("card: ", "text: ", code)) for what in told), "the text names Ada's repository"


@pytest.mark.slow
def test_weights_of_others_are_measured_as_transformers_sees_them(stranger):
    measured = stranger.succeeds(f"evaluate {DINOV2} --on {DATA} --cpu --json").rows
    stranger.succeeds(f"embed {DINOV2} {DATA} --split test --output gratings.parquet --cpu")
    expected, near = stranger.succeeds(PLAIN.format(name=DINOV2, data=DATA)).result
    assert near > 0.99, "the features themselves, but for the rounding of pixels"
    found = {f"{row['metric']} {row['arguments']['k']} {row['arguments']['temperature']}": row["value"] for row in measured}
    assert found.keys() == expected.keys() and len(found) == 8
    assert len(set(found.values())) > 3, "numbers that tell one setting from another"
    for name, value in expected.items():
        assert abs(found[name] - value) <= 1 / 60 + 1e-9, f"{name}: more than one image of 60"


# Once more by the book: their processor, their model, neighbours counted one by one. Features are compared less their mean, as all of a
# random network's point the same way.
PLAIN = """>
import math, numpy as np, pyarrow.parquet as parquet, torch
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModel
processor, model = AutoImageProcessor.from_pretrained("{name}"), AutoModel.from_pretrained("{name}").eval()
rows = load_dataset("{data}")
with torch.no_grad():
    features = {{
        split: [model(**processor(image, return_tensors="pt")).pooler_output[0].numpy() for image in rows[split]["image"]] for split in rows
    }}
embedded, own = np.array(parquet.read_table("gratings.parquet")["feature"].to_pylist()), np.stack(features["test"])
embedded, own = embedded - embedded.mean(0), own - own.mean(0)
near = float(((embedded * own).sum(1) / np.linalg.norm(embedded, axis=1) / np.linalg.norm(own, axis=1)).min())
unit = lambda row: row / np.linalg.norm(row)
correct = {{}}
for query, true in zip(features["test"], rows["test"]["label"]):
    cosines = [float(unit(query) @ unit(row)) for row in features["train"]]
    near_first = sorted(zip(cosines, rows["train"]["label"]), reverse=True)
    for k in (20, 200):
        for temperature in (0.1, 0.07):
            votes = dict.fromkeys(range(6), 0.0)
            for cosine, label in near_first[:k]:
                votes[label] += math.exp(cosine / temperature)
            ranked = sorted(votes, key=votes.get, reverse=True)
            for top in (1, 5):
                key = f"knn_top{{top}} {{k}} {{temperature}}"
                correct[key] = correct.get(key, 0) + (true in ranked[:top])
result = [{{key: count / len(features["test"]) for key, count in correct.items()}}, near]
"""


@pytest.mark.slow
def test_what_was_used_once_works_without_a_network(server, stranger, published):
    commands = [f"evaluate {name} --on {DATA} --cpu --json" for name in (MODEL, DINOV2)]
    load = f'> import sslzoo, transformers; result = [str(sslzoo.load("{MODEL}")), str(transformers.AutoModel.from_pretrained("{MODEL}"))]'
    embed = f"embed {MODEL} {DATA} --cpu --output"
    stranger.succeeds(f"{embed} online.parquet")
    online, loaded = [stranger.succeeds(command).rows for command in commands], stranger.succeeds(load).result
    before = len(server.log)
    with Person(server, stranger.folder.parent, HF_HUB_OFFLINE="1") as offline:
        assert [offline.succeeds(command).rows for command in commands] == online
        assert offline.succeeds(load).result == loaded
        offline.succeeds(f"{embed} offline.parquet")
        answer = offline.types(f"evaluate {MODEL} --on {FAR_AWAY}-too --cpu")
        assert answer.code == 2 and f"{FAR_AWAY}-too" in answer.error, "what was never used is told in a line"
    assert (stranger.folder / "offline.parquet").read_bytes() == (stranger.folder / "online.parquet").read_bytes()
    assert server.log[before:] == []


def assert_whole_at_every_commit(server: HubServer, name: str) -> None:
    for commit in server.repository(name).commits.values():
        if commit.files.keys() == {".gitattributes"}:
            continue
        assert commit.files.keys() >= EVERY_COMMIT_HAS, commit
        metadata = yaml.safe_load(server.objects[commit.files["README.md"].etag].decode().split("---\n")[1])["sslzoo"]
        results = json.loads(server.objects[commit.files["results.json"].etag])
        assert metadata["weights_sha256"] == commit.files["model.safetensors"].etag == results["training"]["files"]["model.safetensors"]
        assert results["training"]["files"]["ssl_heads.safetensors"] == commit.files["ssl_heads.safetensors"].etag
        assert numbers_of(metadata["numbers"]) == numbers_of(results["numbers"])


@pytest.mark.slow
def test_faults_on_the_way_cost_no_results_and_leave_no_half_model(server, ada):
    run, name = ada.folder / "runs/night", "ada/night"

    def results() -> dict[str, bytes]:
        """What is in the run folder but the card, which is made of it."""
        return {file: data for file, data in bytes_in(run).items() if not file.endswith((".md", ".png"))}

    def fails(command: str, code: int, *said: str) -> None:
        """In one line, behind what the Hub's client says of its own tries, and without a change in the results."""
        before = results()
        answer = ada.types(command)
        line = answer.error.splitlines()[-1]
        assert answer.code == code and answer.error.count("error: ") == 1 and line.startswith("error: "), answer
        assert all(text in line for text in said), answer
        assert results() == before

    before = len(server.log)
    ada.succeeds("train digits/simclr --set epochs=1 image_size=8 name=night --cpu")
    assert server.log[before:] == [], "training needs no Hub"

    trained = results()
    server.fail("GET", f"{FAR_AWAY}/resolve/.*parquet", 503)
    fails(f"evaluate {run} --on {FAR_AWAY} --cpu", 2, f"'{FAR_AWAY}'", "503")
    server.fail("HEAD", f"{FAR_AWAY}/resolve/.*parquet", 503, times=2)
    server.fail("GET", f"{FAR_AWAY}/resolve/.*parquet", 429)
    server.cut("GET", f"{FAR_AWAY}/resolve/.*parquet", times=2)
    ada.succeeds(f"evaluate {run} --on {FAR_AWAY} --cpu")
    assert not server._faults
    assert {file for file, data in results().items() if data != trained.get(file)} == {"results.json"}
    assert json.loads(results()["results.json"])["training"] == json.loads(trained["results.json"])["training"]
    trained = results()

    server.revoke(ADA)
    fails(f"publish {run} --to ada", 1, "`hf auth login`", str(run))
    assert ("models", name) not in server.repositories
    ada.sign_in(ADA_AGAIN)
    server.cut("PUT", "/lfs/objects/", times=200)
    fails(f"publish {run} --to ada", 1, "publish again")
    assert server.files(name).keys() == {".gitattributes"}
    server._faults.clear()
    server.cut("PUT", "/lfs/objects/")
    server.fail("POST", "/commit/main")
    server.cut("POST", "/commit/main")
    server.cut("POST", "/commit/main", answered=True)
    ada.succeeds(f"publish {run} --to ada")
    assert not server._faults and results() == trained
    first = server.files(name)
    assert {file: data for file, data in first.items() if file != ".gitattributes"} == bytes_in(run)

    ada.succeeds(f"train digits/simclr --set epochs=1 seed=1 image_size=8 name=night --output {run}-again --cpu")
    run = ada.folder / "runs/night-again"
    server.cut("PUT", "/lfs/objects/", times=200)
    fails(f"publish {run} --to ada", 1, "publish again")
    assert server.files(name) == first
    server._faults.clear()
    ada.succeeds(f"publish {run} --to ada")
    assert server.files(name)["model.safetensors"] == (run / "model.safetensors").read_bytes() != first["model.safetensors"]
    assert_whole_at_every_commit(server, name)
    assert len(server.repository(name).commits) == 3
    assert_no_token(ada, server)
