"""The test Hub works with the real client, so that the other tests can rely on it."""

import json
import textwrap

import pytest
from hub_server import BAD_TOKEN, HubServer

CARD = """---
library_name: transformers
license: apache-2.0
tags: [sslzoo, byol]
datasets: [cifar10]
model-index:
- name: tiny
  results:
  - task: {type: image-classification}
    dataset: {type: cifar10, name: CIFAR-10}
    metrics: [{type: accuracy, value: 91.5, name: kNN}]
---
# tiny
"""
PUBLISH = """
import numpy as np
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors.numpy import save_file

def publish(name, seed=0, **repository):
    folder = os.path.join(os.environ["HF_HOME"], "run")
    os.makedirs(folder, exist_ok=True)
    save_file({"weight": np.random.default_rng(seed).standard_normal(3_000_000, np.float32)}, f"{folder}/model.safetensors")
    files = {"README.md": CARD.encode(), "config.json": b'{"model_type": "vit"}', "model.safetensors": f"{folder}/model.safetensors"}
    api.create_repo(name, exist_ok=True, **repository)
    return api.create_commit(name, [CommitOperationAdd(path, data) for path, data in files.items()], commit_message="Publish")

api = HfApi()
"""


@pytest.fixture
def server():
    with HubServer({"hf_ada": ("ada", "sslzoo"), "hf_eve": "eve"}, page_size=3) as server:
        yield server


@pytest.fixture
def client(server, tmp_path):
    """Runs code that sets `result` and returns it."""

    def run(code: str, token: str | None = "hf_ada", before: str = PUBLISH):
        # Without the client's delays between two attempts.
        head = f"import json, os, time\ntime.sleep = lambda seconds: None\nCARD = {CARD!r}\n"
        # Threads of a streamed data set sometimes abort the interpreter while it exits; the result is printed by then.
        end = "print(json.dumps(result), flush=True)\nos._exit(0)"
        done = server.run_python(f"{head}{before}\n{textwrap.dedent(code)}\n{end}", tmp_path, token)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def puts(server) -> int:
    return sum(method == "PUT" for method, _ in server.log)


