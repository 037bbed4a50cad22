"""One AmoebaNet cell, the operations it is made of, and the layers those are made of.

Layers take their settings (`data_format`, `is_training`, batch normalisation's `decay` and
`epsilon`) as arguments; `model_builder` sets them for a whole network with an arg_scope.

Shapes are [batch, height, width, channels] or, in NCHW, [batch, channels, height, width].
"""

import re
from typing import List, Optional, Sequence

from common.distribution import replication
from common.runtime import slim, tf

NHWC = "NHWC"
NCHW = "NCHW"

# Collections of the batch statistics that training moves, and of what it subtracts from each.
MOVED_STATISTICS = "moved_statistics"
STATISTICS_CHANGES = "statistics_changes"
# Older releases take no less, since cuDNN does not; newer ones would compute otherwise.
_LEAST_EPSILON = 1.001e-5


def calc_reduction_layers(num_cells: int, num_reduction_layers: int) -> List[int]:
    """Indices of the normal cells before which a reduction cell stands: [6, 12] for (18, 2)."""
    return [
        int(float(k) / (num_reduction_layers + 1) * num_cells)
        for k in range(1, num_reduction_layers + 1)
    ]


def get_channel_index(data_format: str = NHWC) -> int:
    """Axis of the channels in a 4-D tensor."""
    _check_data_format(data_format)
    return 3 if data_format == NHWC else 1


def get_channel_dim(shape, data_format: str = NHWC) -> int:
    """Number of channels of a static 4-D shape."""
    if len(shape) != 4:
        raise ValueError(f"Expected a shape of 4 dimensions, got {shape}.")
    channels = shape[get_channel_index(data_format)]
    return channels.value if isinstance(channels, tf.Dimension) else int(channels)


def _check_data_format(data_format: str):
    if data_format not in (NHWC, NCHW):
        raise ValueError(f"data_format is {data_format!r}: expected {NHWC!r} or {NCHW!r}.")


def _width(net: tf.Tensor, data_format: str) -> int:
    return net.shape[2 if data_format == NHWC else 3].value


def _spatial(values: Sequence[int], data_format: str) -> List[int]:
    """[height, width] as a 4-element kernel or stride argument of `tf.nn`."""
    height, width = values
    return [1, height, width, 1] if data_format == NHWC else [1, 1, height, width]


# Layers ------------------------------------------------------------------------------------------


def _weights(name: str, shape: Sequence[int]) -> tf.Variable:
    """A convolution's or fully connected layer's weights.

    They go to the collection WEIGHTS, which `model_builder.build_regularization_loss` reads.
    """
    return tf.get_variable(
        name,
        shape,
        initializer=tf.variance_scaling_initializer(
            scale=2.0, mode="fan_out", distribution="truncated_normal"
        ),
        collections=[tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.WEIGHTS],
    )


@slim.add_arg_scope
def conv2d(
    net: tf.Tensor,
    filters: int,
    kernel_size: Sequence[int],
    scope: str,
    stride: Sequence[int] = (1, 1),
    rate: int = 1,
    padding: str = "SAME",
    data_format: str = NHWC,
    pointwise_matmul: bool = False,
) -> tf.Tensor:
    """Convolution without bias and activation; kernel and stride are (height, width).

    With `rate` > 1 the convolution is dilated and its stride is taken afterwards. With
    `pointwise_matmul` a 1x1 convolution in NHWC is computed as a matrix product.
    """
    with tf.variable_scope(scope):
        shape = [*kernel_size, get_channel_dim(net.shape, data_format), filters]
        weights = _weights("weights", shape)
        if pointwise_matmul and _is_pointwise(kernel_size, stride) and data_format == NHWC:
            if tuple(stride) == (2, 2):
                net = _every_second_pixel(net)
            return _pointwise_product(net, weights)
        if rate == 1:
            return tf.nn.conv2d(
                net, weights, _spatial(stride, data_format), padding, data_format=data_format
            )
        # tf.nn.convolution has a gradient for dilated kernels on every device; conv2d has not.
        net = tf.nn.convolution(
            net, weights, padding, dilation_rate=[rate, rate], data_format=data_format
        )
        if tuple(stride) == (1, 1):
            return net
        return tf.strided_slice(
            net, [0] * 4, tf.shape(net), _spatial(stride, data_format), name="subsample"
        )


def _is_pointwise(kernel_size: Sequence[int], stride: Sequence[int]) -> bool:
    return tuple(kernel_size) == (1, 1) and tuple(stride) in ((1, 1), (2, 2))


