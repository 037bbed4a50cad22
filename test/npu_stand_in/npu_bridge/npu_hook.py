"""The hooks that the adapter's Estimator adds to a training.

Sources: estimator/npu/npu_hook.py, estimator/npu/util.py (the loop's variables).
"""

import tensorflow.compat.v1 as tf

from . import RELEASE, hccl
from .recording import record


class NPUBroadcastGlobalVariablesHook(tf.train.SessionRunHook):
    """Makes every rank's trainable variables those of rank 0; once, when a session is created."""

    def begin(self):
        variables = tf.global_variables() if RELEASE < (1, 3) else tf.trainable_variables()
        record("broadcast", variables=[v.op.name for v in variables])
        values = hccl.broadcast([variable.read_value() for variable in variables])
        self._broadcast = tf.group(
            *[tf.assign(variable, value) for variable, value in zip(variables, values)]
        )

    def after_create_session(self, session, coord):
        session.run(self._broadcast)


class NPUCheckpointSaverHook(tf.train.CheckpointSaverHook):
    """Saves at every start, as its base does, and runs the session once more after each step."""

    def after_run(self, run_context, run_values):
        step = run_context.session.run(self._global_step_tensor)
        tf.logging.info("global_step...%d", step)
        super().after_run(run_context, run_values)


class SetIterationsVarHook(tf.train.SessionRunHook):
    """Tells the device how often to repeat a step, through variables of its own."""

    _INITIAL = {"iterations_per_loop": None, "loop_cond": 0, "zero": 0, "one": 1}

    def __init__(self, iterations_per_loop):
        self._initial = {**self._INITIAL, "iterations_per_loop": iterations_per_loop - 1}

    def begin(self):
        self._variables = {name: _loop_variable(name) for name in self._initial}

    def after_create_session(self, session, coord):
        for name, variable in self._variables.items():
            variable.load(self._initial[name], session=session)
        print("load iterations_per_loop value -----------")
        print(session.run(self._variables["iterations_per_loop"]))


def _loop_variable(name):
    """One of the loop's variables; the library finds them by their collections."""
    collection = f"npu_runconfig_{name}"
    found = tf.get_collection(collection)
    if len(found) > 1:
        raise RuntimeError(f"There are {len(found)} variables in {collection}.")
    if found:
        return found[0]
    with tf.variable_scope("npu_runconfig", reuse=tf.AUTO_REUSE):
        return tf.get_variable(
            name,
            shape=[],
            dtype=tf.int64,
            initializer=tf.zeros_initializer(),
            trainable=False,
            collections=[collection, tf.GraphKeys.LOCAL_VARIABLES],
            use_resource=True,
        )
