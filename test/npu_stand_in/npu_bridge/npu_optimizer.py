"""Optimizers that average gradients over the ranks, and one that scales the loss as well.

Source: estimator/npu/npu_optimizer.py.
"""

import tensorflow.compat.v1 as tf

from . import device, hccl
from .recording import record
from .util import num_ranks


def average(gradients_and_variables, name):
    """[(gradient averaged over the ranks, variable)]."""
    gradients = [gradient for gradient, _ in gradients_and_variables if gradient is not None]
    if any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients):
        raise NotImplementedError("The adapter gathers sparse gradients.")
    with tf.name_scope(name):
        sums = iter(hccl.all_reduce(gradients))
        ranks = num_ranks()
        return [
            (None if gradient is None else next(sums) / tf.cast(ranks, gradient.dtype), variable)
            for gradient, variable in gradients_and_variables
        ]


def down_scaled(gradients_and_variables, loss_scale):
    """[(gradient of the loss, variable)] from those of the scaled loss."""
    factor = tf.reciprocal(loss_scale)
    return [
        (None if gradient is None else gradient * tf.cast(factor, gradient.dtype), variable)
        for gradient, variable in gradients_and_variables
    ]


def all_finite(gradients, is_distributed, name=None):
    """Whether no rank's status tells of an overflow; reads it after all gradients."""
    gradients = [gradient for gradient in gradients if gradient is not None]
    with tf.control_dependencies(gradients):
        status = device.float_status(gradients)
    with tf.control_dependencies([status]):
        cleared = tf.no_op("NpuClearFloatStatusV2")
    if is_distributed:
        (status,) = hccl.all_reduce([status])
    with tf.control_dependencies([cleared]):
        return tf.reduce_all(tf.equal(tf.cast(0, status.dtype), status), name=name)


class NPUDistributedOptimizer(tf.train.Optimizer):
    """Averages gradients over the ranks, if there are several."""

    def __init__(self, optimizer, is_weight_update_sharding=False, name=None):
        record("NPUDistributedOptimizer", optimizer=type(optimizer).__name__, name=name)
        if is_weight_update_sharding:
            raise NotImplementedError("Weight update sharding is left out.")
        super().__init__(False, name or f"Distributed{type(optimizer).__name__}")
        self._optimizer = optimizer

    def compute_gradients(self, *args, **kwargs):
        pairs = self._optimizer.compute_gradients(*args, **kwargs)
        if num_ranks() <= 1:
            return pairs
        return average(pairs, f"{self._name}_Allreduce")

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        return self._optimizer.apply_gradients(grads_and_vars, global_step, name)

    def get_slot(self, *args, **kwargs):
        return self._optimizer.get_slot(*args, **kwargs)

    def get_slot_names(self, *args, **kwargs):
        return self._optimizer.get_slot_names(*args, **kwargs)

    def variables(self, *args, **kwargs):
        return self._optimizer.variables(*args, **kwargs)


class NPUOptimizer(tf.train.Optimizer):
    """Averages gradients and scales the loss, each if it is told to."""

    def __init__(
        self,
        opt,
        loss_scale_manager=None,
        is_distributed=False,
        is_loss_scale=False,
        is_tailing_optimization=False,
        name=None,
    ):
        record(
            "NPUOptimizer",
            optimizer=type(opt).__name__,
            manager=loss_scale_manager and type(loss_scale_manager).__name__,
            is_distributed=is_distributed,
            is_loss_scale=is_loss_scale,
        )
        if is_loss_scale and loss_scale_manager is None:
            raise ValueError("With is_loss_scale there must be a loss_scale_manager.")
        if is_tailing_optimization:
            raise NotImplementedError("Tailing optimization is left out.")
        super().__init__(False, name or f"NPUOptimizer{type(opt).__name__}")
        self._opt, self._manager = opt, loss_scale_manager
        self._is_distributed, self._is_loss_scale = is_distributed, is_loss_scale

    def compute_gradients(
        self,
        loss,
        var_list=None,
        gate_gradients=tf.train.Optimizer.GATE_OP,
        aggregation_method=None,
        colocate_gradients_with_ops=False,
        grad_loss=None,
    ):
        record("compute_gradients", gate_gradients=gate_gradients)
        scale = self._manager.get_loss_scale() if self._is_loss_scale else None
        pairs = self._opt.compute_gradients(
            loss if scale is None else loss * tf.cast(scale, loss.dtype),
            var_list=var_list,
            gate_gradients=gate_gradients,
            aggregation_method=aggregation_method,
            colocate_gradients_with_ops=colocate_gradients_with_ops,
            grad_loss=grad_loss,
        )
        if self._is_distributed:
            pairs = average(pairs, f"{self._name}_Allreduce")
        return pairs if scale is None else down_scaled(pairs, scale)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        if not self._is_loss_scale:
            return self._opt.apply_gradients(grads_and_vars, global_step, name)
        # Goes through what it was given twice, as the real one does.
        finite = all_finite((gradient for gradient, _ in grads_and_vars), self._is_distributed)
        applied = tf.cond(
            finite,
            lambda: self._opt.apply_gradients(grads_and_vars, global_step, name),
            tf.no_op,
        )
        return tf.group(applied, self._manager.update_loss_scale(finite))

    def get_slot(self, *args, **kwargs):
        return self._opt.get_slot(*args, **kwargs)

    def get_slot_names(self, *args, **kwargs):
        return self._opt.get_slot_names(*args, **kwargs)

    def variables(self, *args, **kwargs):
        return self._opt.variables(*args, **kwargs)
