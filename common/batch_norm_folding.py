"""Batch normalisation of a frozen graph, folded into the convolutions before it."""

from typing import Dict, List

import numpy as np

from common.runtime import tf

_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


def fold_batch_norms(graph_def: tf.GraphDef) -> tf.GraphDef:
    """Replaces inference batch normalisation by scaled convolution weights and a bias.

    What it folds is a fused batch normalisation (NHWC, constant statistics) of a convolution's
    output, or of a concatenation of convolutions' outputs along the channels. One that follows
    something else, or a convolution that others read too, stays as it is.

    Args:
        graph_def: a frozen graph: weights and statistics are constants without `Identity` nodes
            between them and their readers (`tf.graph_util.remove_training_nodes`).

    Returns:
        A new graph with the same node names, in which each folded batch normalisation is a
        `BiasAdd`; constants that nothing reads any more are gone.
    """
    folded = tf.GraphDef()
    folded.CopyFrom(graph_def)
    graph = _Graph(folded)
    for node in folded.node:
        if node.op in _BATCH_NORMS and not node.attr["is_training"].b:
            _fold(graph, node)
    folded.node.extend(graph.new_nodes)
    _remove_unread_constants(folded)
    return folded


class _Graph:
    """The nodes of a graph by name, and how often each is read."""

    def __init__(self, graph_def: tf.GraphDef):
        self.nodes: Dict[str, tf.NodeDef] = {node.name: node for node in graph_def.node}
        self.new_nodes: List[tf.NodeDef] = []
        self._readers: Dict[str, int] = {}
        for node in graph_def.node:
            for name in node.input:
                self._readers[_producer(name)] = self._readers.get(_producer(name), 0) + 1

    def input(self, node: tf.NodeDef, index: int) -> tf.NodeDef:
        return self.nodes[_producer(node.input[index])]

    def is_read_once(self, node: tf.NodeDef) -> bool:
        return self._readers[node.name] == 1

    def add_constant(self, name: str, value: np.ndarray) -> str:
        node = tf.NodeDef(name=name, op="Const")
        node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        self.new_nodes.append(node)
        return name


def _fold(graph: _Graph, norm: tf.NodeDef):
    if norm.attr["data_format"].s not in (b"", b"NHWC"):
        return
    convolutions = _convolutions(graph, graph.input(norm, 0))
    statistics = [graph.input(norm, i) for i in range(1, 5)]
    if not convolutions or any(node.op != "Const" for node in statistics):
        return
    # In double precision: two roundings fewer than the operation itself makes.
    gamma, beta, mean, variance = (_value(node).astype(np.float64) for node in statistics)
    scale = gamma / np.sqrt(variance + norm.attr["epsilon"].f)
    begin = 0
    for convolution in convolutions:
        weights = _value(graph.input(convolution, 1))
        end = begin + weights.shape[-1]
        convolution.input[1] = graph.add_constant(
            f"{convolution.name}/folded_weights",
            (weights * scale[begin:end]).astype(weights.dtype),
        )
        begin = end
    bias = graph.add_constant(f"{norm.name}/bias", (beta - mean * scale).astype(np.float32))
    _become_bias_add(norm, bias)


def _convolutions(graph: _Graph, node: tf.NodeDef) -> List[tf.NodeDef]:
    """The convolutions whose outputs make a node's channels, in their order; [] if others do."""
    if not graph.is_read_once(node):
        return []
    if node.op == "Conv2D":
        return [node] if graph.input(node, 1).op == "Const" else []
    if node.op != "ConcatV2" or int(_value(graph.input(node, len(node.input) - 1))) not in (3, -1):
        return []
    parts = [graph.input(node, i) for i in range(len(node.input) - 1)]
    if any(part.op != "Conv2D" for part in parts):
        return []
    convolutions = [_convolutions(graph, part) for part in parts]
    return [part for (part,) in convolutions] if all(convolutions) else []


def _become_bias_add(norm: tf.NodeDef, bias: str):
    net, dtype = norm.input[0], norm.attr["T"].type
    norm.op = "BiasAdd"
    del norm.input[:]
    norm.input.extend([net, bias])
    norm.attr.clear()
    norm.attr["T"].type = dtype
    norm.attr["data_format"].s = b"NHWC"


def _remove_unread_constants(graph_def: tf.GraphDef):
    read = {_producer(name) for node in graph_def.node for name in node.input}
    kept = [node for node in graph_def.node if node.op != "Const" or node.name in read]
    del graph_def.node[:]
    graph_def.node.extend(kept)


def _producer(name: str) -> str:
    """The node that an entry of `NodeDef.input` names: `node`, `node:1` or `^node`."""
    return name.lstrip("^").split(":")[0]


def _value(node: tf.NodeDef) -> np.ndarray:
    return tf.make_ndarray(node.attr["value"].tensor)
