"""AmoebaNet from hyper-parameters: the network, its loss and its learning rate."""

import math
from typing import Dict, Optional, Tuple

import numpy as np

import model_specs
import network_utils
from common.distribution import replication
from common.hparams import HParams
from common.runtime import slim, tf

AUX_LOSS_WEIGHT = 0.4

# Goyal et al. 2017 (arXiv 1706.02677): a tenth after epochs 30, 60 and 80 of 90.
_STEPWISE_BOUNDARIES = (1 / 3, 2 / 3, 8 / 9)

# The rate never falls below this part of its initial value.
_MIN_LEARNING_RATE = 1e-4


def build_network(
    inputs: tf.Tensor,
    num_classes: Optional[int],
    is_training: bool = True,
    hparams: HParams = None,
) -> Tuple[Optional[tf.Tensor], Dict[str, tf.Tensor]]:
    """Adds the network to the graph.

    Args:
        inputs: [batch, image_size, image_size, 3], float32, as preprocessed: in [-1, 1].
        num_classes: outputs, the background class 0 included; None for features only, without
            the layer that makes logits of them.
        is_training: with batch statistics, drop path, dropout and the auxiliary head.
        hparams: see `amoeba_net_model.default_hparams`.

    Returns:
        Logits [batch, num_classes], and the end points: one for each cell, 'feature_maps' (what
        'global_pool' averages), 'global_pool' [batch, features], 'logits', 'predictions'
        (probabilities) and, in training, 'aux_logits'.
    """
    end_points = {}
    logits = None
    data_format = hparams.data_format
    net = inputs if data_format == "NHWC" else tf.transpose(inputs, [0, 3, 1, 2])
    with slim.arg_scope(_layer_settings(is_training, hparams)):
        net = end_points["stem"] = _build_stem(net, hparams)
        net = _build_cells(net, num_classes, is_training, hparams, end_points)
        with tf.variable_scope("final_layer"):
            end_points["feature_maps"] = net = network_utils.relu(net)
            net = network_utils.global_avg_pool(net)
            end_points["global_pool"] = net = tf.identity(net, "global_pool")
            if num_classes is not None:
                if is_training and hparams.dense_dropout_keep_prob < 1.0:
                    net = tf.nn.dropout(net, rate=1.0 - hparams.dense_dropout_keep_prob)
                logits = network_utils.fully_connected(net, num_classes)
    if logits is not None:
        end_points["logits"] = logits
        end_points["predictions"] = tf.nn.softmax(logits, name="predictions")
    return logits, end_points


def classifier_weights() -> tf.Variable:
    """The weights [features, classes] that the network in the graph makes logits with."""
    with tf.variable_scope("final_layer/FC", reuse=True):
        return tf.get_variable("weights")


def _layer_settings(is_training: bool, hparams: HParams):
    """The arg_scope of all layers."""
    layers = [
        network_utils.conv2d,
        network_utils.separable_conv2d,
        network_utils.batch_norm,
        network_utils.pool2d,
        network_utils.global_avg_pool,
        network_utils.factorized_reduction,
    ]
    with slim.arg_scope(layers, data_format=hparams.data_format), slim.arg_scope(
        [network_utils.drop_path], is_training=is_training
    ), slim.arg_scope(
        [network_utils.batch_norm],
        is_training=is_training and not hparams.freeze_batch_norm,
        trainable=hparams.trainable_variables,
        decay=hparams.batch_norm_decay,
        epsilon=hparams.batch_norm_epsilon,
    ) as scope:
        return scope


def _build_stem(net, hparams):
    """The first convolution."""
    imagenet = hparams.stem_type == "imagenet"
    with tf.variable_scope("stem"):
        net = network_utils.conv2d(
            net,
            hparams.stem_reduction_size,
            (3, 3),
            "conv0",
            stride=(2, 2) if imagenet else (1, 1),
            padding="VALID",
        )
        return network_utils.batch_norm(net, "conv0_bn")


def _build_cells(net, num_classes, is_training, hparams, end_points):
    """Stem cells, normal cells and reduction cells; the auxiliary head in training."""
    normal_cell, reduction_cell = _cells(hparams, is_training)
    reduction_layers = _reduction_layers(hparams)
    aux_cell = _aux_cell(hparams) if is_training and hparams.use_aux_head else None
    previous, position = None, 0

    def add(cell, name, filter_scaling, stride):
        nonlocal net, previous, position
        net, previous = (
            cell(
                net,
                scope=name,
                filter_scaling=filter_scaling,
                stride=stride,
                prev_layer=previous,
                cell_num=position,
            ),
            net,
        )
        position += 1
        end_points[name] = net

    num_stem_cells = _num_stem_cells(hparams)
    for i in range(num_stem_cells):
        add(reduction_cell, f"cell_stem_{i}", 0.5 ** (num_stem_cells - i), stride=2)
    filter_scaling = 1.0
    for i in range(hparams.num_cells):
        if i in reduction_layers:
            filter_scaling *= 2
            name = f"reduction_cell_{reduction_layers.index(i)}"
            add(reduction_cell, name, filter_scaling, stride=2)
        add(normal_cell, f"cell_{i}", filter_scaling, stride=1)
        if i == aux_cell:
            with tf.variable_scope(f"aux_{i}"):
                end_points["aux_logits"] = _build_aux_head(net, num_classes, hparams)
    return net


