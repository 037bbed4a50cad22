"""AmoebaNet as an Estimator's model: hyper-parameters, loss, optimizer, averages, metrics."""

from typing import Callable, Dict, Optional, Tuple

import activation_maps
import model_builder
import network_utils
from common import results
from common.checkpoints import reading, selection, warm_start
from common.checkpoints.reading import average_name
from common.devices.cpu import Cpu
from common.devices.device import Device
from common.distribution import replication, stalls
from common.hooks import nonfinite
from common.hooks.saving import LoadEMAHook  # noqa: F401 (the original's name)
from common.hooks.speed import SessionTimingHook  # noqa: F401 (the original's name)
from common.hparams import HParams
from common.runtime import slim, tf
from imagenet_input import (  # noqa: F401
    PADDING_LABEL,
    InputPipeline,
    num_eval_batches,
    num_evaluated_images,
    share_of_evaluation,
)
from train_step import averaged_variables, train_step

# Hyper-parameters, and flags, that decide on names and shapes of a network's variables, but for
# those of its classifiers.
ARCHITECTURE = ("cell_name", "num_cells", "reduction_size", "stem_reduction_size", "aux_scaling")

# The hyper-parameters and their defaults, which are those of the flags of the same names.
_DEFAULTS = {
    # Data.
    "image_size": 224,
    "num_label_classes": 1001,  # Class 0 is the background.
    "num_train_images": 1281167,
    "num_eval_images": 50000,
    "train_batch_size": 64,
    "eval_batch_size": 64,
    "eval_drop_remainder": False,
    "synthetic_data": False,
    "random_seed": None,
    "deterministic_input": False,
    "on_bad_record": "fail",  # Or 'skip'.
    "max_bad_fraction": 0.001,
    "on_nan": "stop",  # Or 'skip'.
    # Training preprocessing; without `augment` it is evaluation's.
    "augment": True,
    "use_fast_color_distort": True,
    "cb_distortion_range": 0.1,
    "cr_distortion_range": 0.1,
    # Architecture.
    "cell_name": "amoeba_net_d",
    "num_cells": 6,  # Normal cells of all stacks together.
    "reduction_size": 256,  # Filters of the first stack; each reduction doubles them.
    "stem_reduction_size": 32,
    "stem_type": "imagenet",
    "num_stem_cells": 2,
    "num_reduction_layers": 2,
    "data_format": "NHWC",
    # Auxiliary head.
    "use_aux_head": True,
    "aux_scaling": 0.4,
    # Regularisation.
    "weight_decay": 4e-5,
    "label_smoothing": 0.1,
    "drop_connect_keep_prob": 1.0,
    "drop_connect_version": "v1",
    "drop_connect_burn_in_steps": None,  # Steps to full strength (v1, v3); None: `num_epochs`.
    "dense_dropout_keep_prob": 0.5,
    "batch_norm_decay": 0.9,
    "batch_norm_epsilon": 1e-5,
    "gradient_clipping_by_global_norm": 0.0,  # Off at 0 and below.
    # Schedule.
    "num_epochs": 35.0,
    "lr": 2.56,
    "lr_decay_method": "exponential",
    "lr_decay_value": 0.88,
    "lr_num_epochs_per_decay": 1.0,
    "lr_warmup_epochs": 0.35,
    # Optimizer.
    "optimizer": "sgd",
    "momentum_rate": 0.9,
    "rmsprop_decay": 0.9,
    "rmsprop_momentum_rate": 0.9,
    "rmsprop_epsilon": 1.0,
    "moving_average_decay": 0.9999,  # Off at 0.
    # Transfer learning.
    "init_checkpoint": None,  # Checkpoint or model directory to start a new training from.
    "init_exclude": None,  # Regular expression: variables not to take.
    "init_averages": True,  # Take moving averages, and raw weights where there are none.
    "trainable_variables": None,  # Regular expression; None: all.
    "freeze_batch_norm": False,  # Batch statistics neither used nor moved in training.
}

