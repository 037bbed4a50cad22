"""Losses, gradients and variables that are not finite."""

import os
import re

import numpy as np
import pytest

from common.checkpoints import reading, selection
from common.errors import UserError
from common.hooks import nonfinite
from common.runtime import tf


class _Training:
    """Minimises w * x with rmsprop; `run` takes each step's x."""

    def __init__(self, directory, skips, **options):
        self.directory = directory
        self.x = tf.placeholder(tf.float32, [])
        self.weights = tf.get_variable("weights", [3], initializer=tf.ones_initializer())
        with tf.name_scope("softmax_loss"):
            part = tf.reduce_sum(self.weights * self.x)
        tf.losses.add_loss(part)
        loss = tf.identity(part, name="total_loss")
        tf.constant(0.5, name="learning_rate")
        step = tf.train.get_or_create_global_step()
        optimizer = tf.train.RMSPropOptimizer(0.5)
        if skips:
            optimizer = nonfinite.SkippingOptimizer(optimizer)
            train = optimizer.minimize(loss, step)
            with tf.control_dependencies([train]):
                self.train = tf.identity(step.read_value(), name="step_after")
        else:
            self.train = optimizer.minimize(loss, step)

        def last():
            return selection.latest(directory)

        self.hooks = [
            nonfinite.NonFiniteHook(
                skips=skips,
                step_after="step_after:0" if skips else None,
                last_checkpoint=last,
                **{"max_in_row": 2, "overflows": None, **options},
            ),
            tf.train.CheckpointSaverHook(
                directory, save_steps=2, listeners=[nonfinite.FiniteCheckpoints(skips, last)]
            ),
        ]

    def run(self, inputs):
        """All variables after each step."""
        found, variables = [], tf.global_variables()
        with tf.train.MonitoredTrainingSession(
            checkpoint_dir=self.directory, save_checkpoint_secs=None, hooks=self.hooks
        ) as session:
            for x in inputs:
                session.run(self.train, {self.x: x})
                found.append(
                    session.run_step_fn(lambda step_context: step_context.session.run(variables))
                )
        return found


@pytest.fixture
def graph():
    with tf.Graph().as_default(), tf.variable_scope("", use_resource=True):
        yield


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stop_names_step_rate_parts_and_checkpoint(graph, tmp_path, bad):
    training = _Training(str(tmp_path), skips=False)
    with pytest.raises(UserError) as error:
        training.run([1.0, 1.0, 1.0, bad])
    message = str(error.value)
    number = "nan" if np.isnan(bad) else "-?inf"
    parts = f"loss {number}, learning rate 0.5, softmax_loss {number}\\."
    assert re.match(f"The loss is not finite in step 4: {parts} ", message), message
    newest = selection.latest(str(tmp_path))
    assert f"The last good checkpoint is {newest}. Lower --lr, or skip" in message
    assert np.isfinite(reading.open_checkpoint(newest).get_tensor("weights")).all()


def test_what_is_not_finite_is_not_saved(graph, tmp_path):
    """A finite loss whose gradient's square is not finite, in the step before a checkpoint."""
    training = _Training(str(tmp_path), skips=False)
    with pytest.raises(
        UserError, match=r"variables are not finite, weights/RMSProp for one; they are not"
    ):
        training.run([1.0, 1.0, 1.0, 1e30])
    newest = selection.latest(str(tmp_path))
    assert os.path.basename(newest) == "model.ckpt-2"


def test_skip_moves_nothing_and_ends_after_too_many_in_a_row(graph, tmp_path):
    training = _Training(str(tmp_path), skips=True)
    found = training.run([1.0, np.nan, np.inf, 1.0, np.nan, 1.0])
    same = [
        all(np.array_equal(a, b) for a, b in zip(before, after))
        for before, after in zip(found, found[1:])
    ]
    assert same == [True, True, False, True, False]
    with pytest.raises(UserError, match=r"3 in a row are too many\. The last good checkpoint"):
        training.run([1.0, np.nan, np.nan, np.nan])


def test_overflows_are_logged_rarely_and_end_training_after_too_many(monkeypatch):
    """With the loss scale, which falls while the global step stands still."""
    with tf.Graph().as_default(), tf.Session() as session:
        scale = tf.get_variable("loss_scale", initializer=2.0**32)
        session.run(scale.initializer)
        overflows = nonfinite.Overflows(100, "loss_scale")
        overflows.begin()
        logged = []
        monkeypatch.setattr(tf.logging, "warning", lambda text, *args: logged.append(text % args))
        with pytest.raises(UserError) as error:
            for _ in range(101):
                overflows.count(False, 7, session, lambda: "model.ckpt-7")
                scale.load(session.run(scale) / 2, session)
    assert [re.search(r"(\d+) in a row", text).group(1) for text in logged] == [
        *("1", "2", "4", "8", "16", "32", "64")
    ]
    assert logged[0].startswith("The gradients of step 8 overflowed: it is skipped, 1 in a row")
    assert logged[0].endswith("the loss scale is 4.29497e+09 now.")
    message = str(error.value)
    assert "step 8 overflowed 101 times in a row" in message
    assert "--max_skipped_steps=100" in message and "checkpoint is model.ckpt-7" in message


def test_a_step_that_is_applied_ends_a_row_of_overflows():
    overflows = nonfinite.Overflows(5, None, steps_per_run=2)
    with tf.Graph().as_default():
        overflows.begin()
    for _ in range(10):
        overflows.count(False, 0, None, lambda: None)
        overflows.count(False, 0, None, lambda: None)
        overflows.count(True, 2, None, lambda: None)
    with pytest.raises(UserError, match=r"6 times in a row, and the loss scale is fixed;"):
        for _ in range(3):
            overflows.count(False, 2, None, lambda: None)
