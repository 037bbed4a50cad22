"""Pictures of where a network looked: an image under the colours of a class activation map."""

from typing import Optional

import numpy as np
from PIL import Image

# Points of matplotlib's map inferno, whose lightness grows evenly: from black to light yellow.
_COLOURS = np.array(
    [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)],
    np.float64,
)
# How much of the colours there is at most; the rest is the image.
_STRENGTH = 0.65


def heat(image: Image.Image, activation: np.ndarray, scale: Optional[float] = None) -> Image.Image:
    """The image, dark where the network sees no sign of a class and bright where it does.

    Args:
        image: of any size; the map covers all of it.
        activation: float [height, width], the class activation map.
        scale: the value that is shown brightest, so that maps can be compared; None for the largest
            of the map. Below 0 all is dark.
    """
    image = image.convert("RGB")
    activation = np.nan_to_num(np.asarray(activation, np.float32))
    scale = float(activation.max()) if scale is None else scale
    smooth = Image.fromarray(activation).resize(image.size, Image.BICUBIC)
    level = np.clip(np.asarray(smooth) / max(scale, 1e-6), 0.0, 1.0)
    places = np.linspace(0.0, 1.0, len(_COLOURS))
    colours = np.stack([np.interp(level, places, _COLOURS[:, i]) for i in range(3)], axis=-1)
    grey = np.asarray(image.convert("L"), np.float64)[..., np.newaxis]
    mixed = (1 - _STRENGTH) * grey + _STRENGTH * colours
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def to_image(pixels: np.ndarray) -> Image.Image:
    """A preprocessed image, float [height, width, 3] in [-1, 1], as PIL's."""
    return Image.fromarray(np.clip(np.rint((pixels + 1.0) * 127.5), 0, 255).astype(np.uint8))
