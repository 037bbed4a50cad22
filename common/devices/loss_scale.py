"""Loss scales for the Ascend adapter `npu_device`, which has none of its own.

They do what the managers of `npu_bridge` do (npu_loss_scale_manager.py), with variables of the same
names, so that a checkpoint of one is read by the other.
"""

from common.runtime import tf

# `npu_bridge` keeps to the same bounds.
_SMALLEST, _LARGEST = 1.0, 3.4e38


class FixedLossScale:
    """A loss scale that stays as it is."""

    def __init__(self, scale: float):
        self._scale = tf.constant(scale, tf.float32, name="loss_scale")

    def get_loss_scale(self) -> tf.Tensor:
        return self._scale

    def update_loss_scale(self, finite_grads: tf.Tensor) -> tf.Operation:
        return tf.no_op()


class DynamicLossScale:
    """A loss scale that falls after some steps that overflow, and rises after many that do not.

    Args:
        init_loss_scale: the first scale.
        incr_every_n_steps: steps in a row without an overflow after which it rises.
        decr_every_n_nan_or_inf: steps with an overflow after which it falls.
        incr_ratio, decr_ratio: the factors.
    """

    def __init__(
        self,
        init_loss_scale: float,
        incr_every_n_steps: int,
        decr_every_n_nan_or_inf: int = 2,
        incr_ratio: float = 2.0,
        decr_ratio: float = 0.8,
    ):
        self._incr_every_n_steps = incr_every_n_steps
        self._decr_every_n_nan_or_inf = decr_every_n_nan_or_inf
        self._incr_ratio, self._decr_ratio = incr_ratio, decr_ratio
        self._scale = tf.Variable(float(init_loss_scale), trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, trainable=False, name="good_steps")
        self._bad_steps = tf.Variable(0, trainable=False, name="bad_steps")

    def get_loss_scale(self) -> tf.Variable:
        return self._scale

    def update_loss_scale(self, finite_grads: tf.Tensor) -> tf.Operation:
        """Counts one step; `finite_grads` is a bool scalar."""
        return tf.cond(finite_grads, self._count_good_step, self._count_bad_step)

    def _count_good_step(self) -> tf.Operation:
        scale = self._scale.read_value()
        may_rise = tf.less(scale, _LARGEST / self._incr_ratio)
        raised = tf.where(may_rise, scale * self._incr_ratio, scale)
        return tf.cond(
            tf.greater_equal(self._good_steps.read_value() + 1, self._incr_every_n_steps),
            lambda: self._set(raised),
            lambda: self._good_steps.assign_add(1, read_value=False),
        )

    def _count_bad_step(self) -> tf.Operation:
        lowered = tf.maximum(_SMALLEST, self._scale.read_value() * self._decr_ratio)
        return tf.cond(
            tf.greater_equal(self._bad_steps.read_value() + 1, self._decr_every_n_nan_or_inf),
            lambda: self._set(lowered),
            lambda: tf.group(
                self._bad_steps.assign_add(1, read_value=False),
                self._good_steps.assign(0, read_value=False),
            ),
        )

    def _set(self, scale: tf.Tensor) -> tf.Operation:
        return tf.group(
            self._scale.assign(scale, read_value=False),
            self._good_steps.assign(0, read_value=False),
            self._bad_steps.assign(0, read_value=False),
        )
