"""Checks the index of a checkpoint before TensorFlow reads it.

An index is a table, as LevelDB writes it, from names to protocol buffers. TensorFlow ends the
process if one of these cannot be parsed, or reserves as much memory as a shape claims.
"""

import itertools
import operator
import struct
from typing import Dict, Iterator, Optional, Tuple

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

from common import limits
from common.runtime import tf

_FOOTER_BYTES, _MAGIC = 48, struct.pack("<Q", 0xDB4775248B80FB57)
_REFERENCES = 100  # Types of variables themselves, from here on.
_DIMENSIONS = 254  # TensorFlow's most.


def check(path: str):
    """Checks an index for what would crash TensorFlow.

    Args:
        path: prefix of the checkpoint.

    Raises:
        ValueError: says what is wrong with its index.
        tf.errors.OpError: the index, or a data file that it names, cannot be read.
    """
    index = f"{path}.index"
    if not tf.io.gfile.exists(index):
        return  # TensorFlow says so, or it is a file of its first format.
    data = limits.read_bytes(index, limits.CHECKPOINT_INDEX_BYTES)
    try:
        entries = _entries(data)
        key, value = next(entries, (None, b""))
        if key != b"":
            raise ValueError("it does not begin with its header")
        num_shards, sizes = BundleHeaderProto.FromString(value).num_shards, {}
        for key, value in entries:
            entry = BundleEntryProto.FromString(value)
            if entry.slices or key.startswith(b"\0"):
                raise ValueError("it has variables in parts, and only whole ones are read")
            name = key.decode("utf-8")
            problem = _shape_problem(entry) or _data_problem(entry, num_shards, path, sizes)
            if problem:
                raise ValueError(f"{name} has {problem}")
    except (DecodeError, IndexError, ValueError, struct.error) as error:
        raise ValueError(f"{index}: {str(error) or type(error).__name__}") from error


def _shape_problem(entry: BundleEntryProto) -> Optional[str]:
    """What is wrong with an entry's shape, or None."""
    dims = [dim.size for dim in entry.shape.dim]
    if len(dims) > _DIMENSIONS:
        return f"{len(dims)} dimensions"
    # TensorFlow multiplies from the left, even if a 0 follows.
    most = max(itertools.accumulate(dims, operator.mul), default=0)
    if entry.shape.unknown_rank or min(dims, default=0) < 0 or most >= 2**63:
        return f"shape {dims}"
    return None


def _data_problem(
    entry: BundleEntryProto, num_shards: int, path: str, sizes: Dict[int, int]
) -> Optional[str]:
    """What is wrong with the place of an entry's data, or None. sizes: of data files."""
    if not 0 <= entry.shard_id < num_shards:
        return f"its data in file {entry.shard_id} of {num_shards}"
    elements = 1
    for dim in entry.shape.dim:
        elements *= dim.size
    try:
        dtype = tf.as_dtype(entry.dtype)
        # A string takes at least a byte, which is its length.
        smallest = elements * (1 if dtype == tf.string else dtype.size)
    except TypeError:
        return f"type {entry.dtype}"
    if not dtype.is_numpy_compatible or entry.dtype > _REFERENCES:
        return f"type {entry.dtype}"
    if entry.shard_id not in sizes:
        name = f"{path}.data-{entry.shard_id:05d}-of-{num_shards:05d}"
        sizes[entry.shard_id] = tf.io.gfile.stat(name).length
    if not 0 <= entry.offset <= entry.offset + max(smallest, entry.size) <= sizes[entry.shard_id]:
        return f"{max(smallest, entry.size)} bytes at {entry.offset} of {sizes[entry.shard_id]}"
    return None


# The table ---------------------------------------------------------------------------------------


def _entries(data: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """(key, value) of a table; IndexError or struct.error if it is damaged."""
    if data[-len(_MAGIC) :] != _MAGIC:
        raise IndexError("it has no footer")
    offset = len(data) - _FOOTER_BYTES
    for _ in range(2):  # A block without meaning here.
        _, offset = read_varint(data, offset)
    end, most = 0, limits.CHECKPOINT_INDEX_BYTES
    for _, handle in _block(data, *_handle(data, offset), most):
        start, size = _handle(handle, 0)
        if start < end:
            raise IndexError("its blocks overlap")
        end = start + size
        for key, value in _block(data, start, size, most):
            most -= len(key)
            yield key, value


def _handle(data: bytes, offset: int) -> Tuple[int, int]:
    """Offset and size of a block."""
    start, offset = read_varint(data, offset)
    return start, read_varint(data, offset)[0]


def _block(data: bytes, start: int, size: int, most: int) -> Iterator[Tuple[bytes, bytes]]:
    """(key, value) of a block. most: how many bytes the keys may have, which share their starts."""
    block = data[start : start + size]
    if data[start + size] != 0:
        raise IndexError("it is compressed")
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    end, offset, key = size - 4 - 4 * restarts, 0, b""
    if end < 0:
        raise IndexError("a block is too short")
    starts = {0}
    while offset < end:
        start = offset
        shared, offset = read_varint(block, offset)
        others, offset = read_varint(block, offset)
        length, offset = read_varint(block, offset)
        if not shared:
            starts.add(start)
        key = key[:shared] + block[offset : offset + others]
        offset += others + length
        most -= len(key)
        if most < 0:
            raise IndexError("its names are too long")
        yield key, block[offset - length : offset]
    # From where one reads instead of from the start.
    if offset != end or not starts.issuperset(struct.unpack_from(f"<{restarts}I", block, end)):
        raise IndexError("a block has no order")


def read_varint(data: bytes, offset: int) -> Tuple[int, int]:
    """A number, and the offset behind it."""
    number, shift = 0, 0
    while True:
        byte = data[offset]
        number |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return number, offset
        if shift > 63:
            raise IndexError("a number is too long")
