"""What is read from one checkpoint."""

import errno
import gc
import re

import pytest
from helpers import checkpoint_file, checkpoint_path, truncate
from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto

from common import files, limits
from common.checkpoints import reading, selection
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.runtime import tf
from scripts.faults.fuzzing import checkpoints


def _entry(dims=(1000,), **fields):
    """An entry of an index: that of `weights`, but for some fields."""
    shape = tf.TensorShape(dims).as_proto() if min(dims) >= 0 else None
    entry = BundleEntryProto(**{"dtype": 1, "offset": 8, "size": 4000, **fields}, shape=shape)
    if shape is None:
        entry.shape.dim.add().size = dims[0]
    return entry.SerializeToString()


def test_shapes_of_variables_are_tensorflows_and_are_freed(model_dir):
    reader = reading.open_checkpoint(checkpoint_path(model_dir, 30))
    shapes = reading.variable_shapes(reader)
    assert shapes == {"global_step": [], "weights": [1000]}
    assert shapes == reader.get_variable_to_shape_map()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        reading.variable_shapes(reader)
    gc.collect()
    assert len(gc.get_objects()) < before + 100  # With TensorFlow's there are 400 more.


@pytest.mark.parametrize(
    "cut, dtype, message",
    [
        (False, tf.float64, "does not fit the network: "),
        (True, tf.float32, "is damaged or not all there: "),
    ],
)
def test_restoring_says_whether_the_file_or_the_network_is_wrong(model_dir, cut, dtype, message):
    path = checkpoint_path(model_dir, 30)
    if cut:
        truncate(checkpoint_file(model_dir, 30, "data"))
    with tf.Graph().as_default(), CpuSession() as session:
        weights = tf.get_variable("weights", [1000], dtype)
        with pytest.raises(UserError) as error:
            reading.CheckedSaver({"weights": weights}).restore(session, path)
    assert str(error.value).startswith(f"The checkpoint {path} {message}")


_PART = {"extent": [{"start": 0, "length": 9}]}
# What TensorFlow ends the process for, or reserves memory for.
BAD_ENTRIES = {
    "no protocol buffer": (b"\xff", "Error parsing message|DecodeError"),
    "negative size": (_entry(dims=[-1]), r"weights has shape \[-1\]"),
    "huge size": (_entry(dims=[1 << 40, 1 << 10]), "weights has 4503599627370496 bytes at 8 of"),
    "other size": (_entry(size=1 << 50), "weights has 1125899906842624 bytes at 8 of"),
    "other place": (_entry(offset=1 << 50), "weights has 4000 bytes at 1125899906842624 of"),
    "other file": (_entry(shard_id=7), "weights has its data in file 7 of 1"),
    "unknown type": (_entry(dtype=77), "weights has type 77"),
    "too many dimensions": (_entry(dims=[1] * 255), "weights has 255 dimensions"),
    "overflow before a 0": (_entry(dims=[1 << 62, 2, 0]), r"weights has shape \[46116"),
    "a part twice": (_entry(slices=[_PART] * 2), "it has variables in parts"),
}


@pytest.mark.parametrize("kind", BAD_ENTRIES)
def test_index_that_tensorflow_does_not_survive(model_dir, kind):
    """Another checkpoint is taken."""
    value, message = BAD_ENTRIES[kind]
    path = checkpoint_file(model_dir, 30, "index")
    with open(path, "rb") as file:
        entries = checkpoints.entries_of(file.read())
    assert [key for key, _ in entries] == [b"", b"global_step", b"weights"]
    files.write_bytes(path, checkpoints.table(entries))
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 30)
    files.write_bytes(path, checkpoints.table([*entries[:2], (b"weights", value)]))
    assert re.search(message, reading.problem(checkpoint_path(model_dir, 30)))
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 20)
    with pytest.raises(UserError, match=message):
        reading.open_checkpoint(checkpoint_path(model_dir, 30))


def test_a_global_step_is_an_integer(tmp_path):
    with tf.Graph().as_default(), CpuSession() as session:
        step = tf.Variable([1j], name="global_step")
        session.run(step.initializer)
        path = tf.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    with pytest.raises(UserError, match="its global_step is no integer"):
        reading.global_step(path)


def test_index_with_a_name_that_is_no_text(model_dir):
    path = checkpoint_file(model_dir, 30, "index")
    with open(path, "rb") as file:
        *entries, (_, weights) = checkpoints.entries_of(file.read())
    files.write_bytes(path, checkpoints.table([*entries, (b"\xff", weights)]))
    with pytest.raises(UserError, match="can't decode byte 0xff"):
        reading.open_checkpoint(checkpoint_path(model_dir, 30))


def test_small_index_that_becomes_large_in_memory(model_dir, monkeypatch):
    path = checkpoint_file(model_dir, 30, "index")
    with open(path, "rb") as file:
        entries = checkpoints.entries_of(file.read())
    monkeypatch.setattr(limits, "CHECKPOINT_INDEX_BYTES", 1 << 20)
    growing = [(b"x" * i, entries[-1][1]) for i in range(1, 3000)]
    for table, message in (
        (checkpoints.table(entries, times=2), "its blocks overlap"),
        (checkpoints.table([entries[0], *growing]), "its names are too long"),
    ):
        files.write_bytes(path, table)
        with pytest.raises(UserError, match=message):
            reading.open_checkpoint(checkpoint_path(model_dir, 30))


def test_an_index_that_cannot_be_read_counts_as_damaged(model_dir, monkeypatch):
    read_bytes = limits.read_bytes

    def failing(path, *arguments, **options):
        if path == checkpoint_file(model_dir, 30, "index"):
            raise OSError(errno.EIO, "Input/output error", path)
        return read_bytes(path, *arguments, **options)

    monkeypatch.setattr(limits, "read_bytes", failing)
    assert "Input/output error" in reading.problem(checkpoint_path(model_dir, 30))
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 20)
