"""TFRecord files, and the records in them."""

import contextlib
import os
import random
import struct
from typing import List

from google.protobuf.message import DecodeError
from tensorboard.summary.writer.record_writer import masked_crc32c

import imagenet_records
from common import files
from common.data import tfrecords
from common.errors import UserError
from common.runtime import tf
from scripts import check_data, extract_images
from scripts.faults import fuzz_input
from scripts.faults.fuzz_input import damaged
from scripts.faults.fuzzing.images import mutate_image
from scripts.faults.fuzzing.target import NUMBERS, Target

_CLASSES = 11


def records(directory: str) -> Target:
    """TFRecord files: as check_data.py and extract_images.py read them."""
    path = os.path.join(directory, tfrecords.shard_name("train", 0, 1))

    def seeds():
        images = fuzz_input.base_images()
        return [_framed(map(_example, images[i : i + 3])) for i in range(0, len(images), 3)]

    def run(data):
        files.write_bytes(path, data)
        report = check_data.check_shard(path, _CLASSES)
        count, problem = tfrecords.scan_shard(path)
        assert report.records == count or report.damage
        assert report.damage or not problem
        with contextlib.suppress(UserError):
            extract_images.extract_images(directory, os.path.join(directory, "out"), "train", None)

    return Target(seeds, _mutate_records, run)


def _example(image: bytes) -> bytes:
    example = tfrecords.image_example(image, 1, height=24, width=20)
    return example.SerializeToString(deterministic=True)


def _framed(payloads) -> bytes:
    """Records with their lengths and checksums."""
    data = b""
    for payload in payloads:
        length = struct.pack("<Q", len(payload))
        data += length + struct.pack("<I", masked_crc32c(length))
        data += payload + struct.pack("<I", masked_crc32c(payload))
    return data


def _payloads(data: bytes) -> List[bytes]:
    """The data of records, wherever their checksums are right."""
    found, offset = [], 0
    while offset + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        found.append(data[offset + 12 : offset + 12 + min(length, len(data))])
        offset += 16 + min(length, len(data))
    return found


def _mutate_records(rng: random.Random, data: bytes) -> bytes:
    payloads = _payloads(data)
    kind = rng.randrange(6)
    if kind == 0 or not payloads:
        return damaged(rng, data)
    i = rng.randrange(len(payloads))
    if kind == 1:  # A length whose checksum is right.
        data = _framed(payloads)
        offset = len(_framed(payloads[:i]))
        length = struct.pack("<Q", rng.choice(NUMBERS) % 2**64)
        return (
            data[:offset] + length + struct.pack("<I", masked_crc32c(length)) + data[offset + 12 :]
        )
    if kind == 2:
        payloads[i : i + 1] = rng.choice([[], [payloads[i]] * 2, [b""], payloads[::-1]])
    else:
        payloads[i] = _mutate_example(rng, payloads[i])
    return _framed(payloads)


def examples(directory: str) -> Target:
    """Records by themselves, parsed and decoded with the operations that training uses."""
    del directory
    checker = imagenet_records.Checker(_CLASSES)

    def run(data):
        checked = checker.check([data])[0]
        assert (checked.label is None) == bool(checked.problem)

    return Target(lambda: list(map(_example, fuzz_input.base_images())), _mutate_example, run)


def _mutate_example(rng: random.Random, data: bytes) -> bytes:
    try:
        example = tf.train.Example.FromString(data)
        encoded = example.features.feature["image/encoded"].bytes_list.value[0]
    except (DecodeError, IndexError):
        return damaged(rng, data)
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(rng, data)
    if kind == 1:
        return fuzz_input.odd_example(rng, encoded)
    values = example.features.feature["image/encoded"].bytes_list.value
    values[0] = mutate_image(rng, encoded)
    return example.SerializeToString(deterministic=True)
