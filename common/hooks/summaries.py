"""Session hooks that keep values of a training, for TensorBoard and for results.json."""

import os
from typing import Dict

from common.distribution import replication
from common.runtime import tf

# Session runs between two values of a history.
_HISTORY_EVERY = 100


class ScalarSummaryHook(tf.train.SessionRunHook):
    """Writes the graph's scalar summaries from their values, without running summary operations.

    For devices that compile the training step as a whole and have no summary operations. Each run
    fetches the same values, so that only one step is compiled.

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
            write_scalars(self._summary_dir, scalars, step)

    def end(self, session):
        # Nothing else does this on such a device, and the curves are drawn from the file.
        tf.summary.FileWriterCache.get(self._summary_dir).flush()


def write_evaluation(model_dir: str, metrics: Dict[str, float], step: int):
    """Writes an evaluation's metrics where an Estimator would, for TensorBoard and the curves."""
    write_scalars(os.path.join(model_dir, "eval"), metrics, step).flush()


def write_scalars(directory: str, scalars: Dict[str, float], step: int) -> tf.summary.FileWriter:
    """Writes points of curves, by their tags, to a directory's event file; returns its writer."""
    summary = tf.Summary()
    for tag, value in scalars.items():
        summary.value.add(tag=tag, simple_value=value)
    writer = tf.summary.FileWriterCache.get(directory)
    writer.add_summary(summary, step)
    return writer


class LossHook(tf.train.SessionRunHook):
    """Keeps the last total loss of a training, and a history of it.

    Attributes:
        value: the last value; None before the first run.
        history: (number of the run in this session, value), the last one included.
    """

    def __init__(self):
        self._runs = 0
        self.value = None
        self.history = []

    def begin(self):
        self._loss = replication.shown_loss()

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._loss)

    def after_run(self, run_context, run_values):
        self._runs += 1
        self.value = run_values.results
        if self._runs % _HISTORY_EVERY == 0:
            self.history.append((self._runs, self.value))

    def end(self, session):
        if self._runs % _HISTORY_EVERY:
            self.history.append((self._runs, self.value))
