"""The first picture of GIFs, damaged and hostile ones included."""

import struct

import numpy as np
import pytest
from helpers import encode, noise
from PIL import Image

from common import limits
from common.data import gif
from common.runtime import tf


class _Decoder:
    def __init__(self):
        graph = tf.Graph()
        with graph.as_default():
            self._encoded = tf.placeholder(tf.string, [])
            self._cut = gif.first_picture(self._encoded)
            self._pictures = tf.image.decode_gif(self._cut)
        self._session = tf.Session(graph=graph)

    def cut(self, encoded):
        return self._session.run(self._cut, {self._encoded: encoded})

    def pictures(self, encoded):
        return self._session.run(self._pictures, {self._encoded: encoded})


@pytest.fixture(scope="module")
def decoder():
    return _Decoder()


def _animation(**options):
    first, *others = [noise(seed, 40).quantize(64) for seed in range(3)]
    return encode(first, "GIF", save_all=True, append_images=others, **options)


def _bomb(width, height, pictures):
    """One picture of a single color, and so many of a single pixel."""
    first = encode(Image.new("P", (width, height)), "GIF")
    single = encode(Image.new("P", (1, 1)), "GIF")
    start = single.index(b"\x2c\0\0\0\0\1\0\1\0")
    return first[:-1] + single[start:-1] * pictures + first[-1:]


@pytest.mark.parametrize("options", [{}, {"comment": b"," * 1000, "loop": 3}, {"optimize": True}])
def test_first_picture_of_several(decoder, options):
    encoded = _animation(**options)
    (picture,) = decoder.pictures(encoded)
    np.testing.assert_array_equal(picture, np.asarray(noise(0, 40).quantize(64).convert("RGB")))
    assert encoded.startswith(decoder.cut(encoded)[:-1])


def test_pictures_that_would_take_gigabytes_and_end_the_process(decoder):
    """TensorFlow alone ends with a segmentation fault, or takes 27 MB for each."""
    bomb = _bomb(3000, 3000, 10_000)
    assert len(bomb) < 200_000
    assert decoder.pictures(bomb).shape == (1, 3000, 3000, 3)


def test_first_picture_that_is_too_large(decoder):
    huge = _bomb(300, 300, 1).replace(struct.pack("<HH", 300, 300), b"\xff" * 4)
    assert len(decoder.cut(huge)) < 20  # No picture is left of it.
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoder.pictures(huge)
    assert limits.IMAGE_PIXELS < 0xFFFF**2


def test_damaged(decoder):
    encoded = _animation(comment=b"," * 1000)
    first = len(decoder.cut(encoded)) - 1
    for size in [*range(3, 60), *range(700, first, 97)]:
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoder.pictures(encoded[:size])


@pytest.mark.parametrize(
    "inserted", [b"\x21\xfe" + b"\x01," * (3 << 20) + b"\0", b"\x21\xfe\0" * 100]
)
def test_very_many_blocks_and_extensions_are_not_walked(decoder, inserted):
    encoded = _animation()
    start = encoded.index(b"\x21")
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoder.pictures(encoded[:start] + inserted + encoded[start:])