def _cells(hparams: HParams, is_training: bool):
    """The network's normal and reduction cell."""

    def cell(spec):
        operations, hiddenstate_indices, used_hiddenstates = spec
        return network_utils.BaseCell(
            hparams.reduction_size,
            operations,
            used_hiddenstates,
            hiddenstate_indices,
            hparams.drop_connect_keep_prob if is_training else 1.0,
            total_num_cells=(
                hparams.num_cells + hparams.num_reduction_layers + _num_stem_cells(hparams)
            ),
            drop_path_burn_in_steps=_drop_path_burn_in_steps(hparams),
            drop_connect_version=hparams.drop_connect_version,
            data_format=hparams.data_format,
        )

    return (
        cell(model_specs.get_normal_cell(hparams.cell_name)),
        cell(model_specs.get_reduction_cell(hparams.cell_name)),
    )


def _drop_path_burn_in_steps(hparams: HParams) -> int:
    """Those of the flag, or the original's: of all images, whole batches or not."""
    if hparams.drop_connect_burn_in_steps is not None:
        return hparams.drop_connect_burn_in_steps
    return max(1, int(hparams.num_train_images / hparams.train_batch_size * hparams.num_epochs))


def _num_stem_cells(hparams: HParams) -> int:
    return hparams.num_stem_cells if hparams.stem_type == "imagenet" else 0


def _reduction_layers(hparams: HParams):
    return network_utils.calc_reduction_layers(hparams.num_cells, hparams.num_reduction_layers)


def _aux_cell(hparams: HParams) -> Optional[int]:
    """Index of the normal cell after which the auxiliary head stands."""
    layers = _reduction_layers(hparams)
    return layers[1] - 1 if len(layers) >= 2 else None


def _build_aux_head(net, num_classes, hparams) -> tf.Tensor:
    """The auxiliary classifier: [batch, num_classes] logits from an inner layer."""
    scaling = hparams.aux_scaling
    with tf.variable_scope("aux_logits"):
        net = network_utils.pool2d(network_utils.relu(net), "avg", 5, stride=3, padding="VALID")
        net = network_utils.conv2d(net, int(128 * scaling), (1, 1), "proj")
        net = network_utils.relu(network_utils.batch_norm(net, "aux_bn0"))
        spatial = [1, 2] if hparams.data_format == "NHWC" else [2, 3]
        size = [net.shape[axis].value for axis in spatial]
        net = network_utils.conv2d(net, int(768 * scaling), size, "Conv", padding="VALID")
        net = network_utils.relu(network_utils.batch_norm(net, "aux_bn1"))
        return network_utils.fully_connected(tf.squeeze(net, spatial), num_classes)


