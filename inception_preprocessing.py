"""One image -> one training or evaluation example, as Inception's training did.

Szegedy et al. 2015 (arXiv 1409.4842), section 6: a random part of the image, of random size and
aspect ratio, flipped and shifted in colour; in evaluation the central 87.5 % of each side.
"""

import functools
import os
from typing import Callable

import numpy as np

from common import runtime
from common.data import gif
from common.runtime import tf

# libjpeg's own limit. A progressive JPEG of a kilobyte may claim 65500 x 65500 pixels, and looking
# for its size alone would take 12 GB; this is enough for 150 million pixels.
os.environ.setdefault("JPEGMEM", "1000M")

# 1/16 of a side: what the central 87.5 % leave on either side.
_CENTRAL_MARGIN = 16
MAX_BRIGHTNESS_SHIFT = 32.0 / 255.0

# Chroma to red, green and blue: the JPEG (ITU-R BT.601) conversion.
_CB_TO_RGB = (0.0, -0.344136, 1.772)
_CR_TO_RGB = (1.402, -0.714136, 0.0)


def preprocess_bytes(
    encoded: tf.Tensor, size: int, is_training: bool = False, **options
) -> tf.Tensor:
    """`preprocess_image` of an encoded image, of which only the part that is used gets decoded.

    Args:
        encoded: string [], a JPEG (grey and CMYK ones too), PNG, GIF (its first frame) or BMP.
        size: width and height of the result in pixels.
        is_training, options: as in `preprocess_image`.

    Returns:
        float32 [size, size, 3]. Running it raises InvalidArgumentError where the image cannot be
        decoded, or is cut off.
    """
    window = decode_window(encoded, random_window if is_training else central_window)
    return _resize_and_distort(window, size, size, is_training, **options)


def preprocess_image(
    image: tf.Tensor, output_height: int, output_width: int, is_training: bool = False, **options
) -> tf.Tensor:
    """Crops, resizes and, in training, distorts one image.

    Args:
        image: [height, width, 3]; uint8, or float32 in [0, 1].
        output_height, output_width: size in pixels to resize to.
        is_training: random crop, flip and colours; else the central crop.
        options: any of
            scaled_images (True): whether the result is in [-1, 1], else in [0, 1].
            use_fast_color_distort (True): shift brightness and chroma; else distort brightness,
                saturation, hue and contrast in one of four orders.
            cb_distortion_range, cr_distortion_range (0.1): largest chroma shifts, either way.
            exportable (True): whether evaluation's graph is to run without this program.

    Returns:
        float32 [output_height, output_width, 3].
    """
    choose_window = random_window if is_training else central_window
    window = _cut(image, choose_window(tf.shape(image)))
    return _resize_and_distort(window, output_height, output_width, is_training, **options)


# Decoding ----------------------------------------------------------------------------------------


