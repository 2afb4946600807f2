"""The resolution at which large images are kept: as much as evaluation and views can use."""

import math
from collections.abc import Iterable

from sslzoo.data import RequiredResolution
from sslzoo.views import View

from .preprocessing import Preprocessing

# At 4 times the evaluated size, resizing gives the same pixels within a grey level nearly everywhere, and the smallest crops of the
# classifier protocols, 8 % of a square image, are not upsampled.
_FACTOR = 4
_MIN_SIDE = 256  # px of the short side that are always kept, as they cost little


def required_resolution(preprocessing: Preprocessing, views: Iterable[View] = ()) -> RequiredResolution:
    """The resolution for this preprocessing and these views, at which no view has to upsample even its smallest crop."""
    short = preprocessing.resize
    sides = [_MIN_SIDE, *(view.size / math.sqrt(view.scale[0]) for view in views if view.count)]
    return RequiredResolution(short, max(_FACTOR, *(math.ceil(side / short) for side in sides)), preprocessing.squash)
