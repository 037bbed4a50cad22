"""Shows the progress of a training: a bar on a terminal, otherwise lines of the log."""

import contextlib
import datetime
import logging
import time

import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.distribution import replication
from common.runtime import tf


class ProgressHook(tf.train.SessionRunHook):
    """Shows the step, the loss, images per second, the learning rate and the time left.

    Time counts from the end of a session's first step, which includes compilation, and steps from
    where the session went on.

    Args:
        last_step: global step at which training ends.
        batch_size: images per step, on all devices together.
        bar: whether to draw a bar on standard error instead of writing to the log.
        every_n_steps: steps between lines; one more is in the end.
    """

    def __init__(self, last_step: int, batch_size: int, bar: bool, every_n_steps: int = 100):
        self._last_step = last_step
        self._batch_size = batch_size
        self._wants_bar = bar
        self._every_n_steps = every_n_steps
        self._open = contextlib.ExitStack()

    def begin(self):
        loss = replication.shown_loss()
        self._fetches = tf.train.get_global_step(), loss, "learning_rate:0"
        self._first = self._said = self._last = self._bar = None

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context, run_values):
        (step, loss, learning_rate), now = run_values.results, time.monotonic()
        if self._first is None:
            self._first = self._said = step, now
            if self._wants_bar:
                self._open_bar(step)
            return
        if self._bar is not None:
            speed = self._speed(self._first, step, now)
            self._bar.set_postfix_str(_figures(loss, speed, learning_rate), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        self._last = step, now, loss, learning_rate
        if step - self._said[0] >= self._every_n_steps:
            self._say()

    def end(self, session):
        if self._last and self._last[0] > self._said[0]:
            self._say()
        self.close()

    def _say(self):
        step, now, loss, learning_rate = self._last
        figures = _figures(loss, self._speed(self._said, step, now), learning_rate)
        left = self._time_left(step, now)
        tf.logging.info("Step %d of %d: %s, %s left", step, self._last_step, figures, left)
        self._said = step, now

    def close(self):
        """Ends the bar's line. Must be called after an error, as `end` is not called then."""
        self._open.close()

    def _open_bar(self, step: int):
        # The lines of the log appear above the bar.
        self._open.enter_context(logging_redirect_tqdm([logging.getLogger("tensorflow")]))
        self._bar = self._open.enter_context(
            tqdm.tqdm(total=self._last_step, initial=step, unit="step", dynamic_ncols=True)
        )

    def _speed(self, since: tuple, step: int, now: float) -> float:
        """Returns the images per second since a step and its time."""
        return (step - since[0]) * self._batch_size / max(now - since[1], 1e-9)

    def _time_left(self, step: int, now: float) -> str:
        if step <= self._first[0]:
            return "unknown time"
        seconds = (now - self._first[1]) / (step - self._first[0]) * (self._last_step - step)
        return str(datetime.timedelta(seconds=round(seconds)))


def _figures(loss: float, speed: float, learning_rate: float) -> str:
    return f"loss {loss:.4g}, {speed:.1f} images/s, learning rate {learning_rate:.3g}"
