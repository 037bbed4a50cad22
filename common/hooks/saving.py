"""Session hooks that save checkpoints, and that load the moving averages of one."""

from typing import Sequence

from common.runtime import tf


class LeanCheckpointSaverHook(tf.train.CheckpointSaverHook):
    """Saves checkpoints, but none before the first step, and no copies of the graph.

    For this network TensorFlow's hook takes a third of the start-up time to write a checkpoint of
    weights that were just initialized or restored, and the graph twice: as graph.pbtxt, which
    nothing reads, and in the event file, which has it already.
    """

    def add_listeners(self, listeners: Sequence[tf.train.CheckpointSaverListener]):
        """Adds listeners, before a session is created."""
        self._listeners.extend(listeners)

    def after_create_session(self, session, coord):
        self._timer.update_last_triggered_step(session.run(self._global_step_tensor))

    def _save(self, session, step):
        try:
            return super()._save(session, step)
        except tf.errors.OutOfRangeError as error:
            # A session would take it for the end of the input, but the file is too large.
            raise tf.errors.UnknownError(error.node_def, error.op, error.message) from error


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
