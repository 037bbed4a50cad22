"""Which checkpoint of a directory is taken: damaged, missing and newer ones."""

import os
import types

import pytest
from helpers import checkpoint_file, checkpoint_path, save_checkpoints, truncate

from common.checkpoints import reading, selection, storage
from common.errors import UserError
from common.runtime import tf


def _change_a_byte(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 0xFF]))


_DAMAGE = {
    "data cut off": lambda d: truncate(checkpoint_file(d, 30, "data")),
    "data empty": lambda d: truncate(checkpoint_file(d, 30, "data"), 0),
    "a byte of the data changed": lambda d: _change_a_byte(checkpoint_file(d, 30, "data")),
    "index cut off": lambda d: truncate(checkpoint_file(d, 30, "index")),
    "index empty": lambda d: truncate(checkpoint_file(d, 30, "index"), 0),
    "data missing": lambda d: os.remove(checkpoint_file(d, 30, "data")),
    "index missing": lambda d: os.remove(checkpoint_file(d, 30, "index")),
}


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE.keys())
def test_newest_whole_checkpoint_takes_the_place_of_a_damaged_one(model_dir, damage, log):
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 30)
    damage(model_dir)
    reading.forget()
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 20)
    assert f"Taking the newest whole checkpoint, {checkpoint_path(model_dir, 20)}." in log.text
    storage.repair(model_dir, keep=5)
    assert tf.train.latest_checkpoint(model_dir) == checkpoint_path(model_dir, 20)
    assert reading.global_step(tf.train.latest_checkpoint(model_dir)) == 20


@pytest.mark.parametrize("part", [0.0, 0.1, 0.4, 0.8, None])
def test_state_file_cut_off_or_missing(model_dir, part):
    state = os.path.join(model_dir, "checkpoint")
    if part is None:
        os.remove(state)
    else:
        truncate(state, part)
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 30)
    storage.repair(model_dir, keep=5)
    assert tf.train.latest_checkpoint(model_dir) == checkpoint_path(model_dir, 30)


def test_state_file_that_names_an_older_checkpoint_is_obeyed(model_dir):
    tf.train.update_checkpoint_state(model_dir, checkpoint_path(model_dir, 10))
    storage.repair(model_dir, keep=5)
    assert selection.latest(model_dir) == checkpoint_path(model_dir, 10)


def test_nothing_whole(model_dir, tmp_path):
    for step in (10, 20, 30):
        truncate(checkpoint_file(model_dir, step, "data"))
    with pytest.raises(UserError, match=r"model\.ckpt-30: It is damaged: .* No other checkpoint"):
        selection.latest(model_dir)
    os.remove(os.path.join(model_dir, "checkpoint"))  # As if the first one was never finished.
    assert selection.latest(model_dir) is None
    assert selection.latest(str(tmp_path / "absent")) is None


def test_waiting_says_for_what_and_for_how_long(tmp_path, log, monkeypatch):
    """With a clock that moves only while the program sleeps; a checkpoint comes after 90 s."""
    directory, now = str(tmp_path), [1000.0]

    def sleep(seconds):
        if now[0] < 1090.0 <= now[0] + seconds:
            save_checkpoints(directory, [7])
        now[0] += seconds

    clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(selection, "time", clock)
    assert list(selection.wait_for_new(directory, timeout=100)) == [checkpoint_path(directory, 7)]
    assert now[0] == 1190.0
    said = [record.getMessage() for record in log.records if "Wait" in record.getMessage()]
    first = f"Waiting for a first checkpoint in {directory}, for up to 0:0"
    second = f"Waiting for a checkpoint newer than model.ckpt-7 in {directory}, for up to 0:0"
    assert said == [
        *[f"{first}1:40 more.", f"{first}0:40 more."],
        *[f"{second}1:40 more.", f"{second}0:40 more."],
    ]
    assert "No new checkpoint for 100 s: evaluation ends." in log.text


@pytest.mark.parametrize("flag", ["", "--init_checkpoint"])
def test_path_names_a_checkpoint_or_a_directory(flag, model_dir, tmp_path):
    for path in (model_dir, checkpoint_path(model_dir, 30)):
        assert selection.resolve(path, flag) == checkpoint_path(model_dir, 30)
    for path, problem in [
        (str(tmp_path), f"There is no checkpoint in {tmp_path}: train first, or name another"),
        (f"{tmp_path}/absent", f"Cannot read a checkpoint at {tmp_path}/absent: "),
    ]:
        with pytest.raises(UserError) as error:
            selection.resolve(path, flag)
        assert str(error.value).startswith(f"{flag}={path}: {problem}" if flag else problem)
