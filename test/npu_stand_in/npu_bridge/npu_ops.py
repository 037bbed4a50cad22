"""Operations that start and stop the system (estimator/npu_ops.py)."""

import tensorflow.compat.v1 as tf

from . import device


def initialize_system(name=None):
    _check_graph_mode("NPUInit")
    return device.system_operation(name or "NPUInit", starts=True)


def shutdown_system(name=None):
    _check_graph_mode("NPUShutdown")
    return device.system_operation(name or "NPUShutdown", starts=False)


def _check_graph_mode(operation):
    if tf.executing_eagerly():
        raise RuntimeError(f"{operation} does not go with eager execution.")
