"""What a person is shown of an image that is no RGB picture."""

import numpy as np


def visible(image: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) from uint8 or uint16 (height, width, channels): of other than three channels the first, as grey.

    16 bits are stretched over the range of the image's own values, as instruments seldom use that of the type.
    """
    shown = image if image.shape[2] == 3 else image[..., :1].repeat(3, axis=2)
    if shown.dtype == np.uint8:
        return shown
    low, high = int(shown.min()), int(shown.max())
    return ((shown.astype(np.float32) - low) * (255 / max(1, high - low))).round().astype(np.uint8)
