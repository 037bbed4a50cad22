#!/usr/bin/env python
"""Writes the images of a data set as files, one folder a class, to look at or to try things on.

    python scripts/extract_images.py --data_dir=DATA --output_dir=IMAGES --count=100

Images are written as the shards hold them, byte for byte, to IMAGES/<class>/<number>.<format>; the
number is the image's position in its split, from 0. Names of classes come from labels.txt; one that
cannot be a folder's name, or that two classes have, is changed.
"""

import argparse
import itertools
import os
import re
import sys
from typing import Iterator, List, Sequence, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from google.protobuf.message import DecodeError

from common import runtime
from common.arguments import integer, local_place, place
from common.data import tfrecords
from common.errors import UserError
from common.runtime import tf

_LONGEST_NAME = 255  # Bytes, of every file system in use.


def extract_images(data_dir: str, output_dir: str, split: str, count: int) -> int:
    """Writes the first `count` images of a split, or all; returns how many there were.

    Raises:
        UserError: there are no such shards, one is damaged, or an image has no name for its class.
    """
    names = folder_names(tfrecords.read_labels(data_dir) or [])
    written = 0
    images = itertools.islice(read_images(data_dir, split), count)
    for number, (encoded, label) in enumerate(images):
        if names and not 0 <= label < len(names):
            raise UserError(
                f"{data_dir}: image {number} of {split} has label {label}, and "
                f"{tfrecords.LABELS} names {len(names)} classes: see scripts/check_data.py."
            )
        name = names[label] if names else f"class_{label}"
        suffix = "png" if encoded.startswith(b"\x89PNG") else "jpg"
        os.makedirs(os.path.join(output_dir, name), exist_ok=True)
        with open(os.path.join(output_dir, name, f"{number:06d}.{suffix}"), "wb") as f:
            f.write(encoded)
        written += 1
    return written


def folder_names(names: Sequence[str]) -> List[str]:
    """Names of folders, all different, for classes of these names.

    None leads elsewhere, as .. would, or is hidden, so that scripts/build_tfrecords.py finds it.
    """
    found = []
    for label, name in enumerate(names):
        folder = legal = re.sub(r"^\.|[/\0]", "_", name)
        end = ""
        while len(os.fsencode(folder)) > _LONGEST_NAME or folder in found:
            end += f"_{label}"
            start = os.fsencode(legal)[: _LONGEST_NAME - len(end)]
            folder = start.decode("utf-8", "ignore") + end
        found.append(folder)
    return found


def read_images(data_dir: str, split: str) -> Iterator[Tuple[bytes, int]]:
    """(encoded image, label) of each record of a split; raises UserError as above."""
    numbers = itertools.count()
    for path in tfrecords.find_shards(data_dir, split):
        records, problem = tfrecords.scan_shard(path)
        try:
            for record in itertools.islice(tf.io.tf_record_iterator(path), records):
                features = tf.train.Example.FromString(record).features.feature
                labels = features["image/class/label"].int64_list.value
                images = features["image/encoded"].bytes_list.value
                number = next(numbers)
                if len(labels) != 1 or len(images) != 1:
                    raise UserError(
                        f"{data_dir}: record {number} of {split} has {len(labels)} labels and "
                        f"{len(images)} images: see scripts/check_data.py."
                    )
                yield images[0], labels[0]
        except (DecodeError, tf.errors.DataLossError) as error:
            raise UserError(f"{path} is damaged: {runtime.error_message(error)}.") from error
        if problem:
            raise UserError(problem)


def main(argv=None):
    tf.logging.set_verbosity(tf.logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=place, required=True, help="Directory of the shards.")
    parser.add_argument(
        "--output_dir", type=local_place, required=True, help="Where to make the folders."
    )
    parser.add_argument("--split", default="validation", choices=tfrecords.SPLITS)
    parser.add_argument("--count", type=integer(0), help="Only so many images, the first.")
    arguments = parser.parse_args(argv)
    try:
        count = extract_images(
            arguments.data_dir, arguments.output_dir, arguments.split, arguments.count
        )
    except (UserError, OSError) as error:
        sys.exit(f"extract_images.py: {error}")
    print(f"Wrote {count} images to {arguments.output_dir}")


if __name__ == "__main__":
    main()
