"""Training steps of several replicas (`tf.distribute`): what is to be the same in all of them.

A function here is called in every replica, in the same order. Without a strategy there is one.
"""

from typing import List, Sequence

from common.runtime import tf


def copies(variable: tf.Variable) -> Sequence[tf.Variable]:
    """A variable's copies in this process, one for each of its replicas."""
    return tf.distribute.get_strategy().experimental_local_results(variable)


def name(variable: tf.Variable) -> str:
    """Name of a variable in checkpoints: its first copy's."""
    return copies(variable)[0].op.name


def is_first() -> bool:
    """Whether this is the first replica of its process, whose summaries are written."""
    return not tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)


def mean(tensors: Sequence[tf.Tensor]) -> List[tf.Tensor]:
    """Means of tensors over the replicas.

    One message takes all of them: for small tensors its way, not its size, is what costs time.
    """
    if not tensors or not tf.distribute.has_strategy():
        return list(tensors)
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
    (flat,) = _all_reduce(tf.distribute.ReduceOp.MEAN, [flat])
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors)]


def clip_by_global_norm(gradients: Sequence[tf.Tensor], limit: float):
    """(gradients whose sum over the replicas is clipped, norm of that sum before).

    The sum has to be known for it, so that gradients are sent twice, here and by the optimizer.
    """
    if not tf.distribute.has_strategy():
        return tf.clip_by_global_norm(gradients, limit)
    sums = _all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    clipped, norm = tf.clip_by_global_norm(sums, limit)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return [gradient / replicas for gradient in clipped], norm


def _all_reduce(operation, values: Sequence[tf.Tensor]) -> List[tf.Tensor]:
    # ReplicaContext.all_reduce also makes a gradient, for which it looks through the whole graph.
    def reduce(strategy, *values):
        return strategy.extended.batch_reduce_to(operation, [(value, value) for value in values])

    return tf.distribute.get_replica_context().merge_call(reduce, args=values)