def _every_second_pixel(net: tf.Tensor, first: int = 0) -> tf.Tensor:
    """The pixels `first`, `first` + 2, ... of rows and columns in NHWC; zeros beyond the far edge.

    The result of a strided slice, without its gradient, which takes ten times as long on CPUs.
    """
    height, width, channels = net.shape.as_list()[1:]
    if height % 2 or width % 2:
        net = tf.pad(net, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]])
    half = [(height + 1) // 2, (width + 1) // 2]
    # Rows and pixels in pairs: what is kept of each pair is contiguous.
    net = tf.reshape(net, [-1, 2, half[1], 2 * channels])
    net = tf.slice(net, [0, first, 0, first * channels], [-1, 1, -1, channels])
    return tf.reshape(net, [-1, *half, channels])


def _pointwise_product(net: tf.Tensor, weights: tf.Variable) -> tf.Tensor:
    """A 1x1 convolution in NHWC as a matrix product, whose gradient is faster on CPUs."""
    channels, filters = weights.shape.as_list()[2:]
    product = tf.matmul(tf.reshape(net, [-1, channels]), tf.reshape(weights, [channels, filters]))
    return tf.reshape(product, [-1, *net.shape.as_list()[1:3], filters])


@slim.add_arg_scope
def separable_conv2d(
    net: tf.Tensor,
    filters: int,
    kernel_size: int,
    scope: str,
    stride: int = 1,
    data_format: str = NHWC,
    pointwise_matmul: bool = False,
) -> tf.Tensor:
    """Depthwise convolution (SAME) and 1x1 convolution to `filters`, nothing in between.

    With `pointwise_matmul` the latter is computed as a matrix product in NHWC.
    """
    with tf.variable_scope(scope):
        channels = get_channel_dim(net.shape, data_format)
        depthwise = _weights("depthwise_weights", [kernel_size, kernel_size, channels, 1])
        pointwise = _weights("pointwise_weights", [1, 1, channels, filters])
        net = tf.nn.depthwise_conv2d_native(
            net, depthwise, _spatial([stride, stride], data_format), "SAME", data_format=data_format
        )
        if pointwise_matmul and data_format == NHWC:
            return _pointwise_product(net, pointwise)
        return tf.nn.conv2d(net, pointwise, [1, 1, 1, 1], "VALID", data_format=data_format)


@slim.add_arg_scope
def batch_norm(
    inputs: tf.Tensor,
    scope: str = "BatchNorm",
    decay: float = 0.9997,
    epsilon: float = 0.001,
    is_training: bool = True,
    trainable: Optional[str] = None,
    data_format: str = NHWC,
    updates_collection: Optional[str] = tf.GraphKeys.UPDATE_OPS,
) -> tf.Tensor:
    """Fused batch normalisation with scale and offset over a 4-D tensor.

    In training the moving statistics go to the collection MOVED_STATISTICS, what is to be
    subtracted from them to STATISTICS_CHANGES, and, unless `updates_collection` is None, the
    operations that do so to `updates_collection`. The moving variance is fed the fused
    operation's variance, which is the unbiased (Bessel-corrected) one.

    A layer of which the regular expression `trainable` finds neither scale nor offset by name is
    computed as outside training: a layer that is not trained does not change.
    """
    channels = [get_channel_dim(inputs.shape, data_format)]
    with tf.variable_scope(scope):
        beta = tf.get_variable("beta", channels, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", channels, initializer=tf.ones_initializer())
        moving_mean = _moving_variable("moving_mean", channels, tf.zeros_initializer())
        moving_variance = _moving_variable("moving_variance", channels, tf.ones_initializer())
        if trainable is not None:
            names = (replication.name(beta), replication.name(gamma))
            is_training = is_training and any(re.search(trainable, name) for name in names)
        outputs, mean, variance = tf.nn.fused_batch_norm(
            inputs,
            gamma,
            beta,
            mean=None if is_training else moving_mean,
            variance=None if is_training else moving_variance,
            epsilon=max(epsilon, _LEAST_EPSILON),
            data_format=data_format,
            is_training=is_training,
        )
        if is_training:
            for moving, batch in ((moving_mean, mean), (moving_variance, variance)):
                change = (moving - batch) * (1.0 - decay)
                tf.add_to_collection(MOVED_STATISTICS, moving)
                tf.add_to_collection(STATISTICS_CHANGES, change)
                if updates_collection is not None:
                    update = moving.assign_sub(change, read_value=False)
                    tf.add_to_collection(updates_collection, update)
        return outputs


def _moving_variable(name: str, shape: Sequence[int], initializer) -> tf.Variable:
    return tf.get_variable(
        name,
        shape,
        initializer=initializer,
        trainable=False,
        collections=[tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.MOVING_AVERAGE_VARIABLES],
        # What replicas subtract is the same in all of them.
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def fully_connected(net: tf.Tensor, outputs: int, scope: str = "FC") -> tf.Tensor:
    """[batch, features] to [batch, outputs], with biases, without activation."""
    with tf.variable_scope(scope):
        weights = _weights("weights", [net.shape[1].value, outputs])
        biases = tf.get_variable("biases", [outputs], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(net, weights), biases)


def relu(net: tf.Tensor) -> tf.Tensor:
    """ReLU, once for all layers that read it: its gradient is slow on CPUs."""
    for consumer in net.consumers():
        if consumer.type == "Relu":
            return consumer.outputs[0]
    return tf.nn.relu(net)


@slim.add_arg_scope
def pool2d(
    net: tf.Tensor,
    kind: str,
    size: int,
    stride: int = 1,
    padding: str = "SAME",
    data_format: str = NHWC,
) -> tf.Tensor:
    """Average, maximum or minimum (`kind`: 'avg', 'max', 'min') over size x size windows."""
    window, strides = (_spatial([n, n], data_format) for n in (size, stride))
    if kind == "min":
        return -tf.nn.max_pool2d(-net, window, strides, padding, data_format=data_format)
    pool = {"avg": tf.nn.avg_pool2d, "max": tf.nn.max_pool2d}[kind]
    return pool(net, window, strides, padding, data_format=data_format)


@slim.add_arg_scope
def global_avg_pool(x: tf.Tensor, data_format: str = NHWC) -> tf.Tensor:
    """Mean over height and width: [batch, channels]."""
    _check_data_format(data_format)
    if x.shape.ndims != 4:
        raise ValueError(f"Expected a tensor of 4 dimensions, got shape {x.shape}.")
    return tf.reduce_mean(x, [1, 2] if data_format == NHWC else [2, 3])


@slim.add_arg_scope
def factorized_reduction(
    net: tf.Tensor,
    output_filters: int,
    stride: int,
    data_format: str = NHWC,
    pointwise_matmul: bool = False,
) -> tf.Tensor:
    """Changes the channels to `output_filters` and, with stride 2, halves height and width.

    With stride 2 one 1x1 convolution sees the even pixels and one the odd pixels (moved by one in
    both directions, zeros beyond the far edge); each makes half of the channels. If
    `output_filters` is odd the second makes one more.
    """
    if stride == 1:
        net = conv2d(net, output_filters, (1, 1), "path_conv")
        return batch_norm(net, "path_bn")
    half = output_filters // 2
    path1 = conv2d(net, half, (1, 1), "path1_conv", stride=(2, 2), padding="VALID")
    if pointwise_matmul and data_format == NHWC:
        odd, strides = _every_second_pixel(net, first=1), (1, 1)
    else:
        odd, strides = _shift_by_one(net, data_format), (2, 2)
    path2 = conv2d(
        odd, output_filters - half, (1, 1), "path2_conv", stride=strides, padding="VALID"
    )
    net = tf.concat([path1, path2], get_channel_index(data_format))
    return batch_norm(net, "final_path_bn")


def _shift_by_one(net: tf.Tensor, data_format: str) -> tf.Tensor:
    """Moves the image up and left by one pixel and fills the last row and column with zeros."""
    if data_format == NHWC:
        return tf.pad(net[:, 1:, 1:, :], [[0, 0], [0, 1], [0, 1], [0, 0]])
    return tf.pad(net[:, :, 1:, 1:], [[0, 0], [0, 0], [0, 1], [0, 1]])


@slim.add_arg_scope
def drop_path(net: tf.Tensor, keep_prob, is_training: bool = True) -> tf.Tensor:
    """Drops an example's whole branch with probability 1 - `keep_prob` (a number or a scalar).

    What is kept is divided by `keep_prob`, so that the expectation stays. Outside training, or
    with a `keep_prob` that is the number 1, nothing is done.
    """
    if not is_training or (not tf.is_tensor(keep_prob) and keep_prob >= 1.0):
        return net
    batch_size = net.shape[0].value or tf.shape(net)[0]
    kept = tf.floor(keep_prob + tf.random_uniform([batch_size, 1, 1, 1], dtype=net.dtype))
    return net * (kept / tf.cast(keep_prob, net.dtype))


# The cell ----------------------------------------------------------------------------------------

_SEPARABLE = re.compile(r"^(?:dil_\d_)?separable_(\d)x\1_(\d)$")
_POOL = re.compile(r"^(avg|max|min)_pool_(\d)x\2$")
_DILATED = re.compile(r"^dilated_3x3_rate_([246])$")


class BaseCell:
    """One cell of the network, added to the graph with each call.

    Args:
        num_conv_filters: filters of the network's first normal cell; a cell's own are
            F = int(num_conv_filters * filter_scaling).
        operations, used_hiddenstates, hiddenstate_indices: see `model_specs`.
        drop_path_keep_prob: probability at which a branch is kept at full strength, in (0, 1].
        total_num_cells: number of cells of the network, stem and reduction cells included.
        drop_path_burn_in_steps: training steps until drop path has its full strength in time; 0 for
            full strength from the first step on.
        drop_connect_version: 'v1' grows drop path with time, 'v2' with depth, 'v3' with both.
        data_format: 'NHWC' or 'NCHW'.
    """

    def __init__(
        self,
        num_conv_filters: int,
        operations: Sequence[str],
        used_hiddenstates: Sequence[int],
        hiddenstate_indices: Sequence[int],
        drop_path_keep_prob: float,
        total_num_cells: int,
        drop_path_burn_in_steps: int,
        drop_connect_version: str = "v1",
        data_format: str = NHWC,
    ):
        if drop_connect_version not in ("v1", "v2", "v3"):
            raise ValueError(f"drop_connect_version {drop_connect_version!r}: not v1, v2 or v3.")
        _check_data_format(data_format)
        self._num_conv_filters = num_conv_filters
        self._operations = operations
        self._used_hiddenstates = used_hiddenstates
        self._hiddenstate_indices = hiddenstate_indices
        self._drop_path_keep_prob = drop_path_keep_prob
        self._total_num_cells = total_num_cells
        self._drop_path_burn_in_steps = drop_path_burn_in_steps
        self._drop_connect_version = drop_connect_version
        self._data_format = data_format

    def __call__(
        self,
        net: tf.Tensor,
        scope: str,
        filter_scaling: float = 1.0,
        stride: int = 1,
        prev_layer: Optional[tf.Tensor] = None,
        cell_num: int = -1,
    ) -> tf.Tensor:
        """Adds the cell to the graph.

        Args:
            net: output of the layer below.
            scope: variable scope of the cell.
            filter_scaling: multiplies `num_conv_filters`.
            stride: 1, or 2 to halve height and width.
            prev_layer: output of the layer below `net`, None for the first cell.
            cell_num: 0-based position among all cells, for drop path by depth.

        Returns:
            The cell's output: F channels for each hidden state with a 0 in `used_hiddenstates`.
        """
        filters = int(self._num_conv_filters * filter_scaling)
        with tf.variable_scope(scope), self._layer_scope():
            keep_prob = self._keep_prob(cell_num)
            states = self._first_states(net, prev_layer, filters)
            for i in range(len(self._operations) // 2):
                with tf.variable_scope(f"comb_iter_{i}"):
                    branches = []
                    for side, position in (("left", 2 * i), ("right", 2 * i + 1)):
                        index = self._hiddenstate_indices[position]
                        with tf.variable_scope(side):
                            branches.append(
                                self._apply_operation(
                                    states[index],
                                    self._operations[position],
                                    filters,
                                    stride if index < 2 else 1,
                                    keep_prob,
                                )
                            )
                    states.append(tf.add(*branches, name="combine"))
            with tf.variable_scope("cell_output"):
                return self._concatenate(states)

    def _layer_scope(self):
        layers = [conv2d, separable_conv2d, batch_norm, pool2d, factorized_reduction]
        return slim.arg_scope(layers, data_format=self._data_format)

    def _channels(self, net: tf.Tensor) -> int:
        return get_channel_dim(net.shape, self._data_format)

    def _first_states(self, net, prev_layer, filters) -> List[tf.Tensor]:
        """Hidden states 0 and 1: the cell's input and the layer before it, at `filters` channels.

        With no layer before it, state 1 is the input as it came in.
        """
        if prev_layer is None:
            prev_layer = net
        elif _width(prev_layer, self._data_format) != _width(net, self._data_format):
            prev_layer = factorized_reduction(relu(prev_layer), filters, stride=2)
        elif self._channels(prev_layer) != filters:
            prev_layer = conv2d(relu(prev_layer), filters, (1, 1), "prev_1x1")
            prev_layer = batch_norm(prev_layer, "prev_bn")
        net = conv2d(relu(net), filters, (1, 1), "1x1")
        return [batch_norm(net, "beginning_bn"), prev_layer]

    def _apply_operation(self, net, operation, filters, stride, keep_prob) -> tf.Tensor:
        separable, pool = _SEPARABLE.match(operation), _POOL.match(operation)
        if separable:
            net = _stacked_separable_conv(net, filters, stride, *map(int, separable.groups()))
        elif pool:
            net = pool2d(net, pool.group(1), int(pool.group(2)), stride)
            if self._channels(net) != filters:
                net = batch_norm(conv2d(net, filters, (1, 1), "1x1"), "bn_1")
        elif operation in ("1x1", "none"):
            if operation == "1x1" or stride > 1 or self._channels(net) != filters:
                net = conv2d(relu(net), filters, (1, 1), "1x1", stride=(stride, stride))
                net = batch_norm(net, "bn_1")
        else:
            net = _bottleneck(net, operation, filters, stride)
        return net if operation == "none" else drop_path(net, keep_prob)

    def _concatenate(self, states: List[tf.Tensor]) -> tf.Tensor:
        """Concatenates the states with a 0 in `used_hiddenstates`, at the size of the last one."""
        last = states[-1]
        outputs = []
        for i, (state, used) in enumerate(zip(states, self._used_hiddenstates)):
            if used:
                continue
            same_width = _width(state, self._data_format) == _width(last, self._data_format)
            if not same_width or self._channels(state) != self._channels(last):
                with tf.variable_scope(f"reduction_{i}"):
                    stride = 1 if same_width else 2
                    state = factorized_reduction(state, self._channels(last), stride)
            outputs.append(state)
        return tf.concat(outputs, get_channel_index(self._data_format))

    def _keep_prob(self, cell_num: int):
        """Probability of keeping a branch of this cell now: a number, or a scalar tensor."""
        drop_prob = 1.0 - self._drop_path_keep_prob
        if drop_prob <= 0.0:
            return 1.0
        if self._drop_connect_version in ("v2", "v3"):
            drop_prob *= (cell_num + 1) / float(self._total_num_cells)
        if self._drop_connect_version in ("v1", "v3") and self._drop_path_burn_in_steps > 0:
            step = tf.cast(tf.train.get_or_create_global_step(), tf.float32)
            drop_prob *= tf.minimum(1.0, step / float(self._drop_path_burn_in_steps))
        return 1.0 - drop_prob


def _stacked_separable_conv(net, filters, stride, size, layers) -> tf.Tensor:
    for i in range(1, layers + 1):
        name = f"{size}x{size}_{i}"
        net = separable_conv2d(
            relu(net), filters, size, f"separable_{name}", stride=stride if i == 1 else 1
        )
        net = batch_norm(net, f"bn_sep_{name}")
    return net


def _bottleneck(net, operation, filters, stride) -> tf.Tensor:
    """A full convolution between 1x1 convolutions to fewer channels and back."""
    reduced = int(3 * filters / 8) if operation == "1x3_3x1" else int(filters / 4)
    net = relu(net)
    if reduced < 1:  # Too thin for a bottleneck.
        return batch_norm(_full_conv(net, operation, filters, stride), "bn")
    net = batch_norm(conv2d(net, reduced, (1, 1), "pre_1x1"), "pre_bn")
    net = _full_conv(relu(net), operation, reduced, stride)
    net = relu(batch_norm(net, "bn"))
    return batch_norm(conv2d(net, filters, (1, 1), "post_1x1"), "post_bn")


def _full_conv(net, operation, filters, stride) -> tf.Tensor:
    if operation in ("1x7_7x1", "1x3_3x1"):
        n = int(operation[2])
        net = conv2d(net, filters, (1, n), f"1x{n}", stride=(1, stride))
        net = relu(batch_norm(net, f"bn_{operation}"))
        return conv2d(net, filters, (n, 1), f"{n}x1", stride=(stride, 1))
    if operation == "3x3":
        return conv2d(net, filters, (3, 3), "3x3", stride=(stride, stride))
    dilated = _DILATED.match(operation)
    if dilated:
        rate = int(dilated.group(1))
        return conv2d(net, filters, (3, 3), "dilated_3x3", stride=(stride, stride), rate=rate)
    raise ValueError(f"Unknown operation {operation!r} in a cell.")
