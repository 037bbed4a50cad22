"""The hyper-parameters of a training, for TensorBoard's HParams tab."""

import os
import time
from typing import Any, Dict

from common import files
from common.runtime import tf

# The tab shows what the first of a directory's files says, in the order of their names. A file of
# its own, which is replaced, shows the hyper-parameters of the latest start of a resumed training.
FILE_NAME = "events.out.tfevents.0000000000.hparams"


def write_or_warn(model_dir: str, hparams: Dict[str, Any]):
    """Writes hyper-parameters into a model directory; a failure is only logged."""
    try:
        write(model_dir, hparams)
    except Exception as error:  # Training is more important than any error of a library.
        tf.logging.warning("TensorBoard's HParams tab will not show this training: %s", error)


def write(model_dir: str, hparams: Dict[str, Any]):
    """Writes hyper-parameters, without those that are None, unless the file has them already.

    There is no experiment summary: TensorBoard takes the hyper-parameters and the metrics from all
    runs that it finds, and shows first what differs among them.
    """
    hparams = {name: _plain(value) for name, value in hparams.items() if value is not None}
    if read(model_dir) == hparams:
        return
    from tensorboard.plugins.hparams import summary  # Training alone needs it.

    now = time.time()
    # TensorBoard's class may be another one than TensorFlow's.
    start = summary.session_start_pb(hparams, start_time_secs=now).SerializeToString()
    start = tf.Summary.FromString(start)
    with files.replacing(os.path.join(model_dir, FILE_NAME)) as temporary:
        with tf.io.TFRecordWriter(temporary) as writer:
            for content in ({"file_version": "brain.Event:2"}, {"summary": start}):
                writer.write(tf.Event(wall_time=now, **content).SerializeToString())


def read(model_dir: str) -> Dict[str, Any]:
    """Returns the hyper-parameters that were written, integers as floats; {} if there are none."""
    path = os.path.join(model_dir, FILE_NAME)
    if not tf.io.gfile.exists(path):
        return {}
    from tensorboard.plugins.hparams import metadata

    try:
        for event in tf.train.summary_iterator(path):
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                info = metadata.parse_session_start_info_plugin_data(content)
                return {k: getattr(v, v.WhichOneof("kind")) for k, v in info.hparams.items()}
    except tf.errors.DataLossError:
        pass  # It is of no use, and will be replaced.
    return {}


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
