"""A run that is kept in a repository while it trains, on a Hub on loopback: another machine goes on from there."""

import json
import shutil

import pytest
from cli_client import cli_client
from hub_server import HubServer
from small_digits import small_digits

ADA = "hf_adas_secret"
PLACE = "ada/mine-checkpoints"
TRAIN = ("train", "digits/simclr", "--cpu", "--checkpoints-to", PLACE, "--output", "run")
SMALL = ("--set", "image_size=8", "batch_size=16", "epochs=2", "knn_every=0", "name=mine", "checkpoint_every=3")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer({ADA: "ada"}) as server, cli_client(server, tmp_path_factory.mktemp("machine"), ADA) as client:
        yield server, client


@pytest.fixture
def machine(hub):
    """The Hub, a command line with a fresh disk, and the recipe's arguments."""
    server, client = hub
    server.repositories.clear()
    shutil.rmtree(client.folder / "run", ignore_errors=True)
    return server, client, (*TRAIN, *SMALL, f"dataset={small_digits()}")


@pytest.mark.slow
def test_another_machine_goes_on_where_the_first_one_stopped(machine):
    server, client, train = machine
    assert client(*train, "--minutes", "0").code == 75  # stops after the first step
    assert server.repository(PLACE).private
    assert {name.split("/")[1] for name in server.files(PLACE) if name.startswith("checkpoints/")} == {"step-1"}
    shutil.rmtree(client.folder / "run")
    outcome = client(*train)
    assert outcome.code == 0 and "from step 1" in outcome.err and "goes on from step-1" in outcome.err
    files = server.files(PLACE)
    assert {"model.safetensors", "results.json", "metrics.jsonl"} <= set(files) and not any("checkpoints/" in name for name in files)
    assert len(server.repository(PLACE).history()) == 1  # replaced checkpoints take no storage
    assert json.loads(files["results.json"])["training"]["steps"] == 10
    shutil.rmtree(client.folder / "run")
    assert client(*train).out.splitlines()[-1] == "run"  # is finished, and is brought here whole
    assert (client.folder / "run/model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.slow
def test_checkpoints_are_uploaded_while_the_training_goes_on(machine):
    server, client, train = machine
    server.fail("POST", "/commit/", status=400, message="no", times=1)
    outcome = client(*train)
    assert outcome.code == 0
    assert "the checkpoint is not on the Hub: cannot use ada/mine-checkpoints for checkpoints: the Hub answered 400" in outcome.err
    assert len([path for method, path in server.log if method == "POST" and "/commit/" in path]) > 1


def test_a_repository_of_something_else_is_left_alone(machine):
    server, client, train = machine
    server.add(PLACE, {"thesis.tex": "all of it"}, private=True)
    assert "holds thesis.tex, which is no part of a run" in client.error(*train)
    server.repositories.clear()
    server.add(PLACE, {})
    assert "exists and is public" in client.error(*train)
    assert "unknown namespace of yours 'eve'" in client.error(*(part.replace("ada/", "eve/") for part in train))


@pytest.mark.slow
def test_publishes_the_finished_run(machine):
    server, client, train = machine
    outcome = client(*train, "--to", "ada", "--private", "--evaluate")
    assert outcome.code == 0 and outcome.out.splitlines()[-1] == f"{server.url}/ada/mine"
    published = server.repository("ada/mine")
    assert published.private and {"README.md", "model.safetensors"} <= set(server.files("ada/mine"))
