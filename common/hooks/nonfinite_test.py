"""Losses, gradients and variables that are not finite."""

import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common.checkpoints import checkpoints
from common.errors import UserError
from common.hooks import nonfinite


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
            before = step + 1
            with tf.control_dependencies([before]):
                train = optimizer.minimize(loss, step)
            with tf.control_dependencies([train]):
                self.train = tf.equal(step.read_value(), before, name="was_applied")
        else:
            self.train = optimizer.minimize(loss, step)

        def last():
            return checkpoints.latest(directory)

        self.hooks = [
            nonfinite.NonFiniteHook(
                "total_loss:0",
                "learning_rate:0",
                skips=skips,
                was_applied="was_applied:0" if skips else None,
                only_loss=False,
                last_checkpoint=last,
                advice="Lower it.",
                **{"max_in_row": 2, **options},
            ),
            tf.train.CheckpointSaverHook(
                directory, save_steps=2, listeners=[nonfinite.FiniteCheckpoints(last, "Lower it.")]
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
    newest = checkpoints.latest(str(tmp_path))
    assert f"The last good checkpoint is {newest}. Lower it." in message
    assert np.isfinite(checkpoints.open_checkpoint(newest).get_tensor("weights")).all()


def test_what_is_not_finite_is_not_saved(graph, tmp_path):
    """A finite loss whose gradient's square is not finite, in the step before a checkpoint."""
    training = _Training(str(tmp_path), skips=False)
    with pytest.raises(
        UserError, match=r"variables are not finite, weights/RMSProp for one; they are not"
    ):
        training.run([1.0, 1.0, 1.0, 1e30])
    newest = checkpoints.latest(str(tmp_path))
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
