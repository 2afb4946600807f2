"""Published models are in the collections of their data set and their method, on a Hub on loopback."""

import logging

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi

from sslzoo.hub import upload
from sslzoo.hub.hub_collections import add_to_collections, collection_titles
from sslzoo.recipe import read_recipe

ADA = "hf_adas_secret"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on loopback
    monkeypatch.setattr(upload, "_DELAYS", (0, 0))
    with HubServer({ADA: ("ada", "sslzoo"), "hf_eve": "eve"}) as server:
        server.add("sslzoo/one", {"README.md": ""})
        server.add("sslzoo/two", {"README.md": ""})
        yield server


def items(server) -> dict[str, list[str]]:
    return {collection["title"]: [item["id"] for item in collection["items"]] for collection in server.collections.values()}


def test_models_are_in_the_collections_of_data_set_and_method_once(server):
    api, simclr, dino = HfApi(server.url, ADA), read_recipe("digits/simclr"), read_recipe("digits/dino")
    server.fail("POST", "/api/collections", status=503)
    for repository, recipe in (("sslzoo/one", simclr), ("sslzoo/one", simclr), ("sslzoo/two", dino)):
        add_to_collections(api, repository, recipe)
    assert items(server) == {
        "sslzoo: trained on digits": ["sslzoo/one", "sslzoo/two"], "sslzoo: SimCLR": ["sslzoo/one"], "sslzoo: DINO": ["sslzoo/two"]
    }  # fmt: skip
    long = read_recipe("digits/simclr", {"dataset": f"someone/{'x' * 80}"})
    assert all(len(title) <= 60 for title in collection_titles(long)), "longer ones are refused by the Hub"


def test_a_private_model_is_in_none_and_a_failure_is_a_warning(server, caplog):
    server.add("sslzoo/hidden", {"README.md": ""}, private=True)
    add_to_collections(HfApi(server.url, ADA), "sslzoo/hidden", read_recipe("digits/simclr"))
    assert items(server) == {} and not caplog.records
    with caplog.at_level(logging.WARNING, "sslzoo"):
        add_to_collections(HfApi(server.url, "hf_eve"), "sslzoo/one", read_recipe("digits/simclr"))
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("sslzoo")]
    assert "sslzoo/one is published, but not in the collection 'sslzoo: trained on digits'" in warning and "403" in warning
    assert items(server) == {}
