"""Resizing, mirroring, shifting colours and clipping in one pass, compiled by numba.

TensorFlow's own operations go over the image seven times for it. To be imported only where it is
used: importing takes a quarter of a second, and the first time, when all is compiled, a few.

Raises:
    ImportError: there is no numba.
"""

import numba
import numpy as np

from common.runtime import tf


def _compiled(signature: str):
    """Decorator: compiles without asking for Python's lock, so that threads run side by side."""
    options = {"nogil": True, "error_model": "numpy"}

    def compile_function(function):
        try:  # Kept for the next start, beside this file or in the user's directory of caches.
            return numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:  # Neither can be written to.
            return numba.njit(signature, **options)(function)

    return compile_function


def distort(
    image: tf.Tensor,
    height: int,
    width: int,
    noise: tf.Tensor,
    largest_shifts: np.ndarray,
    factor: float,
    lowest: float,
) -> tf.Tensor:
    """Resizes an image as `resize_bilinear` does, mirrors it or not, and shifts its colours.

    Args:
        image: uint8 [any height, any width, 3].
        height, width: of the result, in pixels.
        noise: float32 [4] in [-1, 1]. Where the first is negative, left becomes right; the others
            are parts of the largest shifts.
        largest_shifts: [3, 3], rows of what is added to red, green and blue, which are in [0, 1].
        factor, lowest: at the end, colours * factor + lowest are clipped to [lowest, 1].

    Returns:
        float32 [height, width, 3].
    """
    largest_shifts = np.asarray(largest_shifts, np.float32)

    def function(image, noise):
        return _distort(image, height, width, noise, largest_shifts, factor, lowest)

    result = tf.numpy_function(function, [image, noise], tf.float32)
    result.set_shape([height, width, 3])
    return result


# Two functions and not one loop, since only so are the loops vector instructions.


@_compiled("void(u1[::1], u1[::1], f4, f4, f4[::1])")
def _mix_rows(top, bottom, nearness, scale, mixed):
    for i in range(len(mixed)):
        value = np.float32(top[i])
        mixed[i] = (value + (np.float32(bottom[i]) - value) * nearness) * scale


@_compiled("void(f4[::1], uintp[::1], uintp[::1], f4[::1], f4[::1], f4, f4[::1])")
def _mix_columns(row, left, right, nearness, shift, lowest, result):
    # Unsigned indices: of signed ones it is asked each time whether they count from the end.
    red, green, blue = shift[0], shift[1], shift[2]
    one, two = np.uintp(1), np.uintp(2)
    highest = np.float32(1.0)
    for x in range(len(left)):
        i, j, k = left[x], right[x], np.uintp(3 * x)
        value = row[i] + (row[j] - row[i]) * nearness[x] + red
        value = highest if value > highest else value
        result[k] = lowest if value < lowest else value
        value = row[i + one] + (row[j + one] - row[i + one]) * nearness[x] + green
        value = highest if value > highest else value
        result[k + one] = lowest if value < lowest else value
        value = row[i + two] + (row[j + two] - row[i + two]) * nearness[x] + blue
        value = highest if value > highest else value
        result[k + two] = lowest if value < lowest else value


@_compiled("f4[:,:,::1](u1[:,:,::1], intp, intp, f4[::1], f4[:,::1], f4, f4)")
def _distort(image, height, width, noise, largest_shifts, factor, lowest):
    in_height, in_width, channels = image.shape
    rows = image.reshape((in_height, in_width * channels))
    mirrored = noise[0] < 0
    shift = np.full(channels, lowest, np.float32)
    for i in range(channels):
        shift += noise[1 + i] * largest_shifts[i] * factor
    # Where in a row each column's two neighbours are, and how near it is to the right one.
    left = np.empty(width, np.uintp)
    right = np.empty(width, np.uintp)
    nearness = np.empty(width, np.float32)
    step = np.float32(in_width) / np.float32(width)
    for x in range(width):
        position = np.float32(x) * step
        pixel = int(position)
        to = width - 1 - x if mirrored else x
        left[to] = channels * pixel
        right[to] = channels * min(pixel + 1, in_width - 1)
        nearness[to] = position - np.float32(pixel)
    result = np.empty((height, width, channels), np.float32)
    out_rows = result.reshape((height, width * channels))
    mixed = np.empty(in_width * channels, np.float32)
    scale = factor / np.float32(255.0)
    step = np.float32(in_height) / np.float32(height)
    for y in range(height):
        position = np.float32(y) * step
        top = int(position)
        bottom = min(top + 1, in_height - 1)
        _mix_rows(rows[top], rows[bottom], position - np.float32(top), scale, mixed)
        _mix_columns(mixed, left, right, nearness, shift, lowest, out_rows[y])
    return result
