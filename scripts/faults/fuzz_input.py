#!/usr/bin/env python
"""Feeds damaged and hostile images, records and shards to the input code, from a seed.

    python scripts/faults/fuzz_input.py --inputs=10000 --seed=1

Each input has to end as an error or as an image; this program itself must neither crash nor hang.
What is explained as good has to become an image, and what is explained as bad must not, but for
JPEGs, of which the damage may be in a part that is not decoded.
It says which batch of inputs it is at, so that a crash can be found again: `--first` starts there.
"""

import argparse
import collections
import io
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from typing import List, Set

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import amoeba_net_model
import imagenet_input
import imagenet_records
import inception_preprocessing
from common.arguments import integer
from common.data import tfrecords
from common.errors import UserError
from common.runtime import tf
from scripts import check_data

_BATCH = 1000
_CLASSES = 11
_SIZES = (0, 1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)
# Slower ones: of how many inputs one.
_ALONE_EVERY = 5


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=integer(1), default=10000)
    parser.add_argument("--seed", type=integer(0), default=1)
    parser.add_argument("--first", type=integer(0), default=0, help="batch to start at")
    arguments = parser.parse_args(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    images = base_images()
    counts = collections.Counter()
    read = Reader()
    for batch in range(arguments.first, -(-arguments.inputs // _BATCH)):
        started = time.perf_counter()
        rng = random.Random(f"{arguments.seed} {batch}")
        records = [bad_record(rng, images) for _ in range(_BATCH)]
        counts["inputs"] += len(records)
        became_images = [read(records, is_training) for is_training in (True, False)]
        counts["became images"] += sum(map(len, became_images))
        read.alone(records[::_ALONE_EVERY], counts)
        explain(records, became_images, counts)
        read_shards(rng, records, counts)
        seconds = time.perf_counter() - started
        print(f"batch {batch}: {dict(counts)}, {seconds:.1f} s", flush=True)
    print("No crash, no hang.")


# Inputs ------------------------------------------------------------------------------------------


def base_images() -> List[bytes]:
    """Whole images in all formats that are read, and in most of their variants."""
    pixels = np.random.RandomState(0).randint(0, 255, (24, 20, 3), np.uint8)
    pixels[4:16, 4:16] = (200, 30, 90)
    picture = Image.fromarray(pixels)
    variants = [
        *[("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "CMYK", {})],
        *[("JPEG", "RGB", {"progressive": True}), ("JPEG", "RGB", {"subsampling": 2})],
        *[("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I")],
        *[("GIF", "P", {}), ("GIF", "P", {"save_all": True, "append_images": [picture] * 2})],
        *[("BMP", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1")],
    ]
    images = []
    for image_format, mode, options in variants:
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, image_format, **options)
        images.append(buffer.getvalue())
    return images


def bad_record(rng: random.Random, images: List[bytes]) -> bytes:
    """A damaged record, or one of a damaged image; now and then it may still be good."""
    kind = rng.randrange(10)
    image = rng.choice(images)
    if kind == 0:
        return damaged(
            rng, tfrecords.image_example(image, 1, height=24, width=20).SerializeToString()
        )
    if kind == 1:
        return odd_example(rng, image)
    return tfrecords.image_example(
        damaged(rng, image), rng.randrange(1, _CLASSES), height=24, width=20
    ).SerializeToString()


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes with one to four damages: flipped, cut, repeated, overwritten, or none of the bytes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place = rng.randrange(len(data) + 1)
        # Headers are at the start, and what is there matters most.
        early = rng.randrange(min(len(data), 64) + 1)
        kind = rng.randrange(10)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            del data[place : place + rng.randrange(1, 64)]
        elif kind == 2:
            data[place:place] = data[early : early + rng.randrange(1, 256)]
        elif kind == 3:
            data[early : early + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_SIZES))
        elif kind == 4:
            data[early : early + 2] = struct.pack(rng.choice("<>") + "H", rng.choice(_SIZES[:5]))
        elif kind == 5:
            data[place:] = bytes(rng.getrandbits(8) for _ in range(rng.randrange(200)))
        elif kind == 6 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 7 and data:
            data[early % len(data)] = rng.getrandbits(8)
        elif kind == 8:
            enlarge(rng, data)
        else:
            data[0:0] = rng.choice([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"])
    return bytes(data)


def enlarge(rng: random.Random, data: bytearray):
    """Makes the header of a JPEG, PNG, GIF or BMP tell of another size, most often a huge one."""
    size = [rng.choice([0, 1, 300, 20000, 65500, 65535]) for _ in range(2)]
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))  # Baseline, progressive.
    if data.startswith(b"GIF"):
        data[6:10] = struct.pack("<HH", *size)
    elif data.startswith(b"BM"):
        data[18:26] = struct.pack("<ii", *(rng.choice([1, -1]) * number for number in size))
    elif data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", *size)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif frame > 0:
        data[frame + 5 : frame + 9] = struct.pack(">HH", *size)


def odd_example(rng: random.Random, image: bytes) -> bytes:
    """A whole tf.train.Example that is not what is expected."""
    example = tfrecords.image_example(image, 1, height=24, width=20)
    feature = example.features.feature
    label, encoded = feature["image/class/label"], feature["image/encoded"]
    kind = rng.randrange(7)
    if kind == 0:
        label.int64_list.value[0] = rng.choice([0, -1, _CLASSES, 2**31, 2**63 - 1, -(2**63)])
    elif kind == 1:
        label.float_list.value.append(1.0)
    elif kind == 2:
        label.int64_list.value.extend([1] * rng.randrange(1, 9))
    elif kind == 3:
        del feature[rng.choice(["image/class/label", "image/encoded"])]
    elif kind == 4:
        encoded.bytes_list.value.append(image)
    elif kind == 5:
        encoded.bytes_list.value[0] = rng.choice(
            [b"", b"\xff", b"\x00", b"\xff\xd8\xff\xd9", b"BM"]
        )
    else:
        feature["image/\u00e4\u0000" + str(rng.random())].bytes_list.value.append(os.urandom(0))
    return example.SerializeToString()


# What reads them ---------------------------------------------------------------------------------


def _hparams():
    hparams = amoeba_net_model.build_hparams()
    hparams.set_hparam("image_size", 16)
    hparams.set_hparam("num_label_classes", _CLASSES)
    return hparams


class Reader:
    """Parses, decodes and preprocesses records as training and evaluation do."""

    def __init__(self):
        self._graph = tf.Graph()
        self._numbers = {}
        with self._graph.as_default():
            self._records = tf.placeholder(tf.string, [None])
            for is_training in (True, False):
                pipeline = imagenet_input.InputPipeline(is_training, None, _hparams())
                dataset = tf.data.Dataset.from_tensor_slices(self._records).enumerate()
                dataset = dataset.map(
                    lambda number, record, pipeline=pipeline: (
                        number,
                        pipeline.parse_example(record),
                    ),
                    num_parallel_calls=2,
                )
                dataset = dataset.apply(tf.data.experimental.ignore_errors()).batch(_BATCH)
                iterator = tf.data.make_initializable_iterator(dataset)
                self._numbers[is_training] = iterator.initializer, iterator.get_next()[0]
            self._encoded = tf.placeholder(tf.string, [])
            self._shape = tf.shape(inception_preprocessing.decode_whole(self._encoded))
        self._session = tf.Session(graph=self._graph)

    def __call__(self, records: List[bytes], is_training: bool) -> Set[int]:
        """Which of the records became images; the others were errors."""
        initializer, numbers = self._numbers[is_training]
        self._session.run(initializer, {self._records: records})
        try:
            return set(self._session.run(numbers).tolist())
        except tf.errors.OutOfRangeError:
            return set()

    def alone(self, records: List[bytes], counts: collections.Counter):
        """Decodes images one by one, so that TensorFlow makes an exception of each error."""
        for record in records:
            try:
                feature = tf.train.Example.FromString(record).features.feature
                (encoded,) = feature["image/encoded"].bytes_list.value
            except (DecodeError, ValueError):
                continue
            try:
                self._session.run(self._shape, {self._encoded: encoded})
                counts["decoded alone"] += 1
            except tf.errors.InvalidArgumentError:
                counts["refused alone"] += 1


def explain(records: List[bytes], became_images: List[Set[int]], counts: collections.Counter):
    """What the program would say about each record; it has to agree with what became of it."""
    with imagenet_records.Checker(_CLASSES) as checker:
        for number, (record, checked) in enumerate(zip(records, checker.check(records))):
            problem = checked.problem
            counts["explained as bad" if problem else "explained as good"] += 1
            became_image = [number in numbers for numbers in became_images]
            if not problem:
                assert all(became_image), record
            elif "(JPEG)" not in problem:
                assert not any(became_image), (problem, record)


def read_shards(rng: random.Random, records: List[bytes], counts: collections.Counter):
    """Shards with damage between and inside the records, as a data set."""
    with tempfile.TemporaryDirectory() as directory:
        for index in range(2):
            path = os.path.join(directory, tfrecords.shard_name("validation", index, 2))
            tfrecords.write_shard(path, records[index::100])
            with open(path, "rb") as file:
                data = file.read()
            with open(path, "wb") as file:
                file.write(damaged(rng, data))
            report = check_data.check_shard(path, _CLASSES)
            counts["shards"] += 1
            counts["shards found damaged"] += bool(report.damage)
        hparams = _hparams()
        hparams.set_hparam("on_bad_record", "skip")
        hparams.set_hparam("max_bad_fraction", 1.0)
        hparams.set_hparam("num_eval_images", 20)
        hparams.set_hparam("eval_batch_size", 5)
        pipeline = imagenet_input.InputPipeline(False, directory, hparams)
        try:
            with pipeline.naming_bad_records(), tf.Graph().as_default(), tf.Session() as session:
                batch = tf.data.make_one_shot_iterator(pipeline.input_fn()).get_next()
                for _ in range(4):
                    session.run(batch)
        except (UserError, tf.errors.OpError):
            counts["data sets refused"] += 1
        counts["data sets"] += 1


if __name__ == "__main__":
    main()
