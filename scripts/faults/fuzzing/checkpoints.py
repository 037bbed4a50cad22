"""Checkpoints: an index with other contents, whose checksums are right."""

import contextlib
import os
import random
import struct
from typing import List, Tuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.summary.writer.record_writer import masked_crc32c
from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

from common import files
from common.checkpoints import index, reading, selection
from common.checkpoints.index import read_varint
from common.errors import UserError
from common.runtime import tf
from scripts.faults.fuzz_input import damaged
from scripts.faults.fuzzing.target import NUMBERS, Target, end_hangs

_FOOTER_BYTES, _MAGIC = 48, struct.pack("<Q", 0xDB4775248B80FB57)

# Keys and values of an index; the first key is '', and its value the header.
Entries = List[Tuple[bytes, bytes]]


def checkpoints(directory: str) -> Target:
    """Indices of checkpoints: as training looks for the latest one, and as it restores it."""
    prefix = os.path.join(directory, "model.ckpt-5")

    def seeds():
        with tf.Graph().as_default(), tf.Session() as session:
            tf.get_variable("weights", initializer=np.ones([2, 3], np.float32))
            tf.get_variable("names", initializer=["a", "b"])
            step = tf.Variable(5, name="global_step", dtype=tf.int64)
            session.run(tf.global_variables_initializer())
            tf.train.Saver().save(session, prefix[:-2], global_step=step)
        with open(f"{prefix}.index", "rb") as file:
            index = file.read()
        assert entries_of(index)
        return [index, table(entries_of(index))]

    def run(data):
        files.write_bytes(f"{prefix}.index", data)
        try:
            index.check(prefix)
        except (ValueError, tf.errors.OpError):
            _read(prefix)  # TensorFlow does not see it.
        else:
            in_child(lambda: _read(prefix))

    return Target(seeds, _mutate, run)


def _read(prefix: str):
    reading.forget()
    problem = reading.problem(prefix)
    try:
        selection.resolve(os.path.dirname(prefix))
    except UserError:
        assert problem
    with contextlib.suppress(UserError):
        reading.variable_shapes(reading.open_checkpoint(prefix))
    with contextlib.suppress(*reading.UNREADABLE, UserError):
        reading.global_step(prefix)


def in_child(function):
    """Runs a function in a process of its own; raises RuntimeError if that does not end well."""
    child = os.fork()
    if not child:
        try:
            end_hangs()  # Its parent's timer is not inherited.
            function()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"The process ended with status {status}.")


def _mutate(rng: random.Random, data: bytes) -> bytes:
    entries = entries_of(data)
    kind = rng.randrange(6)
    if kind == 0 or not entries:
        return damaged(rng, data)
    i = rng.randrange(len(entries))
    key, value = entries[i]
    if kind == 1:
        entries[i] = rng.choice([(damaged(rng, key), value), (key, damaged(rng, value))])
    elif kind == 2:
        entries[i : i + 1] = rng.choice([[], [entries[i]] * 2, [rng.choice(entries)]])
    else:
        entries[i] = key, (_mutate_entry if key else _mutate_header)(rng, value)
    return table(entries, rng.choice([1] * 9 + [2]))


def _mutate_header(rng: random.Random, value: bytes) -> bytes:
    try:
        header = BundleHeaderProto.FromString(value)
    except DecodeError:
        return value
    field = rng.randrange(4)
    if field == 0:
        header.num_shards = rng.choice([0, 2, -1, 2**31 - 1])
    elif field == 1:
        header.endianness = rng.choice([1, 0])
    elif field == 2:
        header.version.producer = rng.choice([0, 2, 2**31 - 1, -1])
    else:
        header.version.min_consumer = rng.choice([0, 2, 2**31 - 1, -1])
    return header.SerializeToString()


def _mutate_entry(rng: random.Random, value: bytes) -> bytes:
    try:
        entry = BundleEntryProto.FromString(value)
    except DecodeError:
        return value
    number = rng.choice([n for n in NUMBERS if n < 2**63] + [-(2**63), 8, 24])
    field = rng.randrange(8)
    if field == 0:
        entry.dtype = rng.choice([*range(24), 100, 101, 200])
    elif field == 1:
        entry.shape.dim.add().size = number
    elif field == 2 and entry.shape.dim:
        rng.choice(entry.shape.dim).size = number
    elif field == 3:
        entry.shard_id = rng.choice([1, -1, 2**31 - 1])
    elif field == 4:
        entry.offset = number
    elif field == 5:
        entry.size = number
    elif field == 6:
        extent = entry.slices.add().extent.add()
        extent.start, extent.length = number, rng.choice([-1, 0, 1, number])
    else:
        entry.shape.unknown_rank = True
    return entry.SerializeToString()


# The table of an index, as LevelDB writes it -----------------------------------------------------


def table(entries: Entries, times: int = 1) -> bytes:
    """A table of one block of entries, which its index names so many times."""
    data = _block(entries)
    meta = _block([])
    last = entries[-1][0] + b"\xff" if entries else b"\xff"
    handles = [_handle(0, data), _handle(len(data), meta)]
    index = _block([(last, handles[0])] * times)
    footer = handles[1] + _handle(len(data) + len(meta), index)
    return data + meta + index + footer.ljust(_FOOTER_BYTES - 8, b"\0") + _MAGIC


def _block(entries: Entries) -> bytes:
    data, last = b"", b""
    for key, value in entries:
        shared = len(last) if key.startswith(last) else 0
        data += _varint(shared) + _varint(len(key) - shared) + _varint(len(value))
        data += key[shared:] + value
        last = key
    data += struct.pack("<II", 0, 1) + b"\0"  # One restart, at 0; not compressed.
    return data + struct.pack("<I", masked_crc32c(data))


def _handle(offset: int, block: bytes) -> bytes:
    return _varint(offset) + _varint(len(block) - 5)


def _varint(number: int) -> bytes:
    data = b""
    while number >= 0x80:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def entries_of(data: bytes) -> Entries:
    """The entries of the first block of a table; none if it is damaged."""
    try:
        _, offset = read_varint(data, len(data) - _FOOTER_BYTES)  # Of the meta block.
        _, offset = read_varint(data, offset)
        index, _ = read_varint(data, offset)
        (_, handle), *_ = _entries_at(data, index)
        offset, _ = read_varint(handle, 0)
        return _entries_at(data, offset)
    except (IndexError, ValueError):
        return []


def _entries_at(data: bytes, offset: int) -> Entries:
    entries, key = [], b""
    while True:
        shared, offset = read_varint(data, offset)
        others, offset = read_varint(data, offset)
        size, offset = read_varint(data, offset)
        # Where the restarts begin: no key is as long as its entry.
        if (shared, others, size) == (0, 0, 0) or offset + others + size > len(data):
            return entries
        key = key[:shared] + data[offset : offset + others]
        offset += others
        entries.append((key, data[offset : offset + size]))
        offset += size