def decode_window(encoded: tf.Tensor, choose_window: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Decodes a window of an image: uint8 [height, width, 3].

    Args:
        encoded: string [], see `preprocess_bytes`.
        choose_window: from an image's shape to a window, both as in `central_window`.
    """

    def window_of_jpeg():
        window = choose_window(tf.image.extract_jpeg_shape(encoded))
        # Not with fancy_upscaling=False, which corrupts the heap in some releases.
        return tf.image.decode_and_crop_jpeg(encoded, window, channels=3)

    def window_of_any():
        image = decode_whole(encoded)
        return _cut(image, choose_window(tf.shape(image)))

    # Decoding stops below the window, so that a cut-off JPEG has to be told by its missing end.
    is_whole_jpeg = tf.logical_and(
        tf.equal(tf.strings.substr(encoded, 0, 3), b"\xff\xd8\xff"),
        tf.equal(runtime.bytes_at(encoded, tf.strings.length(encoded) - 2, 2), b"\xff\xd9"),
    )
    return tf.cond(is_whole_jpeg, window_of_jpeg, window_of_any)


def decode_whole(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes an image of any format: uint8 [height, width, 3]; of a GIF the first frame."""
    # Not tf.image.decode_image, whose operation is not in all releases that load an export.
    start = tf.strings.substr(encoded, 0, 3)
    return tf.case(
        [
            (tf.equal(start, b"\xff\xd8\xff"), lambda: tf.image.decode_jpeg(encoded, channels=3)),
            (tf.equal(start, b"GIF"), lambda: tf.image.decode_gif(gif.first_picture(encoded))[0]),
            (
                tf.equal(tf.strings.substr(encoded, 0, 2), b"BM"),
                lambda: runtime.decode_bmp(encoded),
            ),
        ],
        default=lambda: _on_white(tf.image.decode_png(encoded, channels=4)),
    )


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3] of [height, width, 4]: what is transparent becomes white.

    As in data conversion. It is computed in 16 bits, since images may be as large as memory.
    """
    darkness = tf.cast(tf.bitwise.invert(image[..., :3]), tf.uint16)
    darkness = darkness * tf.cast(image[..., 3:], tf.uint16) // 255
    return tf.bitwise.invert(tf.cast(darkness, tf.uint8))


def _cut(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    begin = tf.concat([window[:2], [0]], axis=0)
    size = tf.concat([window[2:], [3]], axis=0)
    return tf.slice(image, begin, size)


# Windows -----------------------------------------------------------------------------------------


def random_window(image_shape: tf.Tensor) -> tf.Tensor:
    """A random window of an image, as int32 [top, left, height, width] in pixels.

    Area 0.1 to 1 of the image, aspect ratio (width / height) 3/4 to 4/3; the whole image if
    100 attempts find none.

    Args:
        image_shape: int32 [height, width, channels].
    """
    seed, seed2 = tf.get_seed(None)  # Other random operations ask for it themselves.
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        image_shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3.0 / 4.0, 4.0 / 3.0),
        area_range=(0.1, 1.0),
        max_attempts=100,
        seed=seed,
        seed2=seed2,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def central_window(image_shape: tf.Tensor) -> tf.Tensor:
    """The window of `tf.image.central_crop`, as int32 [top, left, height, width] in pixels.

    Args:
        image_shape: int32 [height, width, channels].
    """
    begin = image_shape[:2] // _CENTRAL_MARGIN
    return tf.concat([begin, image_shape[:2] - 2 * begin], axis=0)


def whole(image_shape: tf.Tensor) -> tf.Tensor:
    """All of an image, as int32 [top, left, height, width] in pixels.

    Args:
        image_shape: int32 [height, width, channels].
    """
    return tf.concat([[0, 0], image_shape[:2]], axis=0)


# Size and colours --------------------------------------------------------------------------------


def _resize_and_distort(
    pixels: tf.Tensor,
    height: int,
    width: int,
    is_training: bool,
    scaled_images: bool = True,
    use_fast_color_distort: bool = True,
    cb_distortion_range: float = 0.1,
    cr_distortion_range: float = 0.1,
    exportable: bool = True,
) -> tf.Tensor:
    """What follows the crop: resizing, in training mirroring and other colours, and the range."""
    lowest, factor = (-1.0, 2.0) if scaled_images else (0.0, 1.0)
    unit = 1.0 / 255.0 if pixels.dtype == tf.uint8 else 1.0
    shifts_color = is_training and use_fast_color_distort
    if is_training:
        noise = tf.random_uniform([4], -1.0, 1.0)
        shifts = largest_color_shifts(cb_distortion_range, cr_distortion_range)
    elif not exportable:  # Neither mirrored nor shifted.
        noise, shifts = tf.ones([4]), np.zeros([3, 3])
    in_one_pass = shifts_color if is_training else not exportable
    if in_one_pass and pixels.dtype == tf.uint8 and _fused_distortion():
        # The same as below.
        distort = _fused_distortion().distort
        return distort(pixels, height, width, noise, shifts, factor, lowest)
    # Whole numbers are resized as they are, and scaled afterwards, when there are fewer pixels.
    pixels = tf.image.resize_bilinear(tf.expand_dims(pixels, 0), [height, width])[0]
    if is_training:
        pixels = tf.cond(noise[0] < 0, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    if is_training and not shifts_color:
        pixels, unit = distort_color(pixels * unit), 1.0
    # Rows of pixels: of single pixels three numbers would take five times as long to add; and
    # clipping takes twice as long as minimum and maximum.
    rows, shift = tf.reshape(pixels, [height, width * 3]), 0.0
    if shifts_color:
        shift = tf.matmul([noise[1:]], tf.constant(shifts, tf.float32))[0]
        shift = tf.tile(shift, [width])
    rows = rows * (unit * factor) + (shift * factor + lowest)
    if shifts_color:
        rows = tf.maximum(tf.minimum(rows, 1.0), lowest)
    return tf.reshape(rows, [height, width, 3])


@functools.lru_cache(maxsize=None)
def _fused_distortion():
    """The module that does all of it in one pass, or None where it cannot be used."""
    try:
        from common.data import fused_distortion
    except ImportError as error:
        tf.logging.info("Images are made without numba, more slowly: %s.", error)
        return None
    return fused_distortion


def largest_color_shifts(cb_distortion_range: float, cr_distortion_range: float) -> np.ndarray:
    """[3, 3]: what the largest shifts of brightness, Cb and Cr add to red, green and blue.

    Args:
        cb_distortion_range, cr_distortion_range: largest shifts of chroma, as parts of 1.
    """
    largest = [MAX_BRIGHTNESS_SHIFT, cb_distortion_range, cr_distortion_range]
    return np.array(largest)[:, np.newaxis] * [(1.0, 1.0, 1.0), _CB_TO_RGB, _CR_TO_RGB]


def distort_color(image: tf.Tensor) -> tf.Tensor:
    """Distorts brightness, saturation, hue and contrast in one of four random orders."""

    def brightness(x):
        return tf.image.random_brightness(x, MAX_BRIGHTNESS_SHIFT)

    def saturation(x):
        return tf.image.random_saturation(x, 0.5, 1.5)

    def hue(x):
        return tf.image.random_hue(x, 0.2)

    def contrast(x):
        return tf.image.random_contrast(x, 0.5, 1.5)

    orders = (
        (brightness, saturation, hue, contrast),
        (saturation, brightness, contrast, hue),
        (contrast, hue, brightness, saturation),
        (hue, saturation, contrast, brightness),
    )

    def in_order(distortions):
        def apply():
            result = image
            for distortion in distortions:
                result = distortion(result)
            return result

        return apply

    order = tf.random_uniform([], maxval=len(orders), dtype=tf.int32)
    image = tf.switch_case(order, [in_order(distortions) for distortions in orders])
    return tf.clip_by_value(image, 0.0, 1.0)
