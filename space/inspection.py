"""What `Inspector` finds out about an image; without torch, so that pages can be made before it is imported."""

from typing import NamedTuple

from PIL import Image


class Neighbour(NamedTuple):
    picture: Image.Image
    label: str  # the class's name, "" if there is none
    cosine: float


class Map(NamedTuple):
    """A picture with one value or colour for each place. low, high: what the darkest and the brightest colour mean, "" without a scale."""

    title: str
    picture: Image.Image
    low: str = ""
    high: str = ""


class Inspection(NamedTuple):
    """What an encoder makes of an image. about: where the neighbours come from, or why there are none. warning: "" or a word on them."""

    given: Image.Image  # to the encoder
    maps: list[Map]
    neighbours: list[Neighbour]
    about: str
    warning: str
