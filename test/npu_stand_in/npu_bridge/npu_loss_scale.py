"""Loss scaling of the adapter for TensorFlow 1.15.

Sources: estimator/npu/npu_loss_scale_manager.py, estimator/npu/npu_loss_scale_optimizer.py, and
tensorflow/contrib/mixed_precision, whose classes are the bases of the real ones.
"""

import tensorflow.compat.v1 as tf

from . import RELEASE, npu_optimizer
from .recording import record

_SMALLEST, _LARGEST = 1.0, 3.4e38


class FixedLossScaleManager:
    def __init__(self, loss_scale, **kwargs):
        # From r1.5.0 on it can be told not to look for overflows.
        unknown = kwargs.keys() - ({"enable_overflow_check"} if RELEASE >= (1, 5) else set())
        if unknown:
            raise TypeError(f"FixedLossScaleManager has no {', '.join(unknown)}.")
        record("FixedLossScaleManager", loss_scale=loss_scale, **kwargs)
        if loss_scale < 1:
            raise ValueError("loss scale must be at least 1.")
        self._loss_scale = tf.convert_to_tensor(loss_scale, tf.float32)
        self.checks_overflow = kwargs.get("enable_overflow_check", True)

    def get_loss_scale(self):
        return self._loss_scale

    def update_loss_scale(self, finite_grads):
        return tf.no_op()


class ExponentialUpdateLossScaleManager:
    """Its variables are made where it is; resource variables, or not, as the scope has it."""

    checks_overflow = True

    def __init__(
        self,
        init_loss_scale,
        incr_every_n_steps,
        decr_every_n_nan_or_inf=2,
        incr_ratio=2,
        decr_ratio=0.8,
    ):
        record(
            "ExponentialUpdateLossScaleManager",
            **{k: v for k, v in locals().items() if k != "self"},
        )
        self._incr_every_n_steps = incr_every_n_steps
        self._decr_every_n_nan_or_inf = decr_every_n_nan_or_inf
        self._incr_ratio, self._decr_ratio = incr_ratio, decr_ratio
        scale = tf.convert_to_tensor(init_loss_scale, tf.float32)
        self._loss_scale = tf.Variable(scale, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, trainable=False, name="good_steps")
        self._bad_steps = tf.Variable(0, trainable=False, name="bad_steps")

    def get_loss_scale(self):
        return self._loss_scale

    def update_loss_scale(self, finite_grads):
        """Counts a step; good ones since the last bad one, bad ones since the scale changed."""
        with tf.control_dependencies([finite_grads]):
            variables = (self._loss_scale, self._good_steps, self._bad_steps)
            scale, good, bad = (tf.identity(v.read_value()) for v in variables)
        rises = finite_grads & (good + 1 >= self._incr_every_n_steps)
        falls = ~finite_grads & (bad + 1 >= self._decr_every_n_nan_or_inf)
        may_rise = scale < _LARGEST / self._incr_ratio
        raised = tf.where(may_rise, scale * self._incr_ratio, scale)
        lowered = tf.maximum(_SMALLEST, scale * self._decr_ratio)
        new = (
            tf.where(rises, raised, tf.where(falls, lowered, scale)),
            tf.where(finite_grads & ~rises, good + 1, 0),
            tf.where(rises | falls, 0, tf.where(finite_grads, bad, bad + 1)),
        )
        with tf.control_dependencies(new):
            return tf.group(*[v.assign(value).op for v, value in zip(variables, new)])


class NPULossScaleOptimizer(tf.train.Optimizer):
    """Scales the loss; skips a step that the float status says overflowed.

    Like the real one it does not call its base's constructor: what is missing is the optimizer's.
    """

    def __init__(self, opt, loss_scale_manager, is_distributed=False):
        record(
            "NPULossScaleOptimizer",
            optimizer=type(opt).__name__,
            manager=type(loss_scale_manager).__name__,
            is_distributed=is_distributed,
        )
        self._opt, self._manager = opt, loss_scale_manager
        self._is_distributed = is_distributed
        self._name = "NPULossScaleOptimizermodule"

    def __getattr__(self, name):
        return getattr(self._opt, name)

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
        scale = self._manager.get_loss_scale()
        pairs = self._opt.compute_gradients(
            loss * tf.cast(scale, loss.dtype),
            var_list=var_list,
            gate_gradients=gate_gradients,
            aggregation_method=aggregation_method,
            colocate_gradients_with_ops=colocate_gradients_with_ops,
            grad_loss=grad_loss,
        )
        return npu_optimizer.down_scaled(pairs, scale)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        finite = tf.constant(True)
        if self._manager.checks_overflow:
            # Goes through what it was given twice, as the real one does: here and below.
            gradients = (gradient for gradient, _ in grads_and_vars)
            with tf.name_scope(self._name):
                finite = npu_optimizer.all_finite(
                    gradients, self._is_distributed, "overflow_status_reduce_all"
                )
        applied = tf.cond(
            finite,
            lambda: self._opt.apply_gradients(grads_and_vars, global_step, name),
            tf.no_op,
        )
        return tf.group(applied, self._manager.update_loss_scale(finite))
