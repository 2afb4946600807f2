"""Publishing to a Hub on loopback: one complete commit or none, and what is published loads in plain transformers."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from curves_once import draw_curves_once
from hub_server import HubServer
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from python_server import start_python
from safetensors.torch import load_file, save_file
from test_card import FOREVER, change, make_run
from test_training import short_recipe, train

import sslzoo
from sslzoo.cli import main
from sslzoo.encoders import build_encoder, encoder_config, to_plain
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing
from sslzoo.hub import check_card, pictures, publish_all, write_card
from sslzoo.hub.hub_errors import explain
from sslzoo.run import Run

ADA, EVE = "hf_adas_secret", "hf_eves_secret"
FILES = {
    "README.md", "config.json", "curves.png", "maps.png", "metrics.jsonl", "model.safetensors", "neighbours.png",
    "preprocessor_config.json", "recipe.yaml", "results.json", "ssl_heads.safetensors",
}  # fmt: skip
CODE = {"configuration_sslzoo_resnet.py", "modeling_sslzoo_resnet.py"}
# One process publishes for all the tests, as the client is slow to import: arguments and answers are JSON lines.
CLIENT = """
import contextlib, io, json, sys, time, traceback
import sslzoo.hub.card
from curves_once import draw_curves_once
from sslzoo.hub import publish
sslzoo.hub.card.draw_curves = draw_curves_once
slept = []
time.sleep = slept.append  # skips the delays between two attempts
for line in sys.stdin:
    out, answer = io.StringIO(), {}
    slept.clear()
    try:
        with contextlib.redirect_stdout(out):
            arguments = json.loads(line)
            repository = arguments.pop("push_to_hub", None)
            if repository is None:
                answer["url"] = publish(**arguments)
            else:
                answer["url"] = sslzoo.load(arguments["folder"]).push_to_hub(repository)
    except Exception as error:
        answer |= {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    print(json.dumps({**answer, "output": out.getvalue(), "slept": sum(slept)}), flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def curves_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sslzoo.hub.card.draw_curves", draw_curves_once)
        yield


@pytest.fixture(scope="module")
def server():
    with HubServer({ADA: ("ada", "sslzoo"), EVE: "eve"}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    """Publishes a folder and returns the outcome. No token is in it, nor in what the process printed."""
    home = tmp_path_factory.mktemp("home")
    environment = server.environment(home, ADA) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with open(home / "stderr", "w") as errors:
        process = start_python(CLIENT, env=environment, stderr=errors.fileno())

    def publish(folder: Path, namespace: str = "sslzoo", **arguments) -> dict:
        process.stdin.write(json.dumps({"folder": str(folder), "namespace": namespace, **arguments}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        printed = line + (home / "stderr").read_text()
        assert line and not any(secret in printed for secret in (ADA, EVE, "hf_nobodys_secret")), printed
        assert "signature=" not in (home / "stderr").read_text()
        answer = json.loads(line)
        assert "\n" not in answer.get("message", "") and "signature=" not in answer.get("message", "")
        return answer

    with process:
        yield publish


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """Finished runs by encoder, the ViT's with more than 10 MB of heads; each with files that must not be published."""
    runs = {}
    for encoder, wide in (("vit-xs4", {"hidden_dim": 4096, "projection_dim": 640}), ("res6", {})):
        folder = make_run(tmp_path_factory.mktemp("runs") / encoder, encoder=encoder, **wide).folder
        write_card(folder)
        (folder / "checkpoints/step-10").mkdir(parents=True)
        for name in ("checkpoints/step-10/method.safetensors", ".lock", ".env", "events.out.tfevents.1", "notes.txt", "modeling_other.py"):
            (folder / name).write_text("not for the Hub")
        runs[encoder] = folder
    return runs


@pytest.fixture
def run(made, tmp_path, request, server):
    """A copy of the small run of `encoder` under its own name: no other test has this repository."""

    def copied(encoder: str = "res6", name: str | None = None):
        name = name or re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:90].strip("-")
        folder = tmp_path / f"{encoder}-{name}"
        return named(shutil.copytree(made[encoder], folder), name), f"sslzoo/{name}"

    yield copied
    server._faults.clear()


def named(folder: Path, name: str) -> Path:
    """Renames the run as if it had been trained under this name."""
    recipe = (folder / "recipe.yaml").read_text().splitlines()
    (folder / "recipe.yaml").write_text("\n".join(f"name: {name}" if line.startswith("name:") else line for line in recipe) + "\n")
    return record_digests(folder)


def record_digests(folder: Path) -> Path:
    """Records the digests of the files as they are now, as the training does."""
    run = Run(folder)
    results = run.results()
    results["training"]["files"] = run.digests()
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return folder


def train_on(folder: Path) -> None:
    """Changes the heads, so that the Hub has not stored these bytes yet and requests their upload."""
    heads = load_file(folder / "ssl_heads.safetensors")
    for value in heads.values():
        value += sum(map(ord, folder.name))
    save_file(heads, folder / "ssl_heads.safetensors", metadata={"format": "pt"})
    record_digests(folder)


def commits(server, repository: str) -> int:
    """Commits after the one that creates the repository."""
    return len(server.repository(repository).history()) - 1


def published(server, repository: str) -> dict[str, bytes]:
    return {name: data for name, data in server.files(repository).items() if name != ".gitattributes"}


def request_count(server, method: str, part: str) -> int:
    return sum(sent == method and part in path for sent, path in server.log)


PLAIN = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sslzoo":
            raise ModuleNotFoundError("sslzoo is not installed here", name=name)

blocked = Blocked()
sys.meta_path.insert(0, blocked)
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

name = "sslzoo/plain"
image = Image.new("RGB", (40, 30), (200, 30, 90))
model = AutoModel.from_pretrained(name)
extract = pipeline("image-feature-extraction", model=name, pool=True)
pixels = AutoImageProcessor.from_pretrained(name)(image, return_tensors="pt")
with torch.no_grad():
    expected = model(**pixels).last_hidden_state[0, 0]
pooled = torch.tensor(extract(image)[0])
assert not any(module.startswith("sslzoo") for module in sys.modules)
sys.meta_path.remove(blocked)
import sslzoo
method, own = sslzoo.load(name), sslzoo.load(FOLDER)
loaded, kept = method.state_dict(), own.state_dict()
encoder = method.encoder.state_dict()
same = loaded.keys() == kept.keys() and all(torch.equal(loaded[key], kept[key]) for key in kept)
print(json.dumps({
    "class": type(model).__name__, "same features": torch.allclose(pooled, expected, atol=1e-5),
    "whole method": type(method).__name__, "same": same, "heads too": len(kept) > len(encoder),
    "same encoder": all(torch.equal(value, model.state_dict()[key]) for key, value in encoder.items()),
}))
"""


def test_a_published_run_loads_in_plain_transformers_and_completely_in_sslzoo(server, client, run, tmp_path):
    folder, repository = run("vit-xs4", "plain")
    assert (folder / "ssl_heads.safetensors").stat().st_size > 10_000_000
    answer = client(folder)
    assert answer.get("url") == f"{server.url}/{repository}", answer
    files = published(server, repository)
    assert files.keys() == FILES, "no checkpoints, other code or notes"
    assert files == {name: (folder / name).read_bytes() for name in FILES}
    assert commits(server, repository) == 1
    done = server.run_python(PLAIN.replace("FOLDER", repr(str(folder))), tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "silently"
    assert json.loads(done.stdout) == {
        "class": "ViTModel", "same features": True, "whole method": "SimCLR", "same": True, "same encoder": True, "heads too": True
    }  # fmt: skip


def test_publishing_again_makes_no_commit_and_a_new_version_makes_one(server, client, run):
    folder, repository = run()
    client(folder)
    files, puts = published(server, repository), request_count(server, "PUT", repository)
    assert files.keys() == FILES | CODE
    server.add(repository, {"examples/notebook.ipynb": "{}"})  # by hand, on the Hub
    before = commits(server, repository)
    assert "url" in client(folder)
    assert commits(server, repository) == before and request_count(server, "PUT", repository) == puts
    vit, _ = run("vit-xs4", repository.removeprefix("sslzoo/"))
    assert "url" in client(vit)
    assert commits(server, repository) == before + 1
    assert published(server, repository).keys() == FILES | {"examples/notebook.ipynb"}, "our code files are deleted, other files stay"


def test_weights_of_any_size_are_one_file_each(tmp_path, monkeypatch, capsys):
    """Tensors count a billion times their bytes: what is over 50 GB, transformers would split."""
    monkeypatch.setattr("huggingface_hub.serialization._torch.get_torch_storage_size", lambda tensor: tensor.nbytes * 10**9)
    run = train(short_recipe("simclr", epochs=1), tmp_path / "run")
    assert {file.name for file in run.folder.glob("*.safetensors*")} == {"model.safetensors", "ssl_heads.safetensors"}
    assert main(["publish", str(run.folder), "--to", "ada", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "  model.safetensors  " in out and "  ssl_heads.safetensors  " in out


def test_a_dry_run_does_not_contact_the_hub(server, client, run):
    folder, repository = run()
    before = len(server.log)
    answer = client(folder, dry_run=True)
    assert answer["url"] == f"{server.url}/{repository}" and len(server.log) == before and ("models", repository) not in server.repositories
    rows = [line.split(maxsplit=3) for line in answer["output"].splitlines()[1:]]
    assert {name: int(size.replace(",", "")) for size, _, name, _ in rows} == {
        name: (folder / name).stat().st_size for name in FILES | CODE
    }
    reveals = {name: what for _, _, name, what in rows}
    assert reveals["neighbours.png"] == "56 images of digits and the names of their classes"
    assert reveals["maps.png"] == "8 images of digits and maps of their features"
    assert "2 names of images that were left out" in reveals["results.json"] and "'digits'" in reveals["recipe.yaml"]


def test_invalid_folders_are_refused_before_the_hub_is_contacted(server, client, run):
    folder, _ = run()
    before = len(server.log)
    heads, code = (folder / "ssl_heads.safetensors").read_bytes(), (folder / "modeling_sslzoo_resnet.py").read_bytes()
    for name, kept in (("ssl_heads.safetensors", heads), ("modeling_sslzoo_resnet.py", code)):
        (folder / name).unlink()
        answer = client(folder)
        assert answer["error"] == "InputError" and f"not complete: {name} missing; finish the training" in answer["message"]
        index = folder / f"{name}.index.json"
        index.touch()
        assert client(folder)["message"].endswith("in shards: save them anew, without max_shard_size")
        index.unlink()
        (folder / name).write_bytes(kept)
    (folder / "ssl_heads.safetensors").write_bytes(heads[:-10])
    assert "ssl_heads.safetensors is damaged" in client(folder)["message"]
    (folder / "ssl_heads.safetensors").write_bytes(heads)
    answer = client(folder, token="hf_nobodys_secret\n")
    assert answer["error"] == "InputError" and "the token holds" in answer["message"]
    assert client(folder, namespace="no/name")["error"] == "InputError"
    change(Run(folder), provenance={"weights_sha256": FOREVER})
    answer = client(folder)
    assert answer["error"] == "InputError" and "kNN top-1 (k=20, T=0.1) (last) was measured on weights" in answer["message"]
    assert len(server.log) == before


def test_errors_about_tokens_say_what_to_do(server, client, run):
    folder, repository = run()
    answer = client(folder, token="hf_nobodys_secret")
    assert answer["error"] == "PublishError" and "`hf auth login`" in answer["message"] and str(folder) in answer["message"]
    assert answer["slept"] == 0, "retrying would not help"
    answer = client(folder, token=EVE)
    assert answer["error"] == "PublishError" and "may not write" in answer["message"] and answer["slept"] == 0
    assert ("models", repository) not in server.repositories


def test_a_token_revoked_between_two_versions_leaves_the_first(server, client, run):
    folder, repository = run()
    server.tokens["hf_passing"] = ("ada", "sslzoo")
    client(folder, token="hf_passing")
    before = published(server, repository)
    train_on(folder)
    server.revoke("hf_passing")
    answer = client(folder, token="hf_passing")
    assert answer["error"] == "PublishError" and "`hf auth login`" in answer["message"] and "hf_passing" not in str(answer)
    assert published(server, repository) == before and commits(server, repository) == 1


@pytest.mark.parametrize("method, path, status, times", [
    ("POST", "/repos/create", 503, 2),  # which the client itself does not retry
    ("GET", "/api/models/sslzoo/", 502, 2),
    ("POST", "/preupload/", 503, 2),
    ("POST", "/commit/main", 503, 2),
    ("POST", "/commit/main", 412, 1),  # after a concurrent commit
    ("PUT", "/lfs/objects/", 500, 7),  # more often than the client retries
])  # fmt: skip
def test_transient_errors_are_retried(server, client, run, method, path, status, times):
    folder, repository = run(name=f"unwell-{status}-{times}-{method.lower()}-{path.strip('/').replace('/', '-')}"[:90].rstrip("-"))
    train_on(folder)
    server.fail(method, path, status, times)
    answer = client(folder)
    assert "url" in answer, answer
    assert not server._faults and commits(server, repository) == 1 and published(server, repository).keys() == FILES | CODE


def test_lasting_errors_keep_the_previous_version(server, client, run):
    folder, repository = run()
    client(folder)
    before = published(server, repository)
    train_on(folder)
    for method, path in (("POST", "/repos/create"), ("PUT", "/lfs/objects/"), ("POST", "/commit/main")):
        server.fail(method, path, 503, times=200)
        answer = client(folder)
        assert answer["error"] == "PublishError" and "503" in answer["message"] and "publish again" in answer["message"], answer
        assert answer["slept"] >= 7 and published(server, repository) == before
        server._faults.clear()
    assert "url" in client(folder) and commits(server, repository) == 2 and published(server, repository) != before


def test_an_interrupted_upload_can_be_repeated(server, client, run):
    folder, repository = run("vit-xs4")
    server.cut("PUT", "/lfs/objects/", times=200)
    # Otherwise the Hub has these bytes already, from another test.
    train_on(folder)
    answer = client(folder)
    assert answer["error"] == "PublishError" and "publish again" in answer["message"], answer
    assert commits(server, repository) == 0
    server._faults.clear()
    server.cut("PUT", "/lfs/objects/", times=1)
    assert "url" in client(folder)
    assert commits(server, repository) == 1 and published(server, repository) == {name: (folder / name).read_bytes() for name in FILES}


def test_the_error_of_a_refused_upload_has_no_signed_address(server, client, run):
    folder, repository = run()
    train_on(folder)
    server.fail("PUT", "/lfs/objects/", 400, times=20, message="Bad request for url 'http://storage.example/key?signature=abc&expires=9'")
    answer = client(folder)
    assert answer["error"] == "PublishError" and "400 (Bad request for url 'http://storage.example/key')" in answer["message"], answer
    assert answer["slept"] == 0 and commits(server, repository) == 0


def test_the_error_of_a_hub_without_xet_names_the_workaround():
    error = ConnectionError("HTTP status client error (404 Not Found), domain: http://hub/api/models/a/b/xet-write-token/main")
    assert "HF_HUB_DISABLE_XET=1" in explain(error)


def test_a_lost_answer_does_not_commit_twice(server, client, run):
    """With a file deleted in the commit: deleting it again would be an error."""
    folder, repository = run()
    server.cut("POST", "/commit/main", answered=True)
    assert "url" in client(folder) and not server._faults and commits(server, repository) == 1
    vit, _ = run("vit-xs4", repository.removeprefix("sslzoo/"))
    server.cut("POST", "/commit/main", answered=True)
    assert "url" in client(vit) and not server._faults
    assert commits(server, repository) == 2 and published(server, repository).keys() == FILES


def test_visibility_is_never_changed_and_private_refuses_a_public_repository(server, client, run):
    folder, repository = run()
    assert "url" in client(folder, private=True) and server.repository(repository).private
    assert "url" in client(folder) and server.repository(repository).private, "publishing again does not change the visibility"
    server.repository(repository).private = False
    before = published(server, repository)
    train_on(folder)
    answer = client(folder, private=True)
    assert answer["error"] == "PublishError" and "exists and is public" in answer["message"] and answer["slept"] == 0
    assert published(server, repository) == before


PRIVATE = "maria.png"


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Path:
    """A run on private photographs, one of them broken."""
    place = tmp_path_factory.mktemp("home-of-ada")
    for index in range(9):
        (place / "pets" / "train" / "maria").mkdir(parents=True, exist_ok=True)
        (place / "pets" / "train" / "paul").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (25 * index, 90, 9)).save(place / "pets/train" / ("maria", "paul")[index % 2] / f"{index}.png")
    shutil.copytree(place / "pets/train", place / "pets/test")
    run = make_run(place / "run", dataset=str(place / "pets"), name="on-pets")
    results = run.results()
    results["training"]["skipped_images"] = [f"train/maria/{PRIVATE}"]
    run.write_results(results)
    return place


def test_images_names_and_paths_of_private_data_are_not_published(server, client, private, tmp_path):
    folder, repository = shutil.copytree(private / "run", tmp_path / "run"), "sslzoo/on-pets"
    write_card(folder, with_images=True)
    assert "(neighbours.png)" in (folder / "README.md").read_text() and "(maps.png)" in (folder / "README.md").read_text()
    output = client(folder, dry_run=True)["output"]
    assert "png" not in output.replace("curves.png", "").replace("not neighbours.png and maps.png: 'pets' is not known to be public", "")
    assert "name of the data set, 'pets'" in output and "numbers on 'pets'" in output and "names of images" not in output
    assert client(folder)["url"].endswith(repository)
    files = published(server, repository)
    assert files.keys() == (FILES | CODE) - {"neighbours.png", "maps.png"}
    card = files["README.md"].decode()
    assert "neighbours.png" not in card and "maps.png" not in card
    assert (folder / "neighbours.png").is_file(), "the local file stays"
    assert b"dataset: pets\n" in files["recipe.yaml"]
    results = json.loads(files["results.json"])
    assert results["training"].pop("skipped_images") == ["name not published"], "only their number is published"
    own = Run(folder).results()
    own["training"].pop("skipped_images")
    assert results == own
    for secret in (str(private), PRIVATE, "maria", "paul"):
        assert not any(secret.encode() in data for data in files.values()), secret
    assert str(private) in (folder / "recipe.yaml").read_text(), "the local recipe needs it"


def test_with_images_publishes_pictures_and_publishing_without_deletes_them(server, client, private, tmp_path):
    folder = named(shutil.copytree(private / "run", tmp_path / "run"), "taken-back")
    output = client(folder, with_images=True, dry_run=True)["output"]
    assert "56 images of pets and the names of their classes" in output and "8 images of pets" in output
    client(folder, with_images=True)
    files = published(server, "sslzoo/taken-back")
    assert {"neighbours.png", "maps.png"} <= files.keys() and b"(neighbours.png)" in files["README.md"]
    assert PRIVATE.encode() not in files["results.json"], "a file name may reveal more than the picture"
    client(folder)
    assert not {"neighbours.png", "maps.png"} & published(server, "sslzoo/taken-back").keys()


@pytest.mark.parametrize("visibility", ["public", "private", "gated", "gone"])
def test_images_of_a_data_set_of_the_hub_are_published_if_anyone_may_see_it(server, client, tmp_path, visibility):
    data = f"ada/pictures-{visibility}"
    folder = make_run(tmp_path / "run", dataset=data, name=f"on-{visibility}").folder
    for name in ("neighbours.png", "maps.png"):
        pictures.save_picture(Figure(), folder / name, Run(folder).weights_sha256)
    if visibility != "gone":
        server.add(data, {"README.md": ""}, kind="datasets", private=visibility == "private")
        server.repository(data, "datasets").gated = "auto" if visibility == "gated" else False
    output = client(folder, dry_run=True)["output"]
    assert f"56 images of {data} and the names of their classes, unless the Hub does not show" in output
    client(folder)
    there = {"neighbours.png", "maps.png"} & published(server, f"sslzoo/on-{visibility}").keys()
    assert there == ({"neighbours.png", "maps.png"} if visibility == "public" else set())


def test_a_picture_with_other_metadata_is_drawn_again(run):
    folder, _ = run()
    before = (folder / "maps.png").read_bytes()
    about = PngInfo()
    about.add_text("Weights", Run(folder).weights_sha256)
    about.add_text("Comment", "taken at home")
    Image.new("RGB", (8, 8)).save(folder / "maps.png", pnginfo=about)
    write_card(folder)
    assert (folder / "maps.png").read_bytes() == before


@pytest.mark.parametrize("name, change", [
    ("results.json", lambda text, place: text.replace('"hardware": "', f'"hardware": "{place}/')),
    ("metrics.jsonl", lambda text, place: text.replace('{"step": 10,', f'{{"step": 10, "log": "{place}",')),
])  # fmt: skip
def test_local_paths_are_refused(client, run, name, change):
    folder, _ = run()
    (folder / name).write_text(change((folder / name).read_text(), Path.home()))
    record_digests(folder)
    answer = client(folder)
    assert answer["error"] == "InputError" and name in answer["message"] + "README.md" and "a place on this machine" in answer["message"]


def test_links_folders_and_pipes_are_refused(server, client, run, tmp_path):
    folder, repository = run()
    secret = tmp_path / "secret"
    before = len(server.log)
    names = sorted(FILES | CODE)
    for name in names:
        kept = (folder / name).read_bytes()
        secret.write_bytes(kept)
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
        for call in (lambda: client(folder), lambda: client(folder, dry_run=True)):
            answer = call()
            assert answer["error"] == "InputError" and f"{name} is a link" in answer["message"], answer
        with pytest.raises(InputError, match=f"{name} is a link"):
            write_card(folder)
        assert secret.read_bytes() == kept
        (folder / name).unlink()
        for make in (os.mkfifo, Path.mkdir):
            make(folder / name)
            answer = client(folder)
            assert answer["error"] == "InputError" and f"{name} is not a regular file" in answer["message"], answer
            with pytest.raises(InputError, match=f"{name} is not a regular file"):
                write_card(folder)
            (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
        (folder / name).write_bytes(kept)
    assert len(server.log) == before and ("models", repository) not in server.repositories
    temporary = folder / ".README.md.new"
    temporary.symlink_to(secret)
    kept = secret.read_bytes()
    write_card(folder)
    assert secret.read_bytes() == kept, "a link at the temporary file's path is not followed"


def other_code(folder: Path) -> None:
    (folder / "modeling_sslzoo_resnet.py").write_text((folder / "modeling_sslzoo_resnet.py").read_text() + "\nimport os\n")


def configured(**values) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config |= values
        (folder / "config.json").write_text(json.dumps(config))
        record_digests(folder)

    return change


def without_digests(folder: Path) -> None:
    results = Run(folder).results()
    del results["training"]["files"]
    (folder / "results.json").write_text(json.dumps(results))


def edited(name: str, before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1))

    return change


def processed(folder: Path) -> None:
    edited("preprocessor_config.json", "{", '{"auto_map": {"AutoImageProcessor": "evil.Evil"},')(folder)
    record_digests(folder)


def other_heads(folder: Path) -> None:
    heads = load_file(folder / "ssl_heads.safetensors")
    save_file({name: value + 1 for name, value in heads.items()}, folder / "ssl_heads.safetensors")


CHANGES = {
    "code": (other_code, "modeling_sslzoo_resnet.py is"),
    "code that config.json names": (configured(auto_map={"AutoModel": "evil.Evil"}), "config.json: auto_map is"),
    "no code": (configured(auto_map=None), "config.json: auto_map is nothing"),
    "pipelines": (configured(custom_pipelines={"x": {"impl": "evil.Evil"}}), "config.json: custom_pipelines is"),
    "the processor's code": (processed, "preprocessor_config.json: auto_map is"),
    "another encoder": (configured(hidden_sizes=[32, 128]), "config.json.hidden_sizes is"),
    "an unknown key": (configured(note="x"), "config.json.note is 'x', sslzoo writes nothing"),
    "other settings of the method": (configured(sslzoo={"model_type": "sslzoo-simclr"}), "config.json: sslzoo."),
    "settings of another type": (configured(hidden_sizes="x"), "config.json"),
    "heads": (other_heads, "ssl_heads.safetensors is not the file that the training left"),
    "curves": (edited("metrics.jsonl", '"loss": 5.0', '"loss": 1.0'), "metrics.jsonl is not the file"),
    "recipe": (edited("recipe.yaml", "epochs: 4", "epochs: 400"), "recipe.yaml is not the file"),
    "preparation": (edited("preprocessor_config.json", '"shortest_edge": 16', '"shortest_edge": 18'), "preprocessor_config.json is not"),
    "configuration": (edited("config.json", "{", '{"_name_or_path": "/home/ada",'), "config.json is not the file"),
    "digests": (without_digests, "results.json has no digests"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_what_sslzoo_did_not_write_is_refused(server, client, run, case):
    change, message = CHANGES[case]
    folder, repository = run()
    change(folder)
    before = len(server.log)
    for arguments in ({}, {"dry_run": True}):
        answer = client(folder, **arguments)
        assert answer["error"] == "InputError" and message in answer["message"], answer
    assert len(server.log) == before and ("models", repository) not in server.repositories


def test_the_error_of_an_unknown_namespace_names_the_nearest(server, client, run):
    folder, _ = run()
    answer = client(folder, namespace="sslzo")
    assert answer["error"] == "PublishError" and "did you mean 'sslzoo'?" in answer["message"] and answer["slept"] == 0, answer
    answer = client(folder, namespace="ada", token=EVE)
    assert "unknown namespace of yours 'ada'" in answer["message"] and "eve" in answer["message"]
    server.fail("POST", "/repos/create", 404, message="Organization not found")
    answer = client(folder, namespace="adda")
    assert "does not find it (404" in answer["message"] and "did you mean 'ada'?" in answer["message"]


def test_a_loaded_method_pushes_what_publish_publishes(server, client, run):
    folder, repository = run()
    answer = client(folder, push_to_hub=repository)
    assert answer.get("url") == f"{server.url}/{repository}", answer
    files = published(server, repository)
    assert files.keys() == FILES | CODE and b"model-index" in files["README.md"]
    assert files == {name: (folder / name).read_bytes() for name in files}
    assert "error" not in client(folder) and commits(server, repository) == 1 and published(server, repository) == files


def test_a_method_is_pushed_only_as_the_run_that_it_is(run, tmp_path):
    folder, repository = run()
    method = sslzoo.load(folder)
    for name in ("sslzoo/mine", repository.partition("/")[2]):
        with pytest.raises(InputError, match="is called by its recipe: push_to_hub"):
            method.push_to_hub(name)
    with torch.no_grad():
        next(method.projector.parameters()).add_(1)
    with pytest.raises(InputError, match="the method was changed and is not the one in"):
        method.push_to_hub(repository)
    method.save_pretrained(tmp_path / "weights")
    with pytest.raises(InputError, match="no run folder"):
        sslzoo.load(tmp_path / "weights").push_to_hub(repository)


def imported(folder: Path) -> Run:
    """What `sslzoo import` writes for a small encoder, with one number measured here."""
    to_plain(build_encoder(encoder_config("res6", 96))).save_pretrained(folder)
    Preprocessing(110, 96).write(folder)
    run = Run(folder)
    about = {
        "source": "https://example.org/simclr.ckpt", "sha256": "0" * 64, "layout": "torchvision", "encoder": "res6", "branch": "backbone.",
        "reported": {"by": "lightly", "numbers": {"linear_top1": 0.632}}, "files": run.digests(),
    }  # fmt: skip
    provenance = {"weights_sha256": run.weights_sha256, "train_images": 5, "test_images": 4, "code": "0", "date": "2026-11-24"}
    number = {
        "protocol": "knn-instdisc-v2", "dataset": "digits", "split": "test", "metric": "knn_top1", "value": 0.25, "when": "last",
        "arguments": {"k": 20, "temperature": 0.1}, "provenance": provenance,
    }  # fmt: skip
    run.write_results({"training": {}, "numbers": [number], "imported": about})
    return run


def test_imported_weights_are_published_as_such(server, client, tmp_path):
    run = imported(tmp_path / "simclr-of-others")
    assert "the weights' source, 'https://example.org/simclr.ckpt'" in client(run.folder, "ada", dry_run=True)["output"]
    answer = client(run.folder, "ada")
    assert answer.get("url", "").endswith("/ada/simclr-of-others"), answer
    files = published(server, "ada/simclr-of-others")
    assert files.keys() == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json"}
    card = files["README.md"].decode()
    assert "others trained" in card and "https://example.org/simclr.ckpt" in card and "Reported by lightly" in card
    assert "| linear top-1 | 63.20 |" in card and "| kNN top-1 | k=20, T=0.1 | 25.00 |" in card
    data = ModelCard(card).data
    assert [result.metric_value for result in data.eval_results] == [25.0], "what others report is not among our numbers"
    assert [number["value"] for number in data["sslzoo"]["numbers"]] == [0.25] and data.license == "other"
    assert all(comparison.found == comparison.expected for comparison in check_card(run))


def without_digests_of_the_import(folder: Path) -> None:
    results = Run(folder).results()
    del results["imported"]["files"]
    (folder / "results.json").write_text(json.dumps(results))


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("change, message", [
    (other_weights, "model.safetensors is not the file that the import left"),
    (edited("preprocessor_config.json", '"shortest_edge": 110', '"shortest_edge": 96'), "preprocessor_config.json is not the file"),
    (edited("config.json", '"relu"', '"gelu"'), "config.json is not the file that the import left"),
    (without_digests_of_the_import, "results.json has no digests of the files that the import left: import again"),
    (lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1}\n'), "metrics.jsonl is not the file that the import left"),
])  # fmt: skip
def test_imported_weights_that_were_changed_are_refused(tmp_path, capsys, change, message):
    run = imported(tmp_path / "simclr-of-others")
    assert main(["publish", str(run.folder), "--to", "ada", "--dry-run"]) == 0
    change(run.folder)
    assert main(["publish", str(run.folder), "--to", "ada", "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_publish_all_publishes_every_valid_run(made, tmp_path):
    names = ("fit", "broken", "unfinished", "odd", "group/run")
    folders = [named(shutil.copytree(made["res6"], tmp_path / name), name.replace("/", "-")) for name in names]
    change(Run(folders[1]), provenance={"weights_sha256": FOREVER})
    (folders[2] / "results.json").unlink()
    (folders[3] / "results.json").write_text("[")
    (tmp_path / "no-run").mkdir()
    others = imported(tmp_path / "of-others")
    elsewhere = named(shutil.copytree(made["res6"], tmp_path.parent / f"{tmp_path.name}-elsewhere"), "linked")
    (tmp_path / "link").symlink_to(elsewhere)
    outcomes = publish_all(tmp_path, "ada", dry_run=True)
    assert outcomes.keys() == {"fit", "broken", "unfinished", "odd", "group", "link", others.folder.name}
    assert outcomes["fit"].endswith("/ada/fit") and outcomes["unfinished"] is None and outcomes["link"].endswith("/ada/linked")
    assert outcomes["of-others"].endswith("/ada/of-others") and "holds runs itself" in outcomes["group"]
    assert outcomes["broken"].startswith("error: ") and "weights" in outcomes["broken"] and outcomes["odd"].startswith("error: cannot read")
    with pytest.raises(InputError, match="no finished run"):
        publish_all(tmp_path / "no-run", "ada", dry_run=True)
    with pytest.raises(InputError, match="is a run itself"):
        publish_all(folders[0], "ada", dry_run=True)
    for namespace in ("a/b", "", "ada!", "-ada", "a--b", "ad\u00e4", "ada\n", "a" * 200):
        with pytest.raises(InputError, match="is not a valid name for a Hub repository"):
            publish_all(tmp_path, namespace, dry_run=True)


@pytest.mark.parametrize("second", ["the same name", "another case", "a link to it"])
def test_two_runs_for_one_repository_are_both_refused(made, tmp_path, monkeypatch, second):
    monkeypatch.setattr(sys.modules["sslzoo.hub.publishing"], "publish", None)  # must not be called
    named(shutil.copytree(made["res6"], tmp_path / "before"), "before")
    one = named(shutil.copytree(made["res6"], tmp_path / "one"), "mine")
    if second == "a link to it":
        (tmp_path / "two").symlink_to(one)
    else:
        named(shutil.copytree(one, tmp_path / "two"), "mine" if second == "the same name" else "Mine")
    with pytest.raises(InputError) as caught:
        publish_all(tmp_path, "ada")
    assert f"{tmp_path / 'one'} and {tmp_path / 'two'} lead to one repository, ada/mine" in str(caught.value)
