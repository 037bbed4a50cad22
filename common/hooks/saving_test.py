"""What the saver hook writes, when, and whom it tells."""

import os

import pytest

from common.hooks.saving import LeanCheckpointSaverHook
from common.runtime import tf


class _Listener(tf.train.CheckpointSaverListener):
    def __init__(self):
        self.steps = []

    def before_save(self, session, global_step_value):
        self.steps.append(int(global_step_value))


def _train(hook, steps):
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        increment = step.assign_add(1)
        with tf.train.MonitoredSession(hooks=[hook]) as session:
            for _ in range(steps):
                session.run(increment)


def test_nothing_before_the_first_step_and_no_text_copy_of_the_graph(tmp_path):
    listener = _Listener()
    hook = LeanCheckpointSaverHook(str(tmp_path), save_steps=2)
    hook.add_listeners([listener])
    _train(hook, steps=3)
    assert listener.steps == [2, 3]
    checkpoints = [name for name in os.listdir(str(tmp_path)) if name.endswith(".index")]
    assert sorted(checkpoints) == ["model.ckpt-2.index", "model.ckpt-3.index"]
    assert not os.path.exists(str(tmp_path / "graph.pbtxt"))


def test_a_file_that_is_too_large_is_not_the_end_of_the_input(tmp_path, monkeypatch):
    def save(*args, **kwargs):
        raise tf.errors.OutOfRangeError(None, None, "File too large")

    monkeypatch.setattr(tf.train.Saver, "save", save)
    with pytest.raises(tf.errors.UnknownError, match="File too large"):
        _train(LeanCheckpointSaverHook(str(tmp_path), save_steps=1), steps=1)
