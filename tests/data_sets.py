"""Small data sets for tests: writing them, loading them both resident and streamed, and what was found in them."""

import io
import logging

import pytest
import torch
from PIL import Image

from sslzoo.data import ImageSet, load_images, without_broken
from sslzoo.errors import InputError

CPU = torch.device("cpu")
RESIDENT, STREAMED = 2**30, 0  # budgets, bytes


def png(shade: int) -> bytes:
    """A grey image of 3 x 2 px; the shade tells images apart."""
    encoded = io.BytesIO()
    Image.new("RGB", (3, 2), (shade, shade, shade)).save(encoded, "PNG")
    return encoded.getvalue()


def save(folder, *names):
    """Image files whose shades are 0, 1, 2 ... in the order of their names here."""
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(shade))


def load(source, split="train", **options) -> ImageSet:
    """The split as a resident set, after checking that the streamed one is the same."""
    resident = load_images(str(source), split, device=CPU, budget=RESIDENT, **options)
    logging.disable()  # the log of one load is what tests look at
    try:
        streamed = load_images(str(source), split, device=CPU, budget=STREAMED, **options)
        assert resident.resident and not streamed.resident
        same(resident, without_broken(streamed))
    finally:
        logging.disable(logging.NOTSET)
    return resident


def same(one: ImageSet, other: ImageSet) -> None:
    """Asserts that two sets hold the same images, labels and facts."""
    for fact in ("source", "split", "splits", "label_names", "unlabelled", "fingerprint", "skipped"):
        assert getattr(one, fact) == getattr(other, fact), fact
    assert names(one) == names(other)
    assert one.labels is other.labels is None or torch.equal(one.labels, other.labels)
    for left, right in zip(_images(one), _images(other), strict=True):
        for part, other_part in zip(left, right, strict=True):
            assert torch.equal(part, other_part)


def _images(images):
    """Row, label and pixels of each image."""
    for _, batch in images.read(torch.arange(len(images)), 3):
        labels = batch.samples if batch.labels is None else batch.labels
        for sample, label, (height, width), pixels in zip(batch.samples, labels, batch.sizes.tolist(), batch.pixels, strict=True):
            yield sample, label, pixels[:, :height, :width]


def refused(source, split="train", **options) -> str:
    """The one line that says why the data set is not loaded."""
    messages = set()
    for budget in (RESIDENT, STREAMED):
        with pytest.raises(InputError) as caught:
            load_images(str(source), split, device=CPU, budget=budget, **options)
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert message.isprintable(), "one line"
    return message


def shades(images) -> list[int]:
    return [int(batch.pixels[0, 0, 0, 0]) for _, batch in images.read(torch.arange(len(images)), 1)]


def names(images) -> list[str]:
    return [images.name(position) for position in range(len(images))]


def classes(images) -> dict[str, list[str]]:
    """Names of the images by class."""
    found = {}
    for name, label in zip(names(images), images.labels.tolist(), strict=True):
        found.setdefault(images.label_names[label], []).append(name)
    return found
