"""One training step: gradients, clipping, the optimizer, batch-norm statistics, moving averages.

It is the same step for one device, for the replicas of a `tf.distribute` strategy, and where a
step may be skipped since its loss or gradients are not finite; then nothing moves.
"""

import re
from typing import List, Optional, Sequence, Tuple

import network_utils
from common.checkpoints.reading import average_name
from common.devices.device import Device
from common.distribution import replication
from common.errors import UserError
from common.hooks import nonfinite
from common.hparams import HParams
from common.runtime import tf

# Name of the tensor with the global step after the step, in graphs whose steps may be skipped.
STEP_AFTER = "step_after"

_Averages = List[Tuple[tf.Variable, tf.Variable]]


def may_skip(device: Device, hparams: HParams) -> bool:
    """Whether a step can be skipped: by loss scaling, or since --on_nan says so."""
    return device.skips_steps or hparams.on_nan == "skip"


def train_step(loss, learning_rate, global_step, hparams: HParams, device: Device) -> tf.Operation:
    """The operation that does one training step.

    Args:
        loss: the total loss of the images of this replica, a float scalar.
        learning_rate: float scalar.
        global_step: the variable, which is counted up by one unless the step is skipped.
        hparams: see `amoeba_net_model.default_hparams`.
        device: wraps the optimizer with what it needs, like loss scaling.
    """
    # Replicas of one process share its collections and build their graphs in turn, each up to its
    # next sum over all: read before the first of them, the last changes are this replica's.
    statistics, changes = _batch_statistics()

    # 1. Gradients, summed over the replicas, and clipped if the hyper-parameters say so.
    optimizer = replication.applying_sums(build_optimizer(hparams, learning_rate))
    optimizer = device.wrap_optimizer(optimizer)
    if hparams.on_nan == "skip" and not device.skips_steps:
        optimizer = nonfinite.SkippingOptimizer(optimizer)
    gradients, variables = _compute_gradients(optimizer, loss, hparams, device)

    # 2. The weights. If the optimizer skips the step, the global step stays where it is.
    changes = replication.mean(changes)  # Each replica normalises by its own images alone.
    averaged = averaged_variables() if hparams.moving_average_decay > 0 else []
    averages = create_moving_averages(averaged)
    next_step = global_step + 1  # A sum: a mere read may share the variable's memory.
    with tf.control_dependencies([tf.group(next_step, *changes)]):
        apply_gradients = optimizer.apply_gradients(list(zip(gradients, variables)), global_step)

    # 3. Batch-norm statistics, and then the averages of weights and statistics.
    def move(changes, weight):
        pairs = zip(statistics, changes)
        moved = tf.group(*(moving.assign_sub(change, read_value=False) for moving, change in pairs))
        with tf.control_dependencies([moved]):
            moves = [move_average(average, variable, weight) for average, variable in averages]
            return tf.group(moved, *moves, name="moving_averages")

    with tf.control_dependencies([apply_gradients]):
        weight = average_weight(hparams.moving_average_decay, global_step)
        if not may_skip(device, hparams):
            return move(changes, weight)
        applied = tf.equal(tf.identity(global_step.read_value(), name=STEP_AFTER), next_step)
        if tf.distribute.has_strategy():  # Replicas cannot meet inside a conditional.
            changes = [tf.where(applied, change, tf.zeros_like(change)) for change in changes]
            return move(changes, tf.where(applied, weight, 0.0))
        # No mask: the statistics of a skipped step may be infinite, which an NPU does not compute.
        return tf.group(tf.cond(applied, lambda: move(changes, weight), tf.no_op))


def _compute_gradients(optimizer, loss, hparams: HParams, device: Device) -> Tuple[list, list]:
    """(gradients, variables)."""
    gradients, variables = zip(
        *optimizer.compute_gradients(
            loss,
            var_list=variables_to_train(hparams.trainable_variables),
            gate_gradients=device.gate_gradients,
        )
    )
    gradients = replication.sum_of_gradients(gradients)
    if hparams.gradient_clipping_by_global_norm > 0:
        limit = hparams.gradient_clipping_by_global_norm
        gradients, norm = tf.clip_by_global_norm(gradients, limit)
        tf.summary.scalar("gradient_norm", norm)
    return gradients, variables


def _batch_statistics() -> Tuple[List[tf.Variable], List[tf.Tensor]]:
    """Moving means and variances, and what this replica's batch is to subtract from each."""
    statistics = list(dict.fromkeys(tf.get_collection(network_utils.MOVED_STATISTICS)))
    changes = tf.get_collection(network_utils.STATISTICS_CHANGES)[-len(statistics) :]
    return statistics, changes


def variables_to_train(pattern: Optional[str]) -> List[tf.Variable]:
    """The trainable variables whose names a regular expression finds; without one, all.

    The others stay in the collection: they are decayed in the loss that is shown, and averaged.
    """
    variables = tf.trainable_variables()
    if pattern is None:
        return variables
    found = [v for v in variables if re.search(pattern, replication.name(v))]
    if not found:
        raise UserError(
            f"--trainable_variables={pattern} matches none of the {len(variables)} variables that "
            f"can be trained: their names are like {variables[0].op.name} and "
            f"{variables[-1].op.name}."
        )
    scopes = ", ".join(dict.fromkeys(v.op.name.split("/")[0] for v in found))
    tf.logging.info("Training %d of %d variables, in %s.", len(found), len(variables), scopes)
    return found


def build_optimizer(hparams: HParams, learning_rate) -> tf.train.Optimizer:
    """'sgd', 'momentum' or 'rmsprop'; raises ValueError for another."""
    if hparams.optimizer == "sgd":
        return tf.train.GradientDescentOptimizer(learning_rate)
    if hparams.optimizer == "momentum":
        return tf.train.MomentumOptimizer(learning_rate, hparams.momentum_rate)
    if hparams.optimizer == "rmsprop":
        return tf.train.RMSPropOptimizer(
            learning_rate,
            decay=hparams.rmsprop_decay,
            momentum=hparams.rmsprop_momentum_rate,
            epsilon=hparams.rmsprop_epsilon,
        )
    raise ValueError(f"Unknown optimizer {hparams.optimizer!r}: not sgd, momentum or rmsprop.")


# Moving averages ---------------------------------------------------------------------------------


def averaged_variables() -> List[tf.Variable]:
    """The variables that have a moving average: trainable ones and batch-norm statistics."""
    return tf.trainable_variables() + tf.get_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES)


def create_moving_averages(variables: Sequence[tf.Variable]) -> _Averages:
    """(average, variable) for each variable; averages start from their variable's initial value.

    They have the names of tf.train.ExponentialMovingAverage, with a third of its operations, since
    they do not start from a conditional on whether their variable was initialised.
    """
    return [
        (
            tf.get_variable(
                average_name(replication.name(variable)),
                initializer=variable.initial_value,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            ),
            variable,
        )
        for variable in variables
    ]


def average_weight(decay: float, num_updates: tf.Variable) -> tf.Tensor:
    """Fraction (1 - decay) by which an average approaches its variable in one step.

    As in tf.train.ExponentialMovingAverage decay is at most (1 + num_updates) / (10 + num_updates).
    """
    step = tf.cast(num_updates, tf.float32)
    return 1.0 - tf.minimum(decay, (1.0 + step) / (10.0 + step))


def move_average(average, variable, weight) -> tf.Operation:
    """Moves an average by one step: average -= weight * (average - variable)."""
    return average.assign_sub(weight * (average - variable), read_value=False)
