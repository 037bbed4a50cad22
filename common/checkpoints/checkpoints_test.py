"""Damaged, half-written, missing and best checkpoints."""

import gc
import glob
import os
import threading
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import locks
from common.checkpoints import checkpoints
from common.errors import UserError

_STEPS = (10, 20, 30)


def _save(directory, steps=_STEPS):
    """Checkpoints of a variable that holds the step, as an Estimator saves them."""
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        weights = tf.get_variable("weights", [1000], initializer=tf.zeros_initializer())
        saver = tf.train.Saver(max_to_keep=5, save_relative_paths=True)
        session.run(tf.global_variables_initializer())
        for number in steps:
            session.run([step.assign(number), weights.assign(np.full(1000, number))])
            saver.save(session, os.path.join(directory, "model.ckpt"), global_step=number)
    return directory


@pytest.fixture(autouse=True)
def propagate_log(monkeypatch, caplog):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    with caplog.at_level("INFO", logger="tensorflow"):
        yield


@pytest.fixture
def model_dir(tmp_path):
    return _save(str(tmp_path / "model"))


def _path(model_dir, step):
    return os.path.join(model_dir, f"model.ckpt-{step}")


def _file(model_dir, step, kind):
    (path,) = glob.glob(_path(model_dir, step) + f".{kind}*")
    return path


def _truncate(path, part=0.5):
    with open(path, "r+b") as f:
        f.truncate(int(part * os.path.getsize(path)))


def _change_a_byte(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 0xFF]))


_DAMAGE = {
    "data cut off": lambda d: _truncate(_file(d, 30, "data")),
    "data empty": lambda d: _truncate(_file(d, 30, "data"), 0),
    "a byte of the data changed": lambda d: _change_a_byte(_file(d, 30, "data")),
    "index cut off": lambda d: _truncate(_file(d, 30, "index")),
    "index empty": lambda d: _truncate(_file(d, 30, "index"), 0),
    "data missing": lambda d: os.remove(_file(d, 30, "data")),
    "index missing": lambda d: os.remove(_file(d, 30, "index")),
}


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE.keys())
def test_newest_whole_checkpoint_takes_the_place_of_a_damaged_one(model_dir, damage, caplog):
    assert checkpoints.latest(model_dir) == _path(model_dir, 30)
    damage(model_dir)
    checkpoints.forget()
    assert checkpoints.latest(model_dir) == _path(model_dir, 20)
    assert f"Taking the newest whole checkpoint, {_path(model_dir, 20)}." in caplog.text
    checkpoints.repair(model_dir, keep=5)
    assert tf.train.latest_checkpoint(model_dir) == _path(model_dir, 20)  # TensorFlow's own.
    assert checkpoints.global_step(tf.train.latest_checkpoint(model_dir)) == 20


@pytest.mark.parametrize("part", [0.0, 0.1, 0.4, 0.8, None])
def test_state_file_cut_off_or_missing(model_dir, part):
    state = os.path.join(model_dir, "checkpoint")
    if part is None:
        os.remove(state)
    else:
        _truncate(state, part)
    assert checkpoints.latest(model_dir) == _path(model_dir, 30)
    checkpoints.repair(model_dir, keep=5)
    assert tf.train.latest_checkpoint(model_dir) == _path(model_dir, 30)


def test_state_file_that_names_an_older_checkpoint_is_obeyed(model_dir):
    tf.train.update_checkpoint_state(model_dir, _path(model_dir, 10))
    checkpoints.repair(model_dir, keep=5)
    assert checkpoints.latest(model_dir) == _path(model_dir, 10)


def test_nothing_whole(model_dir, tmp_path):
    for step in _STEPS:
        _truncate(_file(model_dir, step, "data"))
    with pytest.raises(UserError, match=r"model\.ckpt-30: It is damaged: .* No other checkpoint"):
        checkpoints.latest(model_dir)
    os.remove(os.path.join(model_dir, "checkpoint"))  # As if the first one was never finished.
    assert checkpoints.latest(model_dir) is None
    assert checkpoints.latest(str(tmp_path / "absent")) is None


def test_repair_removes_what_was_never_finished_and_the_saver_deletes_the_damaged(model_dir):
    half = os.path.join(model_dir, f"model.ckpt-40_temp_{'0' * 32}")
    os.mkdir(half)
    for path in (
        os.path.join(half, "part-00000-of-00001.data-00000-of-00001"),
        os.path.join(model_dir, f"checkpoint.tmp{'1' * 32}"),
        os.path.join(model_dir, "results.json.tmp123"),
    ):
        open(path, "w").close()
    _truncate(_file(model_dir, 30, "data"))
    checkpoints.repair(model_dir, keep=5)
    assert not os.path.exists(half) and not glob.glob(os.path.join(model_dir, "*tmp*"))
    state = tf.train.get_checkpoint_state(model_dir)
    listed = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
    assert listed == ["model.ckpt-10", "model.ckpt-30", "model.ckpt-20"]
    checkpoints.repair(model_dir, keep=2)
    assert not glob.glob(_path(model_dir, 10) + "*")
    assert checkpoints.latest(model_dir) == _path(model_dir, 20)