# Where the original's `build_hparams` differs from the program's defaults.
_FULL_SIZE = {
    "image_size": 299,
    "train_batch_size": 32,
    "eval_batch_size": 40,
    "num_cells": 18,
    "drop_connect_keep_prob": 0.7,
    "batch_norm_decay": 0.9997,
    "batch_norm_epsilon": 0.001,
    "gradient_clipping_by_global_norm": 10.0,
    "num_epochs": 100.0,
    "lr": 0.015,
    "lr_decay_value": 0.97,
    "lr_num_epochs_per_decay": 2.4,
    "lr_warmup_epochs": 3.0,
    "optimizer": "rmsprop",
}


def default_hparams() -> HParams:
    """All hyper-parameters with the program's defaults, which are those of its flags."""
    return HParams(**_DEFAULTS)


def build_hparams(cell_name: str = "amoeba_net_d") -> HParams:
    """The hyper-parameters of the TPU original's full-size ImageNet training."""
    hparams = default_hparams()
    for name, value in _FULL_SIZE.items():
        hparams.set_hparam(name, value)
    hparams.cell_name = cell_name
    return hparams


# Variables of a training that are not the network's: of dynamic loss scaling on the NPU and on the
# GPU, and of the optimizers.
_LOSS_SCALE_VARIABLES = ("loss_scale", "good_steps", "bad_steps", "current_loss_scale")
_SLOTS = ("Momentum", "RMSProp", "RMSProp_1")