def test_publish_and_read_back(server, client):
    result = client("""
        from huggingface_hub import ModelCard, hf_hub_download, snapshot_download
        def raised(call, *arguments, **named):
            try:
                call(*arguments, **named)
            except Exception as error:
                return type(error).__name__
        def upload(data, path, name, **named):
            api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=name, **named)
        first, second = publish("sslzoo/big"), publish("sslzoo/big")
        file = hf_hub_download("sslzoo/big", "model.safetensors")
        folder = snapshot_download("sslzoo/big")
        read = lambda path: open(path, "rb").read()
        same = read(f"{os.environ['HF_HOME']}/run/model.safetensors")
        info = api.model_info("sslzoo/big", files_metadata=True)
        api.create_tag("sslzoo/big", tag="v1")
        result = {
            "who": [api.whoami()["name"], api.whoami()["orgs"][0]["name"]],
            "oids": [first.oid, second.oid, info.sha, api.list_repo_refs("sslzoo/big").tags[0].target_commit],
            "same": [read(file) == same, read(f"{folder}/model.safetensors") == same],
            "folder": sorted(os.listdir(folder)),
            "sizes": {sibling.rfilename: sibling.size for sibling in info.siblings},
            "lfs": [sibling.rfilename for sibling in info.siblings if sibling.lfs],
            "tags": info.tags,
            "paths": [row.path for row in api.get_paths_info("sslzoo/big", ["config.json", "none"])],
            "titles": [commit.title for commit in api.list_repo_commits("sslzoo/big")],
            "accuracy": ModelCard.load("sslzoo/big").data.eval_results[0].metric_value,
            "invalid": raised(upload, b"---\\nmodel-index: 3\\n---\\n", "README.md", "sslzoo/big"),
            "stale": raised(upload, b"text", "a.txt", "sslzoo/big", parent_commit="0" * 40),
            "no file": raised(hf_hub_download, "sslzoo/big", "none.json"),
            "no revision": raised(hf_hub_download, "sslzoo/big", "config.json", revision="none"),
            "no repository": raised(hf_hub_download, "sslzoo/none", "config.json"),
            "no namespace": raised(hf_hub_download, "none", "config.json"),
        }
    """)
    files = [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert result["who"] == ["ada", "sslzoo"]
    assert len(set(result["oids"])) == 1 and result["oids"][0] == server.repository("sslzoo/big").at("main").sha
    assert puts(server) == 1, "the identical second commit uploads nothing"
    assert result["same"] == [True, True] and result["folder"] == files
    assert sorted(result["sizes"]) == files and result["sizes"]["model.safetensors"] > 12_000_000
    assert result["sizes"] == {path: len(data) for path, data in server.files("sslzoo/big").items()}
    assert result["lfs"] == ["model.safetensors"]
    assert {"sslzoo", "byol", "transformers", "license:apache-2.0", "dataset:cifar10", "vit", "model-index"} <= set(result["tags"])
    assert result["paths"] == ["config.json"] and result["titles"] == ["Publish", "Add files"] and result["accuracy"] == 91.5
    assert result["invalid"] == "ValueError" and result["stale"] == "HfHubHTTPError"
    assert result["no file"] == "RemoteEntryNotFoundError" and result["no revision"] == "RevisionNotFoundError"
    assert result["no repository"] == result["no namespace"] == "RepositoryNotFoundError"


def test_transformers_and_datasets_load_by_name(server, client):
    result = client(
        """
        import torch
        from datasets import ClassLabel, Dataset, Features, Image, load_dataset
        from PIL import Image as Picture
        from transformers import AutoModel, ViTConfig, ViTModel
        small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8)
        model = ViTModel(ViTConfig(**small))
        model.push_to_hub("sslzoo/tiny")
        loaded = AutoModel.from_pretrained("sslzoo/tiny")
        same = [torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)]
        columns = {"image": [Picture.new("RGB", (8, 8), (i, 0, 0)) for i in range(4)], "label": [0, 1, 0, 1]}
        features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
        Dataset.from_dict(columns, features=features).push_to_hub("sslzoo/rows", split="train", private=True)
        rows = load_dataset("sslzoo/rows", split="train")
        streamed = next(iter(load_dataset("sslzoo/rows", split="train", streaming=True)))
        result = [all(same), rows[3]["image"].getpixel((0, 0)), rows.features["label"].names, streamed["label"]]
        """,
        before="",
    )
    assert result == [True, [3, 0, 0], ["cat", "dog"], 0]
    assert server.repository("sslzoo/rows", "datasets").private


def test_list_across_pages_shows_what_the_account_may_see(server, client):
    for number in range(5):
        server.add(f"sslzoo/m{number}", {"README.md": CARD}).downloads = number
    server.add("sslzoo/secret", {"README.md": CARD}, private=True).downloads = 9
    server.add("sslzoo/other", {"README.md": "no front matter"})
    server.add("eve/copy", {"README.md": CARD})
    code = """
        from huggingface_hub import HfApi
        api = HfApi()
        rows = list(api.list_models(author="sslzoo", filter="sslzoo", expand=["cardData", "downloads", "lastModified"], sort="downloads"))
        result = [[row.id, row.downloads, row.card_data.eval_results[0].metric_value, row.last_modified.year > 2000] for row in rows]
        try:
            api.model_info("sslzoo/secret")
        except Exception as error:
            result.append(type(error).__name__)
    """
    public = [[f"sslzoo/m{number}", number, 91.5, True] for number in (4, 3, 2, 1, 0)]
    for token in ("hf_eve", None):
        assert client(code, token, before="") == [*public, "RepositoryNotFoundError"]
    assert sum(path == "/api/models" for _, path in server.log) == 4, "two pages each"
    assert client(code, before="") == [["sslzoo/secret", 9, 91.5, True], *public]


def test_refusals(server, client):
    server.add("sslzoo/public", {"README.md": CARD})
    server.revoke("hf_ada")
    code = """
        def status(call, *arguments, **named):
            try:
                call(*arguments, **named)
            except Exception as error:
                return [type(error).__name__, error.response.status_code, str(error)]
        api = HfApi()
        result = [
            status(api.create_repo, "sslzoo/new"),
            status(api.upload_file, path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="sslzoo/public"),
        ]
    """
    before = "from huggingface_hub import HfApi"
    for kind, number, text in client(code, "hf_ada", before):
        assert kind == "HfHubHTTPError" and number == 401 and BAD_TOKEN in text
    assert [row[:2] for row in client(code, "hf_eve", before)] == [["HfHubHTTPError", 403]] * 2
    assert [row[1] for row in client(code, None, before)] == [401, 401]
    assert list(server.files("sslzoo/public")) == ["README.md"] and len(server.repositories) == 1


def test_faults_leave_no_half_commit(server, client):
    server.fail("POST", "/retried/preupload/", times=2)
    server.cut("PUT", "/retried[.]git/", times=2)
    server.cut("GET", "/retried/resolve/.*safetensors")
    server.cut("PUT", "/given-up[.]git/", times=6)  # all the tries of one upload
    server.fail("POST", "/expired/commit/", status=401)
    server.cut("POST", "/unheard/commit/", answered=True)
    result = client("""
        import hashlib
        from huggingface_hub import hf_hub_download
        publish("sslzoo/retried")
        result = {"retried": hashlib.sha256(open(hf_hub_download("sslzoo/retried", "model.safetensors"), "rb").read()).hexdigest()}
        for seed, name in enumerate(["given-up", "expired", "unheard"], 1):
            raised = None
            try:
                publish(f"sslzoo/{name}", seed)
            except Exception as error:
                raised = type(error).__name__
            found = api.file_exists(f"sslzoo/{name}", "config.json")
            publish(f"sslzoo/{name}", seed)
            result[name] = [raised is not None, found]
    """)
    assert result.pop("retried") == server.repository("sslzoo/retried").at("main").files["model.safetensors"].etag
    # Not hearing of a commit does not undo it.
    assert result == {"given-up": [True, False], "expired": [True, False], "unheard": [True, True]}
    for name in ("retried", "given-up", "expired", "unheard"):
        assert [commit.title for commit in server.repository(f"sslzoo/{name}").history()] == ["Publish", "Add files"]
        assert len(server.files(f"sslzoo/{name}")) == 4
    paths = [(method, path.split("/objects/")[0]) for method, path in server.log]
    counted = ("POST", "/api/models/sslzoo/retried/preupload/main"), ("PUT", "/sslzoo/retried.git/info/lfs")
    assert [paths.count(entry) for entry in counted] == [3, 3]
    assert paths.count(("GET", "/sslzoo/retried/resolve/main/model.safetensors")) == 2
    assert paths.count(("PUT", "/sslzoo/given-up.git/info/lfs")) == 7
