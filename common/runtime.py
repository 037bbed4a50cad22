"""What differs between TensorFlow 1.15 and 2.15; every other module takes `tf` from here."""

import contextlib
import os
import re


@contextlib.contextmanager
def _without_stderr():
    """Within the block, hides what is written to standard error, also by C++."""
    try:
        saved = os.dup(2)
    except OSError:  # It is closed.
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


# By itself, TensorFlow 2.15 uses oneDNN on some processors only.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
with _without_stderr():  # Where TensorFlow 2.15 complains about CUDA's libraries, on any machine.
    import tensorflow.compat.v1 as tf
import tf_slim as slim  # noqa: E402, F401 (taken from here by others)
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: E402
from tensorflow.python.util import deprecation  # noqa: E402

_IS_V1 = tf.__version__.startswith("1.")

# Warnings about TensorFlow's own code, which take a fifth of the time to build a graph.
deprecation._PRINT_DEPRECATION_WARNINGS = False
tf.disable_v2_behavior()


def log_release():
    """Logs the release, and the setting that the program made for it."""
    onednn = os.environ["TF_ENABLE_ONEDNN_OPTS"]
    setting = "" if _IS_V1 else f", TF_ENABLE_ONEDNN_OPTS={onednn}"
    tf.logging.info("TensorFlow %s%s.", tf.__version__, setting)


def uses_openmp() -> bool:
    """Whether this TensorFlow computes on OpenMP's threads, as intel-tensorflow 1.15 does."""
    if not _IS_V1:
        return False  # Its oneDNN takes TensorFlow's own threads.
    from tensorflow.python import pywrap_tensorflow

    return pywrap_tensorflow.IsMklEnabled()


def error_message(error: Exception) -> str:
    """What an error says, without the operation's origin that TensorFlow 2.15 puts before it."""
    message = getattr(error, "message", None) or str(error)
    if message.startswith("Graph execution error:"):
        message = re.split(r"\nNode: '[^\n]*'\n", message)[-1]
    return message.strip()


def first_line(error: Exception) -> str:
    """The first line of what an error says; its type if it says nothing."""
    return (error_message(error).splitlines() or [type(error).__name__])[0]


def bytes_at(string: tf.Tensor, position, length: int) -> tf.Tensor:
    """A part of a string, which may be too short to have it.

    That would be an error whose message quotes the string, and TensorFlow 1.15 crashes on messages
    that are not UTF-8.
    """
    position = tf.clip_by_value(position, 0, tf.strings.length(string))
    return tf.strings.substr(string, position, length)


def decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Any BMP of 8 (grey), 24 or 32 bits a pixel: uint8 [height, width, 3]."""
    if not _IS_V1:
        return tf.image.decode_bmp(encoded, channels=3)
    # TensorFlow 1.15 takes images of as many channels as the operation has, and an operation
    # without `channels` insists on those of its first image.
    bits_per_pixel = bytes_at(encoded, 28, 1)
    grey = (
        tf.equal(bits_per_pixel, b"\x08"),
        lambda: tf.tile(tf.image.decode_bmp(encoded, channels=1), [1, 1, 3]),
    )
    with_alpha = (
        tf.equal(bits_per_pixel, b"\x20"),
        lambda: tf.image.decode_bmp(encoded, channels=4)[:, :, :3],
    )
    return tf.case([grey, with_alpha], default=lambda: tf.image.decode_bmp(encoded, channels=3))


# Attributes of operations that TensorFlow 2.15 writes even if they say nothing, and 1.15 refuses.
_NEW_ATTRIBUTES = {"MaxPool": "explicit_paddings", "VarHandleOp": "debug_name"}


def drop_new_attributes(graph_def: tf.GraphDef):
    """Makes a graph that TensorFlow 1.15 loads, too."""
    for node in graph_def.node:
        if _NEW_ATTRIBUTES.get(node.op, "") in node.attr:
            del node.attr[_NEW_ATTRIBUTES[node.op]]


def drop_new_attributes_of_saved_model(directory: str):
    """Makes a SavedModel that TensorFlow 1.15 loads, too."""
    path = os.path.join(directory, "saved_model.pb")
    with tf.io.gfile.GFile(path, "rb") as file:
        saved_model = SavedModel.FromString(file.read())
    for meta_graph in saved_model.meta_graphs:
        drop_new_attributes(meta_graph.graph_def)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(saved_model.SerializeToString())


def dataset_options(threads: int) -> tf.data.Options:
    """So many threads of a data set's own, none of which is split further; buffers as they are."""
    options = tf.data.Options()
    if _IS_V1:
        threading = options.experimental_threading
    else:
        threading = options.threading
        options.autotune.enabled = False  # It reads further ahead than bad records are noted.
    threading.private_threadpool_size = threads
    threading.max_intra_op_parallelism = 1
    return options
