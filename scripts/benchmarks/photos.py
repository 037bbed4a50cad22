"""Photographs like ImageNet's, as a data set: what the benchmarks read where there is no other."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from common.data import image_files, tfrecords

PHOTO_SIZE = (500, 375)
PHOTO_BYTES = 110_000


def make_photos(directory: str, count: int, shards: int = 8):
    """Writes photographs of ImageNet's size, cut at random from scikit-learn's, as both splits."""
    random = np.random.RandomState(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    examples = []
    for i in range(count):
        photo = photos[i % len(photos)]
        left, top = (random.randint(0, n - m + 1) for n, m in zip(photo.size, PHOTO_SIZE))
        cut = photo.crop((left, top, left + PHOTO_SIZE[0], top + PHOTO_SIZE[1]))
        if random.randint(2):
            cut = cut.transpose(Image.FLIP_LEFT_RIGHT)
        examples.append(
            tfrecords.image_example(
                _encode(cut), 1 + i % 1000, height=PHOTO_SIZE[1], width=PHOTO_SIZE[0]
            )
        )
    for split in tfrecords.SPLITS:
        tfrecords.write_split(directory, split, examples, shards)


def _encode(photo: Image.Image) -> bytes:
    """JPEG of the quality that comes nearest to the size of ImageNet's files."""
    encoded = [image_files.encode_jpeg(photo, quality) for quality in range(86, 100)]
    return min(encoded, key=lambda data: abs(len(data) - PHOTO_BYTES))
