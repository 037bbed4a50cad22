"""Folding keeps what a graph computes, and leaves alone what it cannot fold."""

import numpy as np
import pytest

from common.batch_norm_folding import fold_batch_norms
from common.runtime import tf

_SHAPE = (2, 6, 6, 4)


def _random(*shape):
    return np.random.RandomState(sum(shape)).uniform(0.5, 1.5, shape).astype(np.float32)


def _norm(net):
    channels = net.shape[-1].value
    gamma, beta, mean, variance = (_random(channels) * (i + 1) for i in range(4))
    return tf.nn.fused_batch_norm(net, gamma, beta, mean, variance, 0.01, is_training=False)[0]


def _conv(net, channels=6, stride=1):
    weights = tf.constant(_random(1, 1, net.shape[-1].value, channels))
    return tf.nn.conv2d(net, weights, stride, "SAME")


def _separable(net):
    depthwise = tf.nn.depthwise_conv2d(net, tf.constant(_random(3, 3, 4, 1)), [1] * 4, "SAME")
    return _norm(_conv(depthwise))


def _concatenated(net):
    return _norm(tf.concat([_conv(net, 2, 2), _conv(net, 5, 2)], axis=3))


def _read_twice(net):
    net = _conv(net)
    return _norm(net) + net


def _concatenated_along_height(net):
    return _norm(tf.concat([_conv(net), _conv(net)], axis=1))


def _run(graph_def, images):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(graph_def, name="")
        return session.run("output:0", {"input:0": images})


@pytest.mark.parametrize(
    "build, left",
    [
        (lambda net: _norm(_conv(net)), 0),
        (_separable, 0),
        (_concatenated, 0),
        (lambda net: _norm(_conv(_norm(_conv(net)))), 0),
        (_norm, 1),
        (_read_twice, 1),
        (_concatenated_along_height, 1),
        (lambda net: _norm(tf.concat([_conv(net), net], axis=3)), 1),
    ],
)
def test_folding(build, left):
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, _SHAPE, name="input")
        tf.identity(build(images), name="output")
        graph_def = graph.as_graph_def()
    folded = fold_batch_norms(graph_def)
    assert sum("BatchNorm" in node.op for node in folded.node) == left
    np.testing.assert_allclose(
        _run(folded, _random(*_SHAPE)), _run(graph_def, _random(*_SHAPE)), rtol=1e-5, atol=1e-4
    )
    read = {name.split(":")[0] for node in folded.node for name in node.input}
    assert all(node.name in read for node in folded.node if node.op == "Const")
