"""What is read from one checkpoint."""

import gc

import pytest
from helpers import checkpoint_file, checkpoint_path, truncate

from common.checkpoints import reading
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.runtime import tf


def test_shapes_of_variables_are_tensorflows_and_are_freed(model_dir):
    reader = reading.open_checkpoint(checkpoint_path(model_dir, 30))
    shapes = reading.variable_shapes(reader)
    assert shapes == {"global_step": [], "weights": [1000]}
    assert shapes == reader.get_variable_to_shape_map()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        reading.variable_shapes(reader)
    gc.collect()
    assert len(gc.get_objects()) < before + 100  # With TensorFlow's there are 400 more.


@pytest.mark.parametrize(
    "cut, dtype, message",
    [
        (False, tf.float64, "does not fit the network: "),
        (True, tf.float32, "is damaged or not all there: "),
    ],
)
def test_restoring_says_whether_the_file_or_the_network_is_wrong(model_dir, cut, dtype, message):
    path = checkpoint_path(model_dir, 30)
    if cut:
        truncate(checkpoint_file(model_dir, 30, "data"))
    with tf.Graph().as_default(), CpuSession() as session:
        weights = tf.get_variable("weights", [1000], dtype)
        with pytest.raises(UserError) as error:
            reading.CheckedSaver({"weights": weights}).restore(session, path)
    assert str(error.value).startswith(f"The checkpoint {path} {message}")
