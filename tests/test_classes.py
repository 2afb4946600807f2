"""The classes that two splits share."""

import pytest
import torch

from sslzoo.errors import InputError
from sslzoo.evaluation.classes import classes_of


class Split:
    """What `classes_of` looks at of an `ImageSet`."""

    source, unlabelled = "pets", ""

    def __init__(self, split, labels, names=None):
        self.split, self.label_names = split, names
        self.labels = None if labels is None else torch.tensor(labels, dtype=torch.int64)

    def __len__(self):
        return 3 if self.labels is None else len(self.labels)


class TestClassesOf:
    def test_names_in_another_order_are_told_by_their_names(self):
        train, test = Split("train", [0, 1, 2], ["bird", "cat", "dog"]), Split("test", [0, 1, 2], ["dog", "bird", "cat"])
        count, of_test = classes_of(train, test)
        assert count == 3 and of_test.tolist() == [2, 0, 1] and of_test.dtype == torch.int64

    def test_a_test_split_of_some_of_the_classes(self):
        count, of_test = classes_of(Split("train", [0, 1, 2], ["bird", "cat", "dog"]), Split("test", [0, 0], ["dog"]))
        assert count == 3 and of_test.tolist() == [2]

    def test_names_that_no_test_image_has_may_be_strange(self):
        _, of_test = classes_of(Split("train", [0, 1], ["bird", "cat"]), Split("test", [1, 1], ["yak", "cat"]))
        assert of_test.tolist() == [-1, 1]

    def test_the_same_names_with_a_class_that_has_no_training_images(self):
        names = ["bird", "cat", "dog"]
        count, of_test = classes_of(Split("train", [0, 1], names), Split("test", [2], names))
        assert count == 3 and of_test.tolist() == [0, 1, 2]

    def test_the_same_names_may_repeat(self):
        names = ["crane", "crane", "dog"]
        assert classes_of(Split("train", [0, 1], names), Split("test", [1], names)).of_test.tolist() == [0, 1, 2]

    def test_names_that_repeat_tell_nothing(self):
        with pytest.raises(InputError, match=r"pets \(train\) has two classes named 'crane'"):
            classes_of(Split("train", [0, 1], ["crane", "crane", "dog"]), Split("test", [0], ["dog"]))

    def test_classes_that_training_lacks_are_named_up_to_three(self):
        train = Split("train", [0], ["bird"])
        with pytest.raises(InputError, match=r"1 of the 2 classes of pets \(test\) .* pets \(train\): 'cat';"):
            classes_of(train, Split("test", [0, 1], ["bird", "cat"]))
        with pytest.raises(InputError, match=r"4 of the 4 .*: 'a', 'b', 'c' \.\.\.;"):
            classes_of(train, Split("test", [0, 1, 2, 3], ["a", "b", "c", "d"]))

    @pytest.mark.parametrize("names", [(None, None), (["a", "b", "c"], None), (None, ["a", "b"])])
    def test_without_names_labels_are_the_same(self, names):
        train, test = Split("train", [0, 2], names[0]), Split("test", [1, 4], names[1])
        for pair in ((train, test), (test, train)):
            count, of_test = classes_of(*pair)
            assert count == 5 and of_test.tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(("labels", "match"), [(None, "no labels"), ([], "no images")])
    def test_splits_that_nothing_can_be_measured_on_are_named(self, labels, match):
        good, bad = Split("train", [0, 1]), Split("test", labels)
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(InputError, match=rf"pets \(test\) has {match}"):
                classes_of(*pair)
