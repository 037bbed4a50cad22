"""Losses, gradients and variables that are not finite: noticed, skipped, never saved."""

from typing import Callable, Optional

import numpy as np

from common.distribution import replication
from common.errors import UserError
from common.runtime import tf

# What to do, where steps that are not finite end training and where they are skipped.
_ADVICE = "Lower --lr, or skip such steps with --on_nan=skip."
_ADVICE_IF_SKIPPED = "Lower --lr, or start from an earlier checkpoint."


class SkippingOptimizer(tf.train.Optimizer):
    """Skips a step whose loss or gradients are not finite; the global step stays then.

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
    """Notices a step whose loss or gradients are not finite. Must come before what saves.

    Args:
        skips: whether steps that are not finite are skipped, or end training.
        step_after: name of the global step after the step, which a skipped step leaves where it
            was; None if no step is ever skipped.
        max_in_row: how many steps in a row may be skipped since they are not finite.
        overflows: what to do about steps that loss scaling skips; None without loss scaling.
        last_checkpoint: returns the last good checkpoint's path, or None.

    Raises (from a session's run):
        UserError: with step, learning rate, parts of the loss and last good checkpoint.
    """

    def __init__(
        self,
        skips: bool,
        step_after: Optional[str],
        max_in_row: int,
        overflows: Optional["Overflows"],
        last_checkpoint: Callable[[], Optional[str]],
    ):
        self._step_after = step_after
        self._max_in_row = max_in_row if skips else 0
        self._overflows = overflows
        self._last_checkpoint = last_checkpoint
        self._advice = _ADVICE_IF_SKIPPED if skips else _ADVICE
        self._in_row = 0

    def begin(self):
        parts = tf.losses.get_losses() + tf.losses.get_regularization_losses()
        loss = replication.shown_loss()
        self._parts = {
            _name(tensor): tensor
            for tensor in parts
            if tensor is not loss and not _name(tensor).split("/")[-1].startswith("total_loss")
        }
        self._fetches = {"loss": loss, "learning_rate": "learning_rate:0"}
        if self._step_after:
            self._fetches["step"] = self._step_after
        if self._overflows:
            self._overflows.begin()

    def after_create_session(self, session, coord):
        self._step = int(session.run(tf.train.get_global_step()))

    def before_run(self, run_context):
        return tf.train.SessionRunArgs((self._fetches, self._parts))

    def after_run(self, run_context, run_values):
        values, parts = run_values.results
        finite_loss = np.isfinite(values["loss"])
        applied = not self._step_after or values["step"] > self._step
        self._step = int(values.get("step", self._step))
        if finite_loss and self._overflows:
            self._in_row = 0
            self._overflows.count(applied, self._step, run_context.session, self._last_checkpoint)
        elif finite_loss and applied:
            self._in_row = 0
        else:
            self._handle(finite_loss, applied, values, parts, run_context.session)

    def _handle(self, finite_loss, applied, values, parts, session):
        """Logs a step that was skipped, or ends training."""
        self._in_row += 1
        step = self._step
        if not self._step_after:
            # Not with the step's own fetches, which may be read before or after it is counted.
            step = int(session.run(tf.train.get_global_step()))
        numbers = {"loss": values["loss"], "learning rate": values["learning_rate"], **parts}
        found = (
            f"{'A gradient' if finite_loss else 'The loss'} is not finite in step "
            f"{step + (not applied)}: "
            f"{', '.join(f'{name} {number:g}' for name, number in numbers.items())}."
        )
        if self._in_row <= self._max_in_row:
            tf.logging.warning("%s It is skipped, %d in a row so far.", found, self._in_row)
            return
        in_row = f" {self._in_row} in a row are too many." if self._max_in_row else ""
        raise UserError(f"{found}{in_row} {_kept(self._last_checkpoint())} {self._advice}")


class Overflows:
    """Counts the steps in a row that loss scaling skips, since their gradients overflowed.

    Some are how dynamic loss scaling finds its scale. If every step overflows, the global step
    stands still and training would never end.

    Args:
        max_in_row: how many steps in a row may be skipped.
        scale_variable: name of the loss scale's variable; None for a fixed scale.
        steps_per_run: steps of one session run.
    """

    def __init__(self, max_in_row: int, scale_variable: Optional[str], steps_per_run: int = 1):
        self._max_in_row = max_in_row
        self._scale_variable = scale_variable
        self._steps_per_run = steps_per_run
        self._in_row = 0

    def begin(self):
        variables = {v.op.name: v for v in tf.global_variables()}
        self._scale = variables.get(self._scale_variable)

    def count(self, applied: bool, step: int, session, last_checkpoint: Callable):
        """Counts one session run, `applied` if it moved the global step, which is now `step`."""
        if applied:
            self._in_row = 0
            return
        runs = self._in_row // self._steps_per_run + 1
        self._in_row = runs * self._steps_per_run
        ends = self._in_row > self._max_in_row
        if not ends and runs & (runs - 1):  # The 1st, 2nd, 4th, 8th, ... is logged.
            return
        scale = "the loss scale is fixed"
        if self._scale is not None:  # After the step, which may have halved it.
            scale = f"the loss scale is {session.run(self._scale):g} now"
        if not ends:
            tf.logging.warning(
                "The gradients of step %d overflowed: it is skipped, %d in a row so far; %s.",
                step + 1,
                self._in_row,
                scale,
            )
            return
        raise UserError(
            f"The gradients of step {step + 1} overflowed {self._in_row} times in a row, and "
            f"{scale}; more than --max_skipped_steps={self._max_in_row} end training. "
            f"{_kept(last_checkpoint())} Lower --lr, choose another --precision_mode or "
            "--loss_scale, or start from an earlier checkpoint."
        )


class FiniteCheckpoints(tf.train.CheckpointSaverListener):
    """Refuses to save variables that are not finite.

    Where gradients were not finite, but the loss was, a step goes by before that shows in the loss.

    Args:
        skips: whether steps that are not finite are skipped, or end training.
        last_checkpoint: tells the last good checkpoint's path, or None.
    """

    def __init__(self, skips: bool, last_checkpoint: Callable[[], Optional[str]]):
        self._last_checkpoint = last_checkpoint
        self._advice = _ADVICE_IF_SKIPPED if skips else _ADVICE

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


def _name(loss: tf.Tensor) -> str:
    """The scope of a part of the loss, after that of its replica if that is not the first."""
    scopes = loss.op.name.split("/")
    return "/".join(scopes[: 2 if scopes[0].startswith("replica_") else 1])


def _kept(checkpoint: Optional[str]) -> str:
    return f"The last good checkpoint is {checkpoint}." if checkpoint else "No checkpoint yet."
