"""Draws what training and evaluation make of a few images, for people to look at.

    python scripts/docs/augmentation_sheet.py --output=sheet.png
    python scripts/docs/augmentation_sheet.py --data_dir=/data/imagenet --output=sheet.png
    python scripts/docs/augmentation_sheet.py --output=sheet.png cat.jpg dog.png

A row an image: the image itself, evaluation's version, and training versions. Images are the files
named, else the first of the data set's training images, else scikit-learn's two photographs.
"""

import itertools
import os
import sys
from typing import List, Optional, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import inception_preprocessing
from common import files, runtime
from common.arguments import Parser, integer
from common.data import image_files
from common.errors import UserError
from common.runtime import tf
from scripts.extract_images import read_images

_GAP = 4


def make_sheet(
    images: Sequence[bytes],
    size: int,
    versions: int,
    use_fast_color_distort: bool = True,
    seed: Optional[int] = None,
) -> np.ndarray:
    """Draws the sheet.

    Args:
        images: encoded images.
        size: width and height of each version in pixels.
        versions: number of training versions of each image.
        use_fast_color_distort: as in training.
        seed: of the random numbers; None for others each time.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UserError: an image cannot be decoded; says which, from 0.
    """
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(seed)
        encoded = tf.placeholder(tf.string, [])
        whole = inception_preprocessing.decode_whole(encoded)
        evaluation, training = (
            inception_preprocessing.preprocess_bytes(
                encoded,
                size,
                is_training=is_training,
                scaled_images=False,
                use_fast_color_distort=use_fast_color_distort,
            )
            for is_training in (False, True)
        )
        rows = []
        for i, image in enumerate(images):
            feed = {encoded: image}
            try:
                cells = [_fit(session.run(whole, feed), size)]
            except tf.errors.InvalidArgumentError as error:
                raise UserError(
                    f"Image {i} cannot be decoded: {runtime.error_message(error)}"
                ) from error
            cells.append(session.run(evaluation, feed))
            cells += [session.run(training, feed) for _ in range(versions)]
            rows.append(np.concatenate([_framed(cell) for cell in cells], axis=1))
    return np.concatenate(rows)


def _fit(image: np.ndarray, size: int) -> np.ndarray:
    """A whole image in the middle of a white square, float32 in [0, 1]."""
    picture = Image.fromarray(image)
    picture.thumbnail((size, size))
    square = Image.new("RGB", (size, size), "white")
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(square, np.float32) / 255.0


def _framed(cell: np.ndarray) -> np.ndarray:
    pixels = np.round(cell * 255.0).astype(np.uint8)
    return np.pad(pixels, ((0, _GAP), (0, _GAP), (0, 0)), "constant", constant_values=255)


def find_images(paths: Sequence[str], data_dir: Optional[str], count: int) -> List[bytes]:
    """Encoded images: see the module's docstring.

    Raises:
        UserError: a file or the data set cannot be read.
    """
    try:
        if paths:
            return [tf.io.gfile.GFile(path, "rb").read() for path in paths]
        if data_dir:
            images = itertools.islice(read_images(data_dir, "train"), count)
            return [encoded for encoded, _ in images]
    except tf.errors.OpError as error:
        raise UserError(error.message) from error
    photos = map(Image.fromarray, load_sample_images().images)
    return [image_files.encode_jpeg(photo, quality=95) for photo in photos]


def parse_arguments(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("images", nargs="*", help="Files of images.")
    parser.add_argument("--output", default="augmentation_sheet.png", help="The PNG.")
    parser.add_argument("--data_dir", help="Data set whose images to take.")
    parser.add_argument("--count", type=integer(1), default=6, help="How many of the data set.")
    parser.add_argument(
        "--image_size", type=integer(1), default=224, help="Size of a version in pixels."
    )
    parser.add_argument("--versions", type=integer(0), default=6, help="Training versions of each.")
    parser.add_boolean("use_fast_color_distort", True, "As in training: shift colours only.")
    parser.add_argument("--seed", type=int, help="Seed. Default: another sheet each time.")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the program."""
    options = parse_arguments(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        sheet = make_sheet(
            find_images(options.images, options.data_dir, options.count),
            options.image_size,
            options.versions,
            options.use_fast_color_distort,
            options.seed,
        )
        with files.replacing(options.output) as temporary:
            Image.fromarray(sheet).save(temporary, "PNG")
    except (UserError, OSError) as error:
        sys.exit(f"augmentation_sheet.py: {error}")
    print(f"{options.output}: {sheet.shape[1]}x{sheet.shape[0]} pixels.")


if __name__ == "__main__":
    main()
