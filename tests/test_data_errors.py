"""The error of a wrong name is one line that says the nearest right one."""

import pytest
import torch

from sslzoo.data import load_images
from sslzoo.errors import InputError, unknown


def test_the_nearest_name_is_said():
    assert str(unknown("split", "trian", {"train", "test"})) == "unknown split 'trian': did you mean 'train'?"


def test_all_names_are_said_in_order_when_none_is_near():
    assert str(unknown("split", "xyz", {"train": 1, "test": 2})) == "unknown split 'xyz': choose from: test, train"


def test_nothing_to_choose_from():
    assert str(unknown("column", "image", [])) == "unknown column 'image': choose from: (none)"


@pytest.mark.parametrize("name", [None, 3])
def test_a_name_that_is_no_text(name):
    assert f"unknown method '{name}'" in str(unknown("method", name, ["byol"]))


def test_it_is_a_value_error_for_the_caller_to_raise():
    assert isinstance(unknown("split", "a", ["b"]), InputError) and issubclass(InputError, ValueError)


def test_a_data_set_that_the_hub_does_not_give_says_what_to_do(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def absent(*arguments, **options):
        raise DatasetNotFoundError("Dataset 'ada/pets' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(InputError, match="ada/pets.*spelt right.*hf auth login"):
        load_images("ada/pets", "train", device=torch.device("cpu"))
