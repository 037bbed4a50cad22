"""One image -> one training or evaluation example, as Inception's training did.

Szegedy et al. 2015 (arXiv 1409.4842), section 6: a random part of the image, of random size and
aspect ratio, flipped and shifted in colour; in evaluation the central 87.5 % of each side.
"""

import tensorflow.compat.v1 as tf

CENTRAL_FRACTION = 0.875
MAX_BRIGHTNESS_SHIFT = 32.0 / 255.0

# Chroma to red, green and blue: the JPEG (ITU-R BT.601) conversion.
_CB_TO_RGB = (0.0, -0.344136, 1.772)
_CR_TO_RGB = (1.402, -0.714136, 0.0)


def preprocess_image(
    image: tf.Tensor,
    output_height: int,
    output_width: int,
    is_training: bool = False,
    scaled_images: bool = True,
    use_fast_color_distort: bool = True,
    cb_distortion_range: float = 0.1,
    cr_distortion_range: float = 0.1,
) -> tf.Tensor:
    """Crops, resizes and, in training, distorts one image.

    Args:
        image: [height, width, 3]; uint8, or float32 in [0, 1].
        output_height, output_width: size in pixels to resize to.
        is_training: random crop, flip and colours; else the central crop.
        scaled_images: whether the result is in [-1, 1], else in [0, 1].
        use_fast_color_distort: shift brightness and chroma; else distort brightness, saturation,
            hue and contrast in one of four orders.
        cb_distortion_range, cr_distortion_range: largest chroma shifts, either way.

    Returns:
        float32 [output_height, output_width, 3].
    """
    if is_training:
        image = _random_crop(image)
    else:
        image = tf.image.central_crop(image, CENTRAL_FRACTION)
    image = _resize(image, output_height, output_width)
    if is_training:
        image = tf.image.random_flip_left_right(image)
        if use_fast_color_distort:
            image = distort_color_fast(image, cb_distortion_range, cr_distortion_range)
        else:
            image = distort_color(image)
    return (image - 0.5) * 2.0 if scaled_images else image


def sample_crop(image_shape: tf.Tensor):
    """A random window: (begin [y, x, 0], size [height, width, -1]) in pixels, int32.

    Area 0.1 to 1 of the image, aspect ratio (width / height) 3/4 to 4/3; the whole image if
    100 attempts find none.
    """
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        image_shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3.0 / 4.0, 4.0 / 3.0),
        area_range=(0.1, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def _random_crop(image: tf.Tensor) -> tf.Tensor:
    begin, size = sample_crop(tf.shape(image))
    image = tf.slice(image, begin, size)
    image.set_shape([None, None, 3])
    return image


def _resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Bilinear; float32 in [0, 1]. Whole-number images are scaled afterwards, on fewer pixels."""
    scale = 1.0 / 255.0 if image.dtype == tf.uint8 else 1.0
    image = tf.image.resize_bilinear(tf.expand_dims(image, 0), [height, width])[0]
    return image * scale if scale != 1.0 else image


def distort_color_fast(
    image: tf.Tensor, cb_distortion_range: float = 0.1, cr_distortion_range: float = 0.1
) -> tf.Tensor:
    """Shifts brightness and both chroma components of an image in [0, 1] by random amounts."""

    def shift(largest):
        return tf.random_uniform([], -largest, largest)

    color = (
        shift(MAX_BRIGHTNESS_SHIFT)
        + shift(cb_distortion_range) * tf.constant(_CB_TO_RGB)
        + shift(cr_distortion_range) * tf.constant(_CR_TO_RGB)
    )
    return tf.clip_by_value(image + color, 0.0, 1.0)


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