def smallest_image_size(hparams: HParams, is_training: bool) -> int:
    """The smallest image the network takes, in pixels.

    Every reduction must find at least 2 pixels to reduce, and the auxiliary head's average pool
    5 x 5 of them: below that the network would be another one, or none.
    """
    reductions = _num_stem_cells(hparams) + hparams.num_reduction_layers
    reductions_before_aux = reductions - hparams.num_reduction_layers + 1
    aux_head = is_training and hparams.use_aux_head and _aux_cell(hparams) is not None

    def fits(size):
        width = (size - 3) // (2 if hparams.stem_type == "imagenet" else 1) + 1
        for i in range(1, reductions + 1):
            if width < 2:
                return False
            width = -(-width // 2)
            if aux_head and i == reductions_before_aux and width < 5:
                return False
        return True

    return next(size for size in range(3, 1 << 20) if fits(size))


def count_multiply_adds(graph: tf.Graph) -> int:
    """Multiplications of all convolutions and matrix products of a graph, for its batch size."""
    total = 0
    for op in graph.get_operations():
        if op.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            kernel = op.inputs[1].shape.as_list()
            inputs_each = kernel[:2] if op.type.startswith("Depthwise") else kernel[:-1]
            total += op.outputs[0].shape.num_elements() * int(np.prod(inputs_each))
    return total


# Loss --------------------------------------------------------------------------------------------


def build_softmax_loss(
    logits: tf.Tensor,
    end_points: Dict[str, tf.Tensor],
    labels: tf.Tensor,
    label_smoothing: float = 0.1,
    add_summary: bool = True,
) -> tf.Tensor:
    """Mean cross-entropy of the logits, plus 0.4 times that of the auxiliary logits if there.

    Args:
        logits: [batch, classes].
        end_points: those of `build_network`.
        labels: [batch] class indices or [batch, classes] one-hot vectors.
        label_smoothing: the part of the probability that is spread evenly over all classes.
        add_summary: whether to write each part to TensorBoard.
    """
    if labels.shape.ndims == 1:
        labels = tf.one_hot(labels, logits.shape[1].value)
    loss = _cross_entropy(labels, logits, 1.0, label_smoothing, "softmax_loss", add_summary)
    if "aux_logits" in end_points:
        loss += _cross_entropy(
            labels,
            end_points["aux_logits"],
            AUX_LOSS_WEIGHT,
            label_smoothing,
            "aux_loss",
            add_summary,
        )
    return loss


def _add_scalar_summary(tag: str, value: tf.Tensor):
    """`tf.summary.scalar`, which would call it '<tag>_1' where an operation has that name."""
    if not replication.is_first():
        return
    summary = tf.raw_ops.ScalarSummary(tags=tag, values=value, name=f"{tag}_summary")
    tf.add_to_collection(tf.GraphKeys.SUMMARIES, summary)


def _cross_entropy(labels, logits, weight, label_smoothing, name, add_summary) -> tf.Tensor:
    with tf.name_scope(name):
        loss = tf.losses.softmax_cross_entropy(
            labels, logits, weights=weight, label_smoothing=label_smoothing, scope="value"
        )
    if add_summary:
        _add_scalar_summary(name, loss)
    return loss


def build_regularization_loss(weight_decay: float) -> tf.Tensor:
    """`weight_decay` * sum(w^2) / 2 over all convolutions' and fully connected layers' weights."""
    weights = tf.get_collection(tf.GraphKeys.WEIGHTS)
    with tf.name_scope("regularization"):
        loss = weight_decay * tf.add_n([tf.nn.l2_loss(w) for w in weights])
    tf.losses.add_loss(loss, tf.GraphKeys.REGULARIZATION_LOSSES)
    return loss


# Schedule ----------------------------------------------------------------------------------------


def num_train_steps(hparams: HParams) -> int:
    """Global step at which training ends: int(epochs * ceil(images / batch))."""
    return int(hparams.num_epochs * math.ceil(hparams.num_train_images / hparams.train_batch_size))


def build_learning_rate(
    initial_lr: float,
    lr_decay_method: str,
    global_step: tf.Tensor,
    total_steps: Optional[float] = None,
    decay_steps: Optional[float] = None,
    decay_factor: Optional[float] = None,
    add_summary: bool = True,
    warmup_steps: int = 0,
) -> tf.Tensor:
    """The learning rate at `global_step`, a float32 scalar.

    Args:
        initial_lr: the rate before any decay.
        lr_decay_method: 'exponential' multiplies by `decay_factor` every `decay_steps`, after a
            linear warm-up from 0 over `warmup_steps`; 'cosine' falls to 0 over `total_steps`;
            'stepwise' divides by 10 after 1/3, 2/3 and 8/9 of `total_steps` (Goyal et al. 2017);
            'constant' stays.
        global_step: integer scalar.
        add_summary: whether to write the rate to TensorBoard.

    Returns:
        At least 0.0001 * `initial_lr`.
    """
    step = tf.cast(global_step, tf.float32)
    if lr_decay_method == "exponential":
        lr = tf.train.exponential_decay(
            initial_lr, global_step, decay_steps, decay_factor, staircase=True
        )
        if warmup_steps > 0:
            lr = tf.where(step < warmup_steps, initial_lr * step / float(warmup_steps), lr)
    elif lr_decay_method == "cosine":
        part = tf.minimum(step / float(total_steps), 1.0)
        lr = 0.5 * initial_lr * (1.0 + tf.cos(math.pi * part))
    elif lr_decay_method == "stepwise":
        boundaries = [int(part * total_steps) for part in _STEPWISE_BOUNDARIES]
        values = [initial_lr * 0.1**i for i in range(len(boundaries) + 1)]
        lr = tf.train.piecewise_constant(tf.cast(global_step, tf.int64), boundaries, values)
    elif lr_decay_method == "constant":
        lr = tf.constant(initial_lr, tf.float32)
    else:
        raise ValueError(
            f"Unknown lr_decay_method {lr_decay_method!r}: expected exponential, cosine, stepwise "
            "or constant."
        )
    lr = tf.maximum(lr, _MIN_LEARNING_RATE * initial_lr, name="learning_rate")
    if add_summary:
        _add_scalar_summary("learning_rate", lr)
    return lr
