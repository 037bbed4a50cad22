"""What goes from TensorFlow 2 back to sessions (python/npu_device/npu_device.py)."""

import tensorflow.compat.v1 as tf


def enable_v1():
    """Loads the library with the graph passes, without which a session has no NPU."""
    from npu_device.compat.v1 import device, recording

    recording.record("enable_v1")
    tf.disable_v2_behavior()
    device.load()
