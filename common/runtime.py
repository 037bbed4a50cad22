"""What differs between the releases of TensorFlow; every other module takes `tf` from here."""

import tensorflow.compat.v1 as tf
import tf_slim as slim
from tensorflow.python.util import deprecation

__all__ = ["silence_deprecation_warnings", "slim", "tf"]


def silence_deprecation_warnings():
    """Silences warnings about TensorFlow's own code: a fifth of the time to build a graph."""
    deprecation._PRINT_DEPRECATION_WARNINGS = False
