"""Losses, gradients and variables that are not finite: noticed, left out, never saved."""

from typing import Callable, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from common.errors import UserError


class SkippingOptimizer(tf.train.Optimizer):
    """Leaves out a step whose loss or gradients are not finite; the global step stays then.

    It has no variables of its own, so that a training can go on with it or without it.
    """

    def __init__(self, optimizer: tf.train.Optimizer):
        super().__init__(False, f"Skipping{optimizer.get_name()}")
        self._optimizer = optimizer
        self._loss = None

    def compute_gradients(self, loss, *args, **kwargs):
        self._loss = loss
        return self._optimizer.compute_gradients(loss, *args, **kwargs)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        pairs = list(grads_and_vars)
        tensors = [self._loss, *(gradient for gradient, _ in pairs if gradient is not None)]
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(tensor)) for tensor in tensors])
        return tf.cond(
            finite,
            lambda: self._optimizer.apply_gradients(pairs, global_step, name),
            tf.no_op,
        )


def inf_for_nan(loss: tf.Tensor) -> tf.Tensor:
    """A loss that the Estimator's own check for nan lets pass."""
    return tf.where(
        tf.is_nan(loss), tf.constant(np.inf, loss.dtype), loss, name=f"{loss.op.name}_or_inf"
    )


class NonFiniteHook(tf.train.SessionRunHook):
    """Notices a step whose loss or gradients are not finite. To be before what saves.

    Args:
        loss: name of the total loss.
        learning_rate: name of the learning rate.
        skips: whether such steps are left out, or end training.
        was_applied: name of a bool, whether the step was done; None where every step is.
        only_loss: whether steps that are left out for their gradients alone do not count.
        max_in_row: how many steps in a row may be left out.
        last_checkpoint: tells the last good checkpoint's path, or None.
        advice: end of the error's message.

    Raises (from a session's run):
        UserError: with step, learning rate, parts of the loss and last good checkpoint.
    """

    def __init__(
        self,
        loss: str,
        learning_rate: str,
        skips: bool,
        was_applied: Optional[str],
        only_loss: bool,
        max_in_row: int,
        last_checkpoint: Callable[[], Optional[str]],
        advice: str,
    ):
        self._loss, self._learning_rate, self._was_applied = loss, learning_rate, was_applied
        self._only_loss = only_loss
        self._max_in_row = max_in_row if skips else 0
        self._last_checkpoint = last_checkpoint
        self._advice = advice
        self._in_row = 0

    def begin(self):
        parts = tf.losses.get_losses() + tf.losses.get_regularization_losses()
        total = self._loss.split(":")[0]
        self._parts = {
            tensor.op.name.split("/")[0]: tensor
            for tensor in parts
            if not tensor.op.name.startswith(total)
        }
        self._fetches = {"loss": self._loss, "learning_rate": self._learning_rate}
        if self._was_applied:
            self._fetches["was_applied"] = self._was_applied

    def before_run(self, run_context):
        return tf.train.SessionRunArgs((self._fetches, self._parts))

    def after_run(self, run_context, run_values):
        values, parts = run_values.results
        finite_loss, was_applied = np.isfinite(values["loss"]), values.get("was_applied", True)
        if finite_loss and (was_applied or self._only_loss):
            self._in_row = 0
            return
        self._in_row += 1
        # Not with the step's own fetches, which may be read before or after the step is counted.
        step = run_context.session.run(tf.train.get_global_step()) + (0 if was_applied else 1)
        numbers = {"loss": values["loss"], "learning rate": values["learning_rate"], **parts}
        found = (
            f"{'A gradient' if finite_loss else 'The loss'} is not finite in step {step}: "
            f"{', '.join(f'{name} {number:g}' for name, number in numbers.items())}."
        )
        if self._in_row <= self._max_in_row:
            tf.logging.warning("%s It is left out, %d in a row so far.", found, self._in_row)
            return
        in_row = f" {self._in_row} in a row are too many." if self._max_in_row else ""
        raise UserError(f"{found}{in_row} {_kept(self._last_checkpoint())} {self._advice}")


class FiniteCheckpoints(tf.train.CheckpointSaverListener):
    """Refuses to save variables that are not finite.

    Where gradients were not finite, but the loss was, a step goes by before that shows in the loss.

    Args:
        last_checkpoint: tells the last good checkpoint's path, or None.
        advice: end of the error's message.
    """

    def __init__(self, last_checkpoint: Callable[[], Optional[str]], advice: str):
        self._last_checkpoint = last_checkpoint
        self._advice = advice

    def begin(self):
        variables = tf.global_variables()
        self._variables = {v.op.name: v for v in variables if v.dtype.base_dtype.is_floating}

    def before_save(self, session, global_step_value):
        values = session.run(self._variables)
        bad = [name for name, value in values.items() if not np.isfinite(value).all()]
        if bad:
            raise UserError(
                f"After step {global_step_value} {len(bad)} variables are not finite, {bad[0]} for "
                f"one; they are not saved. {_kept(self._last_checkpoint())} {self._advice}"
            )


def _kept(checkpoint: Optional[str]) -> str:
    return f"The last good checkpoint is {checkpoint}." if checkpoint else "No checkpoint yet."
