import collections

import numpy as np
import pytest

import train_step
from common.distribution import cluster, replication
from common.runtime import tf

_ADDRESSES = ["127.0.0.1:1", "127.0.0.1:2"]  # Nobody is called: the graph is only built.


def _messages(shapes, clip=False):
    """How many messages a process of two sends for a step of variables of these shapes."""
    config = cluster.Cluster([("worker", 0), ("worker", 1)], _ADDRESSES, 0, False)

    def step():
        variables = [tf.get_variable(f"v{i}", shape) for i, shape in enumerate(shapes)]
        loss = tf.add_n([tf.reduce_sum(variable) for variable in variables])
        optimizer = replication.applying_sums(tf.train.MomentumOptimizer(0.1, 0.9))
        gradients, variables = zip(*optimizer.compute_gradients(loss, variables))
        gradients = replication.sum_of_gradients(gradients)
        return optimizer.apply_gradients(zip(gradients, variables), tf.train.get_global_step())

    with tf.Graph().as_default() as graph:
        with config.in_environment():
            strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
        with strategy.scope():
            tf.train.create_global_step()
            strategy.extended.call_for_each_replica(step)
        kinds = collections.Counter(op.type for op in graph.get_operations())
        return sum(number for kind, number in kinds.items() if kind.startswith("CollectiveReduce"))


def test_messages_are_as_many_as_the_bytes_need_whatever_the_number_of_variables():
    assert _messages([[1000]] * 3) == _messages([[100]] * 30) == 1
    assert _messages([[1 << 16]] * 160) == _messages([[1 << 14]] * 640) == 10


def test_large_tensors_are_not_copied_into_messages():
    mebibyte = [1 << 18]
    assert _messages([mebibyte] * 3) == 3
    assert _messages([[100], mebibyte, [100], mebibyte, [100]]) == 3


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])


def _run(strategy, step):
    """What a step returns in each of two replicas, and the variables afterwards, by name."""
    config = tf.ConfigProto(device_count={"CPU": 2})
    with strategy.scope():
        tf.train.get_or_create_global_step()
        results = strategy.extended.call_for_each_replica(step)
        fetches = tf.nest.map_structure(strategy.experimental_local_results, results)
        variables = {v.op.name: v for v in tf.global_variables()}
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            return session.run(fetches), session.run(variables)


def _rank():
    rank = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.cast(rank, tf.float32) + 1


def test_replicas_get_the_same_sums_and_means_in_the_order_of_the_tensors(strategy):
    def step():
        gradients = [_rank() * tf.ones([2, 3]), None, 10 * _rank(), tf.cast(_rank(), tf.float64)]
        assert replication.sum_of_gradients(gradients)[1] is None
        sums = replication.sum_of_gradients(gradients)
        return sums[:1] + sums[2:], replication.mean([_rank(), 2 * _rank() * tf.ones([4])])

    with tf.Graph().as_default():
        (sums, means), _ = _run(strategy, step)
    for replica in (0, 1):
        np.testing.assert_array_equal(sums[0][replica], np.full([2, 3], 3.0))
        assert [value[replica] for value in sums[1:]] == [30.0, 3.0]
        assert means[0][replica] == 1.5
        np.testing.assert_array_equal(means[1][replica], np.full([4], 3.0))


@pytest.mark.parametrize("value", [1.0, np.inf])
@pytest.mark.parametrize("scales_loss", [False, True])
def test_sums_are_applied_once_and_variables_keep_their_names(strategy, scales_loss, value):
    def step():
        variable = tf.get_variable("v", initializer=[5.0])
        unused = tf.get_variable("unused", initializer=[7.0])
        optimizer = replication.applying_sums(tf.train.MomentumOptimizer(1.0, 0.9))
        if scales_loss:  # What enable_mixed_precision_graph_rewrite makes on a GPU.
            scaling, scale = tf.train.experimental, tf.train.experimental.DynamicLossScale()
            optimizer = scaling.MixedPrecisionLossScaleOptimizer(optimizer, scale)
        gradient = _rank() * tf.placeholder_with_default([value], [1])  # Not to be folded.
        pairs = zip(replication.sum_of_gradients([gradient, None]), [variable, unused])
        return [optimizer.apply_gradients(pairs, tf.train.get_global_step())]

    with tf.Graph().as_default():
        _, values = _run(strategy, step)
    skipped = scales_loss and value == np.inf
    moved = 0 if skipped else 3 * value
    expected = {"global_step": not skipped, "v": 5 - moved, "v/Momentum": moved, "unused": 7}
    assert {name: values[name] for name in expected} == expected
    others = {"current_loss_scale", "good_steps"} if scales_loss else set()
    assert set(values) - set(expected) == others


def test_replicas_train_the_same_variables(strategy):
    """A copy's own name ends otherwise."""
    found = []

    def step():
        for name in ("a/weights", "b/weights", "a/beta"):
            tf.get_variable(name, [1], use_resource=True)
        variables = train_step.variables_to_train("^a/weights$")
        found.append([replication.name(variable) for variable in variables])
        return tf.constant(0.0)

    with tf.Graph().as_default():
        _run(strategy, step)
    assert found == [["a/weights"]] * 2
