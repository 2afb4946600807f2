"""How much of a large image evaluation and views can use."""

import math
from collections.abc import Iterable

from sslzoo.data import RequiredResolution
from sslzoo.views import View

from .features import Preprocessing

# The resized image is then within a grey level of that of the whole image nearly everywhere, and a crop of 8 % of a square image, which
# the classifiers' protocols take, has as many px as it is shown in.
_TIMES = 4
_LEAST = 256  # px of a short side that is always kept: it costs little


def required_resolution(preprocessing: Preprocessing, views: Iterable[View] = ()) -> RequiredResolution:
    """What is kept of the images that are prepared so; the smallest crop of each view has as many px as it is shown in."""
    short = preprocessing.resize
    sides = [_LEAST, *(view.size / math.sqrt(view.scale[0]) for view in views if view.count)]
    return RequiredResolution(short, max(_TIMES, *(math.ceil(side / short) for side in sides)), preprocessing.squash)
