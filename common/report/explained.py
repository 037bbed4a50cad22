"""A picture of an answer: the image, where the network sees its class, and the probabilities."""

import functools
import os
import re
from typing import Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common import files
from common.report import heat

# Width and height of each of the two images, in pixels.
_SIDE = 320
_MARGIN, _TEXT, _LINE = 12, 17, 26
_PAPER, _INK, _BAR = (255, 255, 255), (27, 31, 36), (170, 205, 250)
# What is left of a file's name: letters of any language, digits, and some signs, so many.
_ODD = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 80


def draw(
    image: Image.Image, activation: np.ndarray, answers: Sequence[Tuple[str, float]]
) -> Image.Image:
    """Draws the picture.

    Args:
        image: what the network saw.
        activation: float [height, width], the class activation map of the first answer.
        answers: names of classes and their probabilities, the most probable first.
    """
    shown = image.convert("RGB").resize((_SIDE, _SIDE), Image.BICUBIC)
    width = 2 * _SIDE + 3 * _MARGIN
    height = _SIDE + 3 * _MARGIN + _LINE * len(answers)
    picture = Image.new("RGB", (width, height), _PAPER)
    picture.paste(shown, (_MARGIN, _MARGIN))
    picture.paste(heat.heat(shown, activation), (_SIDE + 2 * _MARGIN, _MARGIN))
    canvas = ImageDraw.Draw(picture)
    top = _SIDE + 2 * _MARGIN
    for name, probability in answers:
        right = _MARGIN + round(probability * (width - 2 * _MARGIN))
        canvas.rectangle((_MARGIN, top, right, top + _LINE - 4), fill=_BAR)
        text = f"{probability:7.2%}  {''.join(c if c.isprintable() else '?' for c in name)}"
        canvas.text((_MARGIN + 6, top), text, fill=_INK, font=_font(frozenset(text)))
        top += _LINE
    return picture


def file_name(number: int, path: str) -> str:
    """The name of an image's picture, another one for each number: '0007_holiday.jpg'."""
    stem = os.path.splitext(os.path.basename(path))[0]
    plain = _ODD.sub("_", files.printable(stem)).strip("._")
    while len(plain.encode("utf-8")) > _LONGEST_NAME:
        plain = plain[:-1]
    return f"{number:04d}_{plain or 'image'}.jpg"


@functools.lru_cache(maxsize=256)
def _font(characters: frozenset) -> ImageFont.FreeTypeFont:
    """A font that has the characters, if one is installed; else the one that matplotlib brings."""
    from matplotlib import font_manager, ft2font  # Slow, and needed here only.

    wanted = set(map(ord, characters))
    first = font_manager.findfont("DejaVu Sans")
    for path in (first, *(font.fname for font in font_manager.fontManager.ttflist)):
        if wanted <= set(ft2font.FT2Font(path).get_charmap()):
            return ImageFont.truetype(path, _TEXT)
    return ImageFont.truetype(first, _TEXT)