class AmoebaNetEstimatorModel:
    """The model function and what it shares between modes.

    Args:
        hparams: see `default_hparams`.
        model_dir: where checkpoints are; a resumed training is checked against the latest.
        device: the device to train on; None for TensorFlow's own.
        explains: whether predictions have `activation_maps.explanation` as well.
        watch_evaluation: makes a hook for each evaluation from its images, labels and end points.

    Attributes:
        start_step: the global step training goes on from; see `Device.graph_seed`.
    """

    def __init__(
        self,
        hparams: HParams,
        model_dir: str,
        device: Optional[Device] = None,
        explains: bool = False,
        watch_evaluation: Optional[Callable[..., tf.train.SessionRunHook]] = None,
    ):
        self.hparams = hparams
        self.model_dir = model_dir
        self.device = device or Cpu()
        self.explains = explains
        self.watch_evaluation = watch_evaluation
        self.start_step = 0

    def model_fn(self, features, labels, mode, params=None) -> tf.estimator.EstimatorSpec:
        """Builds the graph of one mode.

        Args:
            features: float32 images [batch, image_size, image_size, 3].
            labels: int32 classes [batch]; in evaluation `PADDING_LABEL` marks images that only
                fill up the last batch and weigh nothing. None in prediction.
            mode: a `tf.estimator.ModeKeys`.
            params: unused; hyper-parameters come from the constructor.
        """
        # Resource variables: a read after an update sees the update. The graph optimisers do not
        # keep that order for the older kind, and averages came out one step behind now and then.
        # The step moves the batch statistics (train_step.py), not operations in UPDATE_OPS.
        with tf.variable_scope(tf.get_variable_scope(), use_resource=True), slim.arg_scope(
            [network_utils.batch_norm], updates_collection=None
        ):
            return self._spec(features, labels, mode)

    def _spec(self, features, labels, mode) -> tf.estimator.EstimatorSpec:
        is_training = mode == tf.estimator.ModeKeys.TRAIN
        seed = self.device.graph_seed(self.hparams.random_seed, self.start_step)
        if is_training and seed is not None:
            tf.set_random_seed(seed)
        layers = [
            network_utils.conv2d,
            network_utils.separable_conv2d,
            network_utils.factorized_reduction,
        ]
        with slim.arg_scope(
            layers,
            pointwise_matmul=is_training and self.device.trains_pointwise_as_matmul,
        ):
            logits, end_points = model_builder.build_network(
                features, self.hparams.num_label_classes, is_training, self.hparams
            )
        if is_training:
            tf.add_to_collection(stalls.IMAGES, labels)
            return self._train_spec(logits, end_points, labels)
        predictions = {
            "classes": tf.argmax(logits, axis=1),
            "probabilities": end_points["predictions"],
            "logits": logits,
        }
        if mode == tf.estimator.ModeKeys.PREDICT:
            if self.explains:
                predictions.update(activation_maps.explanation(end_points, self.hparams))
            return tf.estimator.EstimatorSpec(
                mode, predictions=predictions, scaffold=self._averages_scaffold()
            )
        watch = self.watch_evaluation
        return tf.estimator.EstimatorSpec(
            mode,
            predictions=predictions,
            evaluation_hooks=[watch(features, labels, end_points)] if watch else None,
            loss=eval_loss(self.hparams, logits, labels),
            eval_metric_ops=accuracies(logits, labels),
            scaffold=self._averages_scaffold(),
        )

    # Training ------------------------------------------------------------------------------------

    def _train_spec(self, logits, end_points, labels):
        self._check_latest_checkpoint()
        start = self._warm_start()
        hparams = self.hparams
        global_step = tf.train.get_or_create_global_step()
        loss = model_builder.build_softmax_loss(logits, end_points, labels, hparams.label_smoothing)
        regularization_loss = model_builder.build_regularization_loss(hparams.weight_decay)
        tf.summary.scalar("regularization_loss", regularization_loss)
        total_loss = tf.add(loss, regularization_loss, name="total_loss")
        train_op = train_step(
            total_loss, self.learning_rate(global_step), global_step, hparams, self.device
        )
        skips = hparams.on_nan == "skip"
        shown_loss = nonfinite.inf_for_nan(total_loss) if skips else total_loss
        self._check_latest_checkpoint()  # Again: now with the optimizer's variables.
        return tf.estimator.EstimatorSpec(
            tf.estimator.ModeKeys.TRAIN,
            loss=shown_loss,
            train_op=train_op,
            scaffold=_training_scaffold(start and start()),
        )

    def _warm_start(self) -> Optional[Callable]:
        """What makes the scaffold's init_fn; None if training starts, or goes on, by itself.

        Called before the long part of graph building, since the checkpoint may not fit; what it
        returns is called after it, when there are moving averages, which start from the same.
        """
        hparams = self.hparams
        if not hparams.init_checkpoint or (self.model_dir and selection.latest(self.model_dir)):
            return None
        path = selection.resolve(hparams.init_checkpoint, "--init_checkpoint")
        choice = warm_start.plan(
            path,
            averaged_variables(),
            hparams.init_exclude,
            hparams.init_averages,
            advice=lambda: _architecture_advice(path, hparams),
        )

        def make_init_fn():
            sources = dict(choice.taken)
            sources.update((average_name(name), source) for name, source in choice.taken.items())
            variables = {v: sources.get(replication.name(v)) for v in tf.global_variables()}
            return warm_start.init_fn(path, {v: name for v, name in variables.items() if name})

        return make_init_fn

    def _check_latest_checkpoint(self):
        """Stops at another architecture's checkpoint, before the long part of graph building."""
        latest = self.model_dir and selection.latest(self.model_dir)
        if latest:
            variables = {replication.name(v): v for v in tf.global_variables()}
            reading.check_restorable(latest, variables, _flag_of)

    def learning_rate(self, global_step) -> tf.Tensor:
        """The scheduled learning rate at a step."""
        hparams = self.hparams
        # The schedule counts whole batches only, the training loop every started one.
        steps_per_epoch = max(1, hparams.num_train_images // hparams.train_batch_size)
        return model_builder.build_learning_rate(
            hparams.lr,
            hparams.lr_decay_method,
            global_step,
            total_steps=hparams.num_epochs * steps_per_epoch,
            decay_steps=hparams.lr_num_epochs_per_decay * steps_per_epoch,
            decay_factor=hparams.lr_decay_value,
            warmup_steps=int(hparams.lr_warmup_epochs * steps_per_epoch),
        )

    # Evaluation and prediction -------------------------------------------------------------------

    def _averages_scaffold(self) -> tf.train.Scaffold:
        """Restores the moving averages of whichever checkpoint the Estimator is given."""
        names = {v.op.name: v for v in tf.global_variables()}
        if self.hparams.moving_average_decay > 0:
            for variable in averaged_variables():
                names[average_name(variable.op.name)] = names.pop(variable.op.name)
        return tf.train.Scaffold(saver=reading.CheckedSaver(names))


def _architecture_advice(path: str, hparams: HParams) -> str:
    """Which flags make a checkpoint's network, as its results.json knows if it is there."""
    theirs = results.hparams_of(path)
    flags = [
        f"--{name}={theirs[name]}"
        for name in ARCHITECTURE
        if name in theirs and theirs[name] != getattr(hparams, name)
    ]
    if flags:
        return f"It was trained with {' '.join(flags)}: use that here."
    names = ", ".join(f"--{name}" for name in ARCHITECTURE)
    return f"Use the flags it was trained with ({names}), or name what differs in --init_exclude."


def _flag_of(name: str) -> Optional[str]:
    """The flag that decides whether a training's graph has this variable, if there is one."""
    if name in _LOSS_SCALE_VARIABLES:
        return "--loss_scale"
    if name.endswith(average_name("")):
        return "--moving_average_decay"
    if name.split("/")[-1] in _SLOTS:
        return "--optimizer or --trainable_variables"
    return None


def _training_scaffold(init_fn: Optional[Callable] = None) -> tf.train.Scaffold:
    """The default scaffold without its checks for uninitialised variables.

    The initialiser sets all of them and a restore fails unless it does: the two checks would find
    nothing, with two operations a variable.
    """
    nothing = tf.constant([], tf.string, name="uninitialized_variables")
    if tf.distribute.has_strategy():  # There the Estimator takes the other check from no model.
        return tf.train.Scaffold(init_fn=init_fn, ready_op=nothing)
    return tf.train.Scaffold(init_fn=init_fn, ready_op=nothing, ready_for_local_init_op=nothing)


def _weights(labels) -> tf.Tensor:
    """1 for an image, 0 for padding: float32 [batch]."""
    return tf.cast(tf.not_equal(labels, PADDING_LABEL), tf.float32)


def legal(labels) -> tf.Tensor:
    """The labels, with class 0 for padding: a device may not compute with one below 0."""
    return tf.maximum(labels, 0)


def eval_loss(hparams: HParams, logits, labels) -> tf.Tensor:
    """Cross-entropy, scaled so that its mean over batches is the mean over images.

    The Estimator averages the losses of batches, of which the last may hold fewer images.
    """
    losses = tf.losses.softmax_cross_entropy(
        tf.one_hot(legal(labels), hparams.num_label_classes),
        logits,
        label_smoothing=hparams.label_smoothing,
        reduction=tf.losses.Reduction.NONE,
    )
    images_per_batch = num_evaluated_images(hparams) / num_eval_batches(hparams)
    return tf.reduce_sum(losses * _weights(labels)) / images_per_batch


def mean_loss(loss: float, hparams: HParams, num_images: int) -> Tuple[float, int]:
    """(mean loss, number of images) of an evaluation that may have left out bad records.

    Args:
        loss: of the evaluation, which divided by the number of images that `hparams` say.
        hparams: of the evaluation.
        num_images: that came; 0 if nobody counted.
    """
    wanted = num_evaluated_images(hparams)
    if not 0 < num_images < wanted:
        return loss, wanted
    tf.logging.warning("Only %d of %d images could be evaluated.", num_images, wanted)
    return loss * wanted / num_images, num_images


def is_in_top_k(logits, labels, k: int) -> tf.Tensor:
    """Whether the label is among the k largest logits: bool [batch]."""
    if k == 1:  # The answer's; among equal logits that is the first, for larger k the label's.
        return tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), legal(labels))
    return tf.nn.in_top_k(logits, legal(labels), min(k, logits.shape[1].value))


def accuracies(logits, labels) -> Dict[str, tuple]:
    """Streaming means over images of whether the label is among the 1 or 5 largest logits."""
    metrics = {}
    for k in (1, 5):
        hits = is_in_top_k(logits, labels, k)
        metrics[f"top_{k}_accuracy"] = tf.metrics.mean(
            tf.cast(hits, tf.float32), weights=_weights(labels)
        )
    return metrics
