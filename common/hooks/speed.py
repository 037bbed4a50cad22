"""Session hooks that measure speed: seconds per step, images per second."""

import time
from typing import Dict, Optional, Sequence

import numpy as np

from common.hooks import summaries
from common.runtime import tf


class ThroughputHook(tf.train.SessionRunHook):
    """Measures the seconds per step, and writes images per second for TensorBoard.

    The first run of a session does not count: it includes graph optimisation and compilation.

    Args:
        batch_size: images per step, on all devices together.
        summary_dir: where to write the scalar `images_per_second`; None for nowhere.
        every_n_steps: number of steps over which a written point is averaged; in the end fewer.
    """

    def __init__(
        self, batch_size: int, summary_dir: Optional[str] = None, every_n_steps: int = 100
    ):
        self._batch_size = batch_size
        self._summary_dir = summary_dir
        self._every_n_steps = every_n_steps
        self._seconds_per_step = []

    def begin(self):
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session, coord):
        self._previous = self._written = None
        self._is_first_run = True

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._global_step)

    def after_run(self, run_context, run_values):
        step, now = int(run_values.results), time.perf_counter()
        if self._is_first_run:
            self._is_first_run = False
            return
        if self._previous is None:
            self._previous = (step, now)
        # A run may fetch the step before it is incremented; its time then counts for the next one.
        steps = step - self._previous[0]
        if steps > 0:
            self._seconds_per_step.extend([(now - self._previous[1]) / steps] * steps)
            self._previous = (step, now)
        if self._written is None:
            self._written = (step, now)
        elif step - self._written[0] >= self._every_n_steps:
            self._write()

    def end(self, session):
        if self._written and self._previous[0] > self._written[0]:
            self._write()
        if self._summary_dir is not None:  # TensorFlow's hooks have done so before.
            tf.summary.FileWriterCache.get(self._summary_dir).flush()

    def _write(self):
        (step, now), (since, then) = self._previous, self._written
        self._written = self._previous
        if self._summary_dir is not None:
            speed = (step - since) * self._batch_size / (now - then)
            summaries.write_scalars(self._summary_dir, {"images_per_second": speed}, step)

    def statistics(self) -> Dict[str, object]:
        """See `speed_statistics`."""
        return speed_statistics(self._seconds_per_step, self._batch_size)


class SessionTimingHook(tf.train.SessionRunHook):
    """Measures the time inside session runs, without the first one, which compiles the graph."""

    def __init__(self):
        self._seconds = []

    def before_run(self, run_context):
        self._start = time.perf_counter()

    def after_run(self, run_context, run_values):
        self._seconds.append(time.perf_counter() - self._start)

    def compute_speed(self, num_samples: int) -> float:
        """Returns samples per second, if all runs together processed `num_samples`."""
        runs = len(self._seconds)
        if runs == 0:
            raise ValueError("No session run was timed.")
        if runs == 1:
            return num_samples / self._seconds[0]
        return num_samples * (runs - 1) / runs / sum(self._seconds[1:])

    def statistics(self, batch_size: int) -> Dict[str, object]:
        """See `speed_statistics`."""
        return speed_statistics(self._seconds[1:], batch_size)


def speed_statistics(seconds_per_step: Sequence[float], batch_size: int) -> Dict[str, object]:
    """Returns the figures for `results.json`; None if nothing was measured.

    `images_per_second` is that of the median step, its `low` and `high` those of the 90th and the
    10th percentile.
    """
    if not seconds_per_step:
        return {"images_per_second": None, "seconds_per_step": None, "measured_steps": 0}
    slow, median, fast = np.percentile(seconds_per_step, [90, 50, 10])
    return {
        "images_per_second": {
            "median": batch_size / median,
            "low": batch_size / slow,
            "high": batch_size / fast,
        },
        "seconds_per_step": median,
        "measured_steps": len(seconds_per_step),
    }
