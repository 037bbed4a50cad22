"""Training steps of several replicas (`tf.distribute`): what is to be the same in all of them.

A function here is called in every replica, in the same order. Without a strategy there is one.
"""

from typing import List, Optional, Sequence

from common.runtime import tf

# Many small ones cost latency, and over gRPC 64 MiB took twice as long for each byte as 4 MiB.
BYTES_PER_MESSAGE = 4 << 20


def copies(variable: tf.Variable) -> Sequence[tf.Variable]:
    """A variable's copies in this process, one for each of its replicas."""
    return tf.distribute.get_strategy().experimental_local_results(variable)


def name(variable: tf.Variable) -> str:
    """Name of a variable in checkpoints: its first copy's."""
    return copies(variable)[0].op.name


def is_first() -> bool:
    """Whether this is the first replica of its process, whose summaries are written."""
    return not tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)


def shown_loss():
    """The training's total loss, or its name; of several replicas the mean of theirs."""
    if not tf.distribute.has_strategy():
        return "total_loss:0"
    return tf.get_collection(tf.GraphKeys.LOSSES)[-1]  # The Estimator made it.


# Sums and means over the replicas ----------------------------------------------------------------


def mean(tensors: Sequence[tf.Tensor]) -> List[tf.Tensor]:
    """Means of tensors over the replicas."""
    if not tf.distribute.has_strategy():
        return list(tensors)
    return _all_reduce(tf.distribute.ReduceOp.MEAN, tensors)


def sum_of_gradients(gradients: Sequence[Optional[tf.Tensor]]) -> List[Optional[tf.Tensor]]:
    """Sums of gradients over the replicas, for an optimizer made by `applying_sums`."""
    if not tf.distribute.has_strategy():
        return list(gradients)
    found = [i for i, gradient in enumerate(gradients) if gradient is not None]
    # The last layers' gradients are the first to be there.
    sums = _all_reduce(tf.distribute.ReduceOp.SUM, [gradients[i] for i in reversed(found)])
    by_index = dict(zip(reversed(found), sums))
    return [by_index.get(i) for i in range(len(gradients))]


def _all_reduce(operation, tensors: Sequence[tf.Tensor]) -> List[tf.Tensor]:
    """Packs tensors into few messages: however many there are, each message costs time."""

    # ReplicaContext.all_reduce also makes a gradient, for which it looks through the whole graph.
    def reduce(strategy, *flat):
        return strategy.extended.batch_reduce_to(operation, [(tensor, tensor) for tensor in flat])

    reduced = {}
    for pack in _packs(tensors):
        flat = tf.concat([tf.reshape(tensors[i], [-1]) for i in pack], axis=0)
        (flat,) = tf.distribute.get_replica_context().merge_call(reduce, args=[flat])
        parts = tf.split(flat, [tensors[i].shape.num_elements() for i in pack])
        reduced.update((i, tf.reshape(part, tensors[i].shape)) for i, part in zip(pack, parts))
    return [reduced[i] for i in range(len(tensors))]


def _packs(tensors: Sequence[tf.Tensor]) -> List[List[int]]:
    """The tensors' indices in groups of one type and of about `BYTES_PER_MESSAGE`.

    Packing copies tensors. Those of a quarter of it or more, which are most of the bytes, are each
    a group of its own.
    """
    packs, open_packs = [], {}  # By type: the last group, and the bytes it still takes.
    for i, tensor in enumerate(tensors):
        size = tensor.shape.num_elements() * tensor.dtype.size
        if 4 * size >= BYTES_PER_MESSAGE:
            packs.append([i])
            continue
        pack, room = open_packs.get(tensor.dtype, (None, 0))
        if room <= 0:
            pack, room = [], BYTES_PER_MESSAGE
            packs.append(pack)
        pack.append(i)
        open_packs[tensor.dtype] = pack, room - size
    return packs


def applying_sums(optimizer: tf.train.Optimizer) -> tf.train.Optimizer:
    """The optimizer for gradients that `sum_of_gradients` has summed over the replicas.

    By itself an optimizer sums them once more, where older releases send a message a variable.
    """
    return _SummedOptimizer(optimizer) if tf.distribute.has_strategy() else optimizer


class _SummedOptimizer(tf.train.Optimizer):
    """Has another optimizer update each replica's copies by that replica's gradients."""

    def __init__(self, optimizer: tf.train.Optimizer):
        super().__init__(False, optimizer.get_name())
        self._optimizer = optimizer

    def compute_gradients(self, *args, **kwargs):
        return self._optimizer.compute_gradients(*args, **kwargs)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        pairs = [pair for pair in grads_and_vars if pair[0] is not None]
        context = tf.distribute.get_replica_context()
        return context.merge_call(self._update, args=(pairs, global_step))

    def _update(self, strategy, pairs, global_step) -> tf.Operation:
        """What `tf.train.Optimizer._distributed_apply` does after its sum."""
        with tf.init_scope():
            self._optimizer._create_slots([variable for _, variable in pairs])
        self._optimizer._prepare()
        updates = []
        for gradient, variable in pairs:
            local = zip(copies(variable), strategy.experimental_local_results(gradient))
            by_device = {copy.device: part for copy, part in local}

            def update(copy, by_device=by_device):
                return self._optimizer._resource_apply_dense(by_device[copy.device], copy)

            updates.append(strategy.extended.update(variable, update))
        with tf.control_dependencies(updates):
            return strategy.extended.update(global_step, tf.assign_add, args=(1,))
