#!/usr/bin/env python
"""Makes the quick start's data set: scikit-learn's handwritten digits as ImageNet-like TFRecords.

    python scripts/make_digits.py DIRECTORY [DIGITS [IMAGES]]

1,797 real images of 8 x 8 pixels (UCI "Optical Recognition of Handwritten Digits", test part),
with a margin of one pixel, since evaluation crops an image's edges; enlarged to 80 x 80 and stored
as JPEG. A fixed fifth of each class is for validation. Class i + 1 is the digit i, class 0 the
background; with DIGITS, like 56789, there are only these, as the classes 1, 2, ... in this order,
and with IMAGES only so many of each for training.
"""

import argparse
import os
import re
import sys
from typing import Optional

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from common.arguments import Parser, integer
from common.data import image_files, tfrecords

SIZE = 80
NUM_SHARDS = {"train": 4, "validation": 2}


def split_digits():
    """{split: (images [n, 8, 8] in 0..16, digits [n])}, the same each time, stratified."""
    digits = load_digits()
    images, validation_images, classes, validation_classes = train_test_split(
        digits.images, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    return {"train": (images, classes), "validation": (validation_images, validation_classes)}


def encode(image: np.ndarray) -> bytes:
    """An 8 x 8 image in 0..16 as an RGB JPEG of SIZE x SIZE pixels."""
    pixels = Image.fromarray((np.pad(image, 1) * (255.0 / 16.0)).astype(np.uint8))
    pixels = pixels.resize((SIZE, SIZE), Image.BICUBIC).convert("RGB")
    return image_files.encode_jpeg(pixels, quality=95)


def write_split(directory, split, images, labels, names):
    """Writes the shards of one split; returns its entry of dataset.json."""
    examples = [
        tfrecords.image_example(
            encode(image),
            label,
            height=SIZE,
            width=SIZE,
            text=names[label],
            filename=f"{split}_{i:04d}.JPEG",
        )
        for i, (image, label) in enumerate(zip(images, labels))
    ]
    return tfrecords.write_split(directory, split, examples, NUM_SHARDS[split])


def make_digits(directory: str, wanted: str = "0123456789", train_images: Optional[int] = None):
    """Makes the data set, unless it is there; the arguments are the program's."""
    if tfrecords.read_dataset_info(directory):
        return  # dataset.json comes last: everything is there.
    os.makedirs(directory, exist_ok=True)
    names = ["background"] + [f"digit {digit}" for digit in wanted]
    splits = {}
    for split, (images, digits) in split_digits().items():
        limit = train_images if split == "train" else None
        kept = sorted(i for digit in wanted for i in np.flatnonzero(digits == int(digit))[:limit])
        labels = [wanted.index(str(digit)) + 1 for digit in digits[kept]]
        splits[split] = write_split(directory, split, images[kept], labels, names)
    tfrecords.write_labels(directory, names)
    tfrecords.write_dataset_info(
        directory,
        {
            "format_version": 1,
            "source": "scikit-learn digits",
            "seed": 0,
            "num_classes": len(wanted),
            "num_label_classes": len(wanted) + 1,
            "splits": splits,
        },
    )
    print(
        f"Wrote {splits['train']['images']} training and {splits['validation']['images']} "
        f"validation images to {directory}"
    )


def main():
    parser = Parser(__doc__)
    parser.add_argument("directory", metavar="DIRECTORY")
    parser.add_argument("digits", metavar="DIGITS", nargs="?", type=_digits, default="0123456789")
    parser.add_argument("images", metavar="IMAGES", nargs="?", type=integer(1))
    arguments = parser.parse_args()
    make_digits(arguments.directory, arguments.digits, arguments.images)


def _digits(text: str) -> str:
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text}: expected digits, like 56789")
    return text


if __name__ == "__main__":
    main()
