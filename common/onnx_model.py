"""A frozen graph as an ONNX model, through tf2onnx, which is imported only when it is needed."""

import importlib.util
import os
from typing import Dict

from common.errors import UserError
from common.runtime import tf

# Of those that Ascend's atc takes (11 to 15), the newest that all pinned versions of onnx know.
OPSET = 13


def check_installed(needed_by: str):
    """Raises UserError if this Python cannot convert; `needed_by` is what the user asked for."""
    missing = [name for name in ("tf2onnx", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{needed_by} needs {' and '.join(missing)}, which this Python does not have: install "
            "the version that the project's requirements file names."
        )


def convert(
    graph_def: tf.GraphDef,
    name: str,
    inputs: Dict[str, str],
    outputs: Dict[str, str],
    metadata: Dict[str, str],
) -> bytes:
    """Converts a graph whose first dimension of inputs and outputs is the batch, of any size.

    Args:
        graph_def: a frozen graph.
        name: of the model's graph.
        inputs, outputs: names of the graph's tensors, 'node:0', by their names in the model.
        metadata: what the model says of itself: its metadata_props.

    Returns:
        The serialised ModelProto.
    """
    # tf2onnx would copy all weights before each of its optimisers, and pass over one that fails.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    import onnx
    import tf2onnx.convert

    model, _ = tf2onnx.convert.from_graph_def(
        graph_def,
        name=name,
        input_names=list(inputs.values()),
        output_names=list(outputs.values()),
        opset=OPSET,
        tensors_to_rename={tensor: key for key, tensor in {**inputs, **outputs}.items()},
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model.SerializeToString()
