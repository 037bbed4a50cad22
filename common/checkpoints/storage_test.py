"""The lock of a model directory, and storage's troubles as sentences."""

import errno
import glob
import os
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, checkpoint_file, checkpoint_path, truncate

from common import files
from common.checkpoints import selection, storage
from common.errors import UserError
from common.runtime import tf

_HOLDER = """
import sys, time
from common.checkpoints import storage
with storage.locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    directory = str(tmp_path / "model")
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, directory], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        sentence = f"another training writes to {directory}: process {holder.pid} on .*, since 20"
        with pytest.raises(UserError, match=sentence):
            with storage.locked(directory):
                pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with storage.locked(directory):  # A dead process's lock does not count.
        with pytest.raises(UserError, match=f"process {os.getpid()} on "):
            with storage.locked(directory):
                pass
    with storage.locked(directory):
        pass


def _write_to(path):
    with tf.io.gfile.GFile(path, "w") as f:
        f.write("x" * 100000)


def test_disk_full_read_only_and_other_troubles(tmp_path):
    directory = str(tmp_path)
    os.symlink("/dev/full", str(tmp_path / "full"))  # Says what a full disk says.
    with pytest.raises(tf.errors.ResourceExhaustedError) as error:
        _write_to(str(tmp_path / "full"))
    assert storage.explain(error.value, directory) == (
        f"Writing failed: No space left on device ({directory}). There is no checkpoint yet. "
        "Free some space and start again."
    )
    for number_and_advice in [(30, "Make it writable"), (122, "have the quota raised")]:
        number, advice = number_and_advice
        assert advice in storage.explain(OSError(number, os.strerror(number)), directory)
    with pytest.raises(tf.errors.OpError) as error:
        _write_to(str(tmp_path / "absent" / "file"))
    assert storage.explain(error.value, directory) is None  # Of another kind: shown as it is.
    gone = str(tmp_path / "gone")
    assert "has vanished" in storage.explain(error.value, gone)


def test_troubles_elsewhere_are_not_the_model_directorys(tmp_path):
    directory = str(tmp_path)
    with pytest.raises(tf.errors.ResourceExhaustedError) as error:
        _write_to("/dev/full")
    for place in (directory, None):
        assert storage.explain(error.value, place).startswith("/dev/full: No space left on device.")
    unreadable = PermissionError(errno.EACCES, "Permission denied", "/data/train-00000-of-00002")
    assert storage.explain(unreadable, directory).startswith(f"{unreadable.filename}: Permission")
    assert storage.explain(ValueError("A mistake of ours"), None) is None
    beside = PermissionError(errno.EACCES, "Permission denied", f"{directory}_data/train")
    assert storage.explain(beside, directory).startswith(f"{directory}_data/train: Permission")


def test_only_the_writer_removes_what_an_error_left_half_written(tmp_path):
    half = tmp_path / f"model.ckpt-40_temp_{'0' * 32}"
    half.mkdir()
    with pytest.raises(OSError, match="full"):
        with storage.locked(str(tmp_path)):
            storage.explain(OSError(errno.ENOSPC, "full"), str(tmp_path))  # As in an evaluator.
            assert half.exists()
            raise OSError(errno.ENOSPC, "full")
    assert not half.exists()


def test_repair_removes_what_was_never_finished_and_the_saver_deletes_the_damaged(model_dir):
    half = os.path.join(model_dir, f"model.ckpt-40_temp_{'0' * 32}")
    os.mkdir(half)
    for path in (
        os.path.join(half, "part-00000-of-00001.data-00000-of-00001"),
        os.path.join(model_dir, f"checkpoint.tmp{'1' * 32}"),
        files.temporary_path(os.path.join(model_dir, "results.json")),
    ):
        open(path, "w").close()
    truncate(checkpoint_file(model_dir, 30, "data"))
    storage.repair(model_dir, keep=5)
    assert not os.path.exists(half)
    assert not [name for name in os.listdir(model_dir) if "tmp" in name]
    state = tf.train.get_checkpoint_state(model_dir)
    listed = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
    assert listed == ["model.ckpt-10", "model.ckpt-30", "model.ckpt-20"]
    storage.repair(model_dir, keep=2)
    assert not glob.glob(checkpoint_path(model_dir, 10) + "*")
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 20)


def test_repair_deletes_nothing_in_the_directory_that_was_copied(model_dir, tmp_path):
    """Other programs' lists of checkpoints have absolute paths."""
    paths = [checkpoint_path(model_dir, step) for step in (10, 20, 30)]
    copy = str(tmp_path / "copy")
    shutil.copytree(model_dir, copy)
    tf.train.update_checkpoint_state(copy, paths[-1], paths)
    storage.repair(copy, keep=1)
    assert all(os.path.exists(f"{path}.index") for path in paths)