def _best(model_dir):
    """The checkpoint in best/, as TensorFlow finds it."""
    return tf.train.latest_checkpoint(os.path.join(model_dir, checkpoints.BEST))


def test_best_is_replaced_as_a_whole(model_dir, monkeypatch):
    best = os.path.join(model_dir, checkpoints.BEST)
    assert _best(model_dir) is None
    checkpoints.keep_best(model_dir, _path(model_dir, 10))
    assert _best(model_dir) == _path(best, 10)
    for function, call in [("copy", 0), ("copy", 1), ("rename", 0), ("rename", 1), ("rename", 2)]:
        _fail_at(monkeypatch, function, call)
        with pytest.raises(OSError, match="injected"):
            checkpoints.keep_best(model_dir, _path(model_dir, 20))
        monkeypatch.undo()
        assert _best(model_dir) == _path(best, 10)
        assert checkpoints.problem(_best(model_dir)) is None
    _fail_at(monkeypatch, "remove", 0)
    with pytest.raises(OSError, match="injected"):
        checkpoints.keep_best(model_dir, _path(model_dir, 20))
    monkeypatch.undo()
    assert _best(model_dir) == _path(best, 20)
    checkpoints.keep_best(model_dir, _path(model_dir, 30))
    assert sorted(os.listdir(best)) == [
        *["checkpoint", "model.ckpt-30.data-00000-of-00001", "model.ckpt-30.index"]
    ]
    assert checkpoints.problem(_best(model_dir)) is None


@pytest.mark.parametrize("kinds", [("index", "data"), ("index",)])
def test_best_stays_where_its_successor_was_just_deleted(model_dir, kinds):
    checkpoints.keep_best(model_dir, _path(model_dir, 10))
    for kind in kinds:
        os.remove(_file(model_dir, 20, kind))
    with pytest.raises(UserError, match=r"model\.ckpt-20 cannot be kept in .*: A file of it"):
        checkpoints.keep_best(model_dir, _path(model_dir, 20))
    best = _best(model_dir)
    assert best == _path(os.path.join(model_dir, checkpoints.BEST), 10)
    assert checkpoints.problem(best) is None


def test_what_an_evaluator_is_writing_is_no_leftover(model_dir):
    checkpoints.keep_best(model_dir, _path(model_dir, 10))
    best = os.path.join(model_dir, checkpoints.BEST)
    half = os.path.join(best, ".tmp-1-model.ckpt-20.index")
    trainer = threading.Thread(target=checkpoints.repair, args=(model_dir, 5))
    with locks.exclusive(best):  # As the evaluator has it while it copies.
        open(half, "w").close()
        trainer.start()
        trainer.join(0.5)
        assert os.path.exists(half)
    trainer.join()
    assert not os.path.exists(half)


def _fail_at(monkeypatch, function, call):
    original, calls = getattr(tf.io.gfile, function), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > call:
            raise OSError("injected")
        return original(*args, **kwargs)

    monkeypatch.setattr(tf.io.gfile, function, failing)


def test_waiting_says_for_what_and_for_how_long(tmp_path, caplog, monkeypatch):
    """With a clock that moves only while the program sleeps; a checkpoint comes after 90 s."""
    directory, now = str(tmp_path), [1000.0]

    def sleep(seconds):
        if now[0] < 1090.0 <= now[0] + seconds:
            _save(directory, [7])
        now[0] += seconds

    clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(checkpoints, "time", clock)
    assert list(checkpoints.wait_for_new(directory, timeout=100)) == [_path(directory, 7)]
    assert now[0] == 1190.0
    said = [record.getMessage() for record in caplog.records if "Wait" in record.getMessage()]
    first = f"Waiting for a first checkpoint in {directory}, for up to 0:0"
    second = f"Waiting for a checkpoint newer than model.ckpt-7 in {directory}, for up to 0:0"
    assert said == [
        *[f"{first}1:40 more.", f"{first}0:40 more."],
        *[f"{second}1:40 more.", f"{second}0:40 more."],
    ]
    assert "No new checkpoint for 100 s: evaluation ends." in caplog.text


def test_shapes_of_variables_are_tensorflows_and_are_freed(model_dir):
    reader = checkpoints.open_checkpoint(_path(model_dir, 30))
    shapes = checkpoints.variable_shapes(reader)
    assert shapes == {"global_step": [], "weights": [1000]}
    assert shapes == reader.get_variable_to_shape_map()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        checkpoints.variable_shapes(reader)
    gc.collect()
    assert len(gc.get_objects()) < before + 100  # With TensorFlow's there are 400 more.
