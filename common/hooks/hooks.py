"""Session hooks: throughput, and moving averages in place of raw weights."""

import time
from typing import Dict, Optional, Sequence

import numpy as np
import tensorflow.compat.v1 as tf


class ThroughputHook(tf.train.SessionRunHook):
    """Measures seconds a step, and writes images a second to TensorBoard.

    The first steps of a session are left out: they include graph optimisation and compilation.

    Args:
        batch_size: images a step, on all devices together.
        summary_dir: where to write the scalar `images_per_second`; None for nowhere.
        every_n_steps: steps a written point is averaged over.
        warmup_runs: number of session runs left out at the start of each session.
    """

    def __init__(
        self,
        batch_size: int,
        summary_dir: Optional[str] = None,
        every_n_steps: int = 100,
        warmup_runs: int = 1,
    ):
        self._batch_size = batch_size
        self._summary_dir = summary_dir
        self._every_n_steps = every_n_steps
        self._warmup_runs = warmup_runs
        self._seconds_per_step = []

    def begin(self):
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session, coord):
        self._previous = self._written = None
        self._runs_to_skip = self._warmup_runs

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._global_step)

    def after_run(self, run_context, run_values):
        step, now = int(run_values.results), time.perf_counter()
        if self._runs_to_skip > 0:
            self._runs_to_skip -= 1
            return
        if self._previous is None:
            self._previous = (step, now)
        # A run may fetch the step before it is counted: its time then goes with the next one's.
        steps = step - self._previous[0]
        if steps > 0:
            self._seconds_per_step.extend([(now - self._previous[1]) / steps] * steps)
            self._previous = (step, now)
        self._maybe_write(step, now)

    def _maybe_write(self, step: int, now: float):
        if self._summary_dir is None:
            return
        if self._written is None:
            self._written = (step, now)
        elif step - self._written[0] >= self._every_n_steps:
            speed = (step - self._written[0]) * self._batch_size / (now - self._written[1])
            summary = tf.Summary(
                value=[tf.Summary.Value(tag="images_per_second", simple_value=speed)]
            )
            tf.summary.FileWriterCache.get(self._summary_dir).add_summary(summary, step)
            self._written = (step, now)

    def statistics(self) -> Dict[str, object]:
        """See `speed_statistics`."""
        return speed_statistics(self._seconds_per_step, self._batch_size)


class SessionTimingHook(tf.train.SessionRunHook):
    """Measures the time inside session runs; the first, with its compilation, is left out."""

    def __init__(self):
        self._seconds = []

    def before_run(self, run_context):
        self._start = time.perf_counter()

    def after_run(self, run_context, run_values):
        self._seconds.append(time.perf_counter() - self._start)

    def compute_speed(self, num_samples: int) -> float:
        """Samples a second, where all runs together handled `num_samples`."""
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
    """Figures for `results.json`; None where nothing was measured.

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


class QuickStartCheckpointSaverHook(tf.train.CheckpointSaverHook):
    """Saves checkpoints, but none before the first step, and no text copy of the graph.

    The stock hook spends a third of a start of this network on them: a checkpoint of the weights
    that were just made or restored, and copies of the graph: as graph.pbtxt, which nothing reads,
    and once more in the event file, where the writer has put it already.
    """

    def after_create_session(self, session, coord):
        self._timer.update_last_triggered_step(session.run(self._global_step_tensor))

    def _save(self, session, step):
        try:
            return super()._save(session, step)
        except tf.errors.OutOfRangeError as error:
            # A session takes it for the end of the input, but here it is a file's largest size.
            raise tf.errors.UnknownError(error.node_def, error.op, error.message) from error


class ScalarSummaryHook(tf.train.SessionRunHook):
    """Writes the graph's scalar summaries from their values, and never runs a summary operation.

    For devices that compile the training step as a whole, which summary operations cannot be in.
    The same values are fetched in each run, so that there is only one step to compile.

    Args:
        summary_dir: directory of the event file.
        every_n_steps: steps between two points.
    """

    def __init__(self, summary_dir: str, every_n_steps: int):
        self._summary_dir = summary_dir
        self._timer = tf.train.SecondOrStepTimer(every_steps=every_n_steps)

    def begin(self):
        self._global_step = tf.train.get_global_step()
        summaries = [summary.op for summary in tf.get_collection(tf.GraphKeys.SUMMARIES)]
        self._scalars = {
            tf.get_static_value(op.inputs[0]).item().decode(): op.inputs[1]
            for op in summaries
            if op.type == "ScalarSummary"
        }

    def before_run(self, run_context):
        return tf.train.SessionRunArgs([self._global_step, self._scalars])

    def after_run(self, run_context, run_values):
        step, scalars = run_values.results
        if self._timer.should_trigger_for_step(step):
            self._timer.update_last_triggered_step(step)
            summary = tf.Summary()
            for tag, value in scalars.items():
                summary.value.add(tag=tag, simple_value=value)
            tf.summary.FileWriterCache.get(self._summary_dir).add_summary(summary, step)


class LastValueHook(tf.train.SessionRunHook):
    """Keeps the last value of one scalar, by name, in `value`, and now and then one in `history`.

    Args:
        tensor_name: like 'total_loss:0'; of several replicas it is always the mean of their losses.
        every_n_runs: of how many session runs one goes to the history.

    Attributes:
        value: the last value; None before the first run.
        history: (number of the run in this session, value), the last one included.
    """

    def __init__(self, tensor_name: str, every_n_runs: int = 100):
        self._tensor_name = tensor_name
        self._every_n_runs = every_n_runs
        self._runs = 0
        self.value = None
        self.history = []

    def begin(self):
        if tf.distribute.has_strategy():  # Each replica has one; the Estimator made their mean.
            self._tensor_name = tf.get_collection(tf.GraphKeys.LOSSES)[-1].name

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._tensor_name)

    def after_run(self, run_context, run_values):
        self._runs += 1
        self.value = run_values.results
        if self._runs % self._every_n_runs == 0:
            self.history.append((self._runs, self.value))

    def end(self, session):
        if self._runs % self._every_n_runs:
            self.history.append((self._runs, self.value))


class LoadEMAHook(tf.train.SessionRunHook):
    """Loads a checkpoint's moving averages into the variables when a session starts.

    Args:
        model_dir: directory whose latest checkpoint is read, or the prefix of one checkpoint.
        moving_average_decay: decay of the averages; only their names depend on having one.
    """

    def __init__(self, model_dir: str, moving_average_decay: float = 0.9999):
        self._model_dir = model_dir
        self._decay = moving_average_decay

    def begin(self):
        average = tf.train.ExponentialMovingAverage(self._decay)
        self._saver = tf.train.Saver(average.variables_to_restore())

    def after_create_session(self, session, coord):
        path = tf.train.latest_checkpoint(self._model_dir) or self._model_dir
        tf.logging.info("Loading the moving averages of %s", path)
        self._saver.restore(session, path)
