"""What is read from one checkpoint."""

import gc

from helpers import checkpoint_path

from common.checkpoints import reading


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
