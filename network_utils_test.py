"""Layers, operations and cells."""

import numpy as np
import pytest

import model_specs
import network_utils
from common.runtime import slim, tf

_FORMATS = ("NHWC", "NCHW")

pytestmark = pytest.mark.usefixtures("graph")


@pytest.fixture
def nchw_on_cpu(monkeypatch):
    """Lets the CPU, which has NHWC kernels only, run NCHW graphs."""

    def wrap(name, window_arguments):
        original = getattr(tf.nn, name)

        def wrapped(net, *args, data_format="NHWC", **kwargs):
            if data_format == "NHWC":
                return original(net, *args, data_format=data_format, **kwargs)
            args = [
                [a[0], a[2], a[3], a[1]] if i in window_arguments else a for i, a in enumerate(args)
            ]
            outputs = original(tf.transpose(net, [0, 2, 3, 1]), *args, data_format="NHWC", **kwargs)
            if isinstance(outputs, tf.Tensor):
                return tf.transpose(outputs, [0, 3, 1, 2])
            return (tf.transpose(outputs[0], [0, 3, 1, 2]), *outputs[1:])

        monkeypatch.setattr(tf.nn, name, wrapped)

    wrap("conv2d", [1])
    wrap("depthwise_conv2d_native", [1])
    wrap("max_pool2d", [0, 1])
    wrap("avg_pool2d", [0, 1])
    wrap("fused_batch_norm", [])


def _images(*shape):
    return np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)


def _run(*fetches):
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = session.run(fetches)
    return values[0] if len(values) == 1 else values


def _variables():
    return {v.op.name: v.shape.as_list() for v in tf.global_variables()}


def test_calc_reduction_layers():
    assert network_utils.calc_reduction_layers(18, 2) == [6, 12]
    assert network_utils.calc_reduction_layers(6, 2) == [2, 4]
    assert network_utils.calc_reduction_layers(3, 2) == [1, 2]
    assert network_utils.calc_reduction_layers(8, 3) == [2, 4, 6]


def test_channels():
    assert network_utils.get_channel_index("NHWC") == 3
    assert network_utils.get_channel_index("NCHW") == 1
    assert network_utils.get_channel_dim([8, 10, 20, 30], "NHWC") == 30
    assert network_utils.get_channel_dim(tf.TensorShape([8, 10, 20, 30]), "NCHW") == 10
    with pytest.raises(ValueError, match="expected 'NHWC' or 'NCHW'"):
        network_utils.get_channel_index("HWCN")
    with pytest.raises(ValueError, match="4 dimensions"):
        network_utils.get_channel_dim([1, 2], "NHWC")


def test_global_avg_pool():
    images = _images(5, 10, 20, 3)
    expected = images.mean(axis=(1, 2))
    np.testing.assert_allclose(
        _run(network_utils.global_avg_pool(tf.constant(images))), expected, rtol=1e-5, atol=1e-6
    )
    nchw = tf.constant(images.transpose([0, 3, 1, 2]))
    np.testing.assert_allclose(
        _run(network_utils.global_avg_pool(nchw, "NCHW")), expected, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="4 dimensions"):
        network_utils.global_avg_pool(tf.zeros([2, 3]))


def test_conv2d_has_weights_only_and_fan_out_initialisation():
    net = network_utils.conv2d(tf.zeros([1, 9, 9, 64]), 128, (3, 1), "conv", stride=(2, 1))
    assert net.shape.as_list() == [1, 5, 9, 128]
    assert _variables() == {"conv/weights": [3, 1, 64, 128]}
    weights = tf.get_collection(tf.GraphKeys.WEIGHTS)
    assert [w.op.name for w in weights] == ["conv/weights"]
    values = _run(*weights)
    assert values.std() == pytest.approx(np.sqrt(2.0 / (3 * 1 * 128)), rel=0.02)
    # A normal distribution cut off at two standard deviations (of what it was before).
    assert abs(values).max() < 2.0 / 0.879 * np.sqrt(2.0 / (3 * 128)) * 1.001


def test_dilated_conv2d_sees_distant_pixels_and_can_stride():
    image = np.zeros([1, 11, 11, 1], np.float32)
    image[0, 5, 5] = 1
    dilated = network_utils.conv2d(tf.constant(image), 1, (3, 3), "dilated", rate=4)
    strided = network_utils.conv2d(tf.constant(image), 1, (3, 3), "strided", stride=(2, 2), rate=2)
    gradient = tf.gradients(strided, tf.trainable_variables()[1])[0]
    values, strided_values, _ = _run(dilated, strided, gradient)
    assert {tuple(p) for p in np.argwhere(values[0, :, :, 0])} == {
        (y, x) for y in (1, 5, 9) for x in (1, 5, 9)
    }
    assert strided_values.shape == (1, 6, 6, 1)


def test_separable_conv2d_is_depthwise_then_pointwise():
    images = _images(2, 7, 7, 3)
    net = network_utils.separable_conv2d(tf.constant(images), 5, 3, "sep", stride=2)
    assert _variables() == {
        "sep/depthwise_weights": [3, 3, 3, 1],
        "sep/pointwise_weights": [1, 1, 3, 5],
    }
    assert len(tf.get_collection(tf.GraphKeys.WEIGHTS)) == 2
    depthwise, pointwise = tf.trainable_variables()
    expected = tf.nn.separable_conv2d(
        tf.constant(images), depthwise, pointwise, [1, 2, 2, 1], "SAME"
    )
    got, wanted = _run(net, expected)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_batch_norm_training_and_inference():
    images = _images(4, 5, 5, 2) * 3 + 1
    net = network_utils.batch_norm(tf.constant(images), "bn", decay=0.9, epsilon=1e-3)
    assert list(_variables()) == ["bn/beta", "bn/gamma", "bn/moving_mean", "bn/moving_variance"]
    assert [v.op.name for v in tf.get_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES)] == [
        "bn/moving_mean",
        "bn/moving_variance",
    ]
    assert len(tf.trainable_variables()) == 2
    with tf.variable_scope("", reuse=True):
        inference = network_utils.batch_norm(
            tf.constant(images), "bn", epsilon=1e-3, is_training=False
        )
    mean, variance = images.mean(axis=(0, 1, 2)), images.var(axis=(0, 1, 2))
    count = images[..., 0].size
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        got = session.run(net)
        np.testing.assert_allclose(got, (images - mean) / np.sqrt(variance + 1e-3), atol=1e-4)
        session.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
        moving_mean, moving_variance = session.run(
            tf.get_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES)
        )
        np.testing.assert_allclose(moving_mean, 0.1 * mean, rtol=1e-4)
        unbiased = variance * count / (count - 1)
        np.testing.assert_allclose(moving_variance, 0.9 + 0.1 * unbiased, rtol=1e-4)
        expected = (images - moving_mean) / np.sqrt(moving_variance + 1e-3)
        np.testing.assert_allclose(session.run(inference), expected, atol=1e-4)


@pytest.mark.parametrize(
    "trainable, frozen", [("^bn/gamma", False), ("bn/beta", False), ("bn_2", True)]
)
def test_batch_norm_that_is_not_trained_is_that_of_inference(trainable, frozen):
    images = tf.constant(_images(4, 5, 5, 2) * 3 + 1)
    net = network_utils.batch_norm(images, "bn", trainable=trainable)
    with tf.variable_scope("", reuse=True):
        inference = network_utils.batch_norm(images, "bn", is_training=False)
    got, at_inference = _run(net, inference)
    assert np.array_equal(got, at_inference) == frozen
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == (0 if frozen else 2)
    assert len(tf.get_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES)) == 2


def test_fully_connected():
    net = network_utils.fully_connected(tf.ones([2, 4]), 3)
    assert _variables() == {"FC/weights": [4, 3], "FC/biases": [3]}
    weights, biases = tf.trainable_variables()
    got, w, b = _run(net, weights, biases)
    np.testing.assert_allclose(got[0], w.sum(axis=0), rtol=1e-5, atol=1e-6)
    assert not b.any()
    assert [v.op.name for v in tf.get_collection(tf.GraphKeys.WEIGHTS)] == ["FC/weights"]


@pytest.mark.parametrize("kind, corner", [("avg", 2.5), ("max", 4.0), ("min", 1.0)])
def test_pool2d(kind, corner):
    image = tf.constant([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [9.0, 9.0, 9.0]])[None, :, :, None]
    pooled = _run(network_utils.pool2d(image, kind, 3))
    assert pooled.shape == (1, 3, 3, 1)
    # SAME: only pixels of the image count, so that the corner has four.
    assert pooled[0, 0, 0, 0] == corner


def test_factorized_reduction_without_stride():
    net = network_utils.factorized_reduction(tf.ones([5, 10, 20, 10]), 16, stride=1)
    assert net.shape.as_list() == [5, 10, 20, 16]
    assert _variables()["path_conv/weights"] == [1, 1, 10, 16]
    assert "path_bn/gamma" in _variables()


@pytest.mark.parametrize("pointwise_matmul", [False, True])
@pytest.mark.parametrize("filters", [16, 15])
@pytest.mark.parametrize("size", [10, 9])
def test_factorized_reduction_takes_even_and_odd_pixels(size, filters, pointwise_matmul):
    rows, columns = np.mgrid[:size, :size]
    image = np.stack([rows, columns, np.ones_like(rows)], axis=-1)[None].astype(np.float32)
    inputs = tf.constant(image)
    net = network_utils.factorized_reduction(
        inputs, filters, stride=2, pointwise_matmul=pointwise_matmul
    )
    half = -(-size // 2)
    assert net.shape.as_list() == [1, half, half, filters]
    assert _variables()["path1_conv/weights"] == [1, 1, 3, filters // 2]
    assert _variables()["path2_conv/weights"] == [1, 1, 3, filters - filters // 2]
    assert "final_path_bn/gamma" in _variables()
    operations = tf.get_default_graph().get_operations()
    convolved = next(op.outputs[0] for op in operations if op.type == "ConcatV2")
    path1, path2, values, gradient = _run(
        *tf.get_collection(tf.GraphKeys.WEIGHTS), convolved, tf.gradients(convolved, inputs)[0]
    )
    even = image[:, ::2, ::2]
    odd = np.zeros_like(even)  # Beyond the far edge there are zeros.
    odd[:, : size // 2, : size // 2] = image[:, 1::2, 1::2]
    expected = np.concatenate([even @ path1[0, 0], odd @ path2[0, 0]], axis=-1)
    np.testing.assert_allclose(values, expected, atol=1e-4)
    expected = np.zeros_like(image)
    expected[:, ::2, ::2] = path1[0, 0].sum(axis=1)
    expected[:, 1::2, 1::2] = path2[0, 0].sum(axis=1)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_layers_share_the_relu_of_what_they_read():
    net = tf.random_normal([2, 3])
    first = network_utils.relu(net)
    other = network_utils.relu(tf.identity(net))
    assert network_utils.relu(net) is first and other is not first
    values, rectified = _run(net, first)
    np.testing.assert_array_equal(rectified, np.maximum(values, 0))


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    net = tf.ones([4000, 3, 2, 2])
    dropped = _run(network_utils.drop_path(net, 0.6))
    per_example = dropped.reshape([4000, -1])
    assert (per_example == per_example[:, :1]).all()
    assert np.unique(per_example) == pytest.approx([0.0, 1 / 0.6])
    # The kept part of 4,000 is binomial with a standard deviation of 0.0077.
    assert (per_example[:, 0] > 0).mean() == pytest.approx(0.6, abs=0.04)
    assert dropped.mean() == pytest.approx(1.0, abs=0.065)


def test_drop_path_does_nothing_outside_training_or_at_one():
    net = tf.ones([4, 3, 2, 2])
    assert network_utils.drop_path(net, 0.6, is_training=False) is net
    assert network_utils.drop_path(net, 1.0) is net
    assert (_run(network_utils.drop_path(net, tf.constant(1.0))) == 1).all()


def test_epsilon_is_the_same_with_all_releases(graph):
    network_utils.batch_norm(tf.zeros([2, 4, 4, 3]), "bn", epsilon=0.0)
    (norm,) = [op for op in graph.get_operations() if op.type.startswith("FusedBatchNorm")]
    assert norm.get_attr("epsilon") == pytest.approx(1.001e-5)


# The cell ----------------------------------------------------------------------------------------


def _cell(name="amoeba_net_d", kind="normal", filters=8, **kwargs):
    get = {"normal": model_specs.get_normal_cell, "reduction": model_specs.get_reduction_cell}[kind]
    operations, indices, used = get(name)
    arguments = dict(
        drop_path_keep_prob=1.0, total_num_cells=10, drop_path_burn_in_steps=100, **kwargs
    )
    return network_utils.BaseCell(filters, operations, used, indices, **arguments)


def _cell_of(operation, filters=8, **kwargs):
    """A cell of which the first combination is `operation` and identity, the rest identities."""
    operations = [operation] + ["none"] * 9
    arguments = dict(
        drop_path_keep_prob=1.0, total_num_cells=4, drop_path_burn_in_steps=100, **kwargs
    )
    return network_utils.BaseCell(
        filters, operations, [1, 1, 1, 1, 1, 1, 0], [0, 0, 2, 2, 2, 2, 2, 2, 2, 2], **arguments
    )


@pytest.mark.parametrize("name", model_specs.CELL_NAMES)
@pytest.mark.parametrize("kind, stride", [("normal", 1), ("reduction", 2)])
def test_every_cell_builds_in_both_formats(name, kind, stride):
    assert model_specs.get_normal_cell(name) != model_specs.get_reduction_cell(name)
    concatenated = _cell(name, kind)._used_hiddenstates.count(0)
    for data_format in _FORMATS:
        shape = [2, 16, 16, 12] if data_format == "NHWC" else [2, 12, 16, 16]
        cell = _cell(name, kind, data_format=data_format)
        net = cell(tf.ones(shape), data_format, 1.0, stride, tf.ones(shape), 0)
        out = [2, 16 // stride, 16 // stride]
        out.insert(3 if data_format == "NHWC" else 1, 8 * concatenated)
        assert net.shape.as_list() == out
    shapes = {f: {n[5:]: s for n, s in _variables().items() if n.startswith(f)} for f in _FORMATS}
    assert shapes["NHWC"] == shapes["NCHW"]


@pytest.mark.parametrize("name, kind", [("amoeba_net_d", "reduction"), ("amoeba_net_a", "normal")])
def test_formats_give_the_same_numbers(nchw_on_cpu, name, kind):
    images, previous = _images(2, 8, 8, 6), _images(2, 16, 16, 6)
    stride = 2 if kind == "reduction" else 1
    with tf.variable_scope("network"):
        nhwc = _cell(name, kind)(tf.constant(images), "cell", 1.0, stride, tf.constant(previous), 0)
    with tf.variable_scope("network", reuse=True):
        transposed = [tf.constant(x.transpose([0, 3, 1, 2])) for x in (images, previous)]
        nchw = _cell(name, kind, data_format="NCHW")(
            transposed[0], "cell", 1.0, stride, transposed[1], 0
        )
    a, b = _run(nhwc, nchw)
    np.testing.assert_allclose(a, b.transpose([0, 2, 3, 1]), atol=1e-4)
    assert a.std() > 0.1


def test_previous_layer():
    def build(scope, previous):
        _cell()(tf.ones([1, 8, 8, 8]), scope, 1.0, 1, previous, 0)
        return {n for n in _variables() if n.startswith(f"{scope}/p") or "/final_path" in n}

    assert build("absent", None) == set()
    assert build("same", tf.ones([1, 8, 8, 8])) == set()
    assert "channels/prev_1x1/weights" in build("channels", tf.ones([1, 8, 8, 5]))
    wider = build("wider", tf.ones([1, 16, 16, 5]))
    assert {"wider/path1_conv/weights", "wider/path2_conv/weights"} <= wider


@pytest.mark.parametrize(
    "operation, filters, expected",
    [
        ("separable_5x5_2", 8, ["separable_5x5_1", "bn_sep_5x5_1", "separable_5x5_2"]),
        ("dil_2_separable_5x5_2", 8, ["separable_5x5_1", "bn_sep_5x5_1", "separable_5x5_2"]),
        ("3x3", 8, ["pre_1x1", "pre_bn", "3x3", "bn", "post_1x1", "post_bn"]),
        ("3x3", 3, ["3x3", "bn"]),
        ("1x7_7x1", 8, ["pre_1x1", "1x7", "bn_1x7_7x1", "7x1", "bn", "post_1x1"]),
        ("1x3_3x1", 8, ["pre_1x1", "1x3", "bn_1x3_3x1", "3x1", "bn", "post_1x1"]),
        ("dilated_3x3_rate_4", 8, ["pre_1x1", "dilated_3x3", "bn", "post_1x1"]),
        ("1x1", 8, ["1x1", "bn_1"]),
        ("avg_pool_3x3", 8, []),
        ("min_pool_2x2", 8, []),
    ],
)
def test_operations(operation, filters, expected):
    _cell_of(operation, filters)(tf.ones([2, 8, 8, 8]), "cell", 1.0, 1, None, 0)
    prefix = "cell/comb_iter_0/left/"
    layers = {n[len(prefix) :].split("/")[0] for n in _variables() if n.startswith(prefix)}
    assert layers >= set(expected)
    assert bool(layers) == bool(expected)
    _run(tf.get_default_graph().get_tensor_by_name("cell/comb_iter_4/combine:0"))


def test_bottlenecks_are_a_quarter_and_three_eighths_wide():
    _cell_of("1x7_7x1", 16)(tf.ones([2, 8, 8, 8]), "quarter", 1.0, 1, None, 0)
    _cell_of("1x3_3x1", 16)(tf.ones([2, 8, 8, 8]), "eighths", 1.0, 1, None, 0)
    shapes = _variables()
    assert shapes["quarter/comb_iter_0/left/1x7/weights"] == [1, 7, 4, 4]
    assert shapes["eighths/comb_iter_0/left/3x1/weights"] == [3, 1, 6, 6]


@pytest.mark.parametrize("operation", ["max_pool_2x2", "none", "3x3", "dilated_3x3_rate_2"])
def test_strided_operations_halve_the_first_two_states(operation):
    operations = [operation] * 2 + ["none"] * 8
    cell = network_utils.BaseCell(
        8, operations, [1, 1, 1, 1, 1, 1, 0], [0, 1, 2, 2, 2, 2, 2, 2, 2, 2], 1.0, 4, 100
    )
    net = cell(tf.ones([2, 8, 8, 8]), "cell", 1.0, 2, None, 0)
    assert net.shape.as_list() == [2, 4, 4, 8]


def test_unknown_operation_and_version():
    with pytest.raises(ValueError, match="Unknown operation 'conv_9x9'"):
        _cell_of("conv_9x9")(tf.ones([2, 8, 8, 8]), "cell", 1.0, 1, None, 0)
    with pytest.raises(ValueError, match="v4"):
        _cell(drop_connect_version="v4")


@pytest.mark.parametrize(
    "version, burn_in, step, expected",
    [
        ("v1", 100, 0, 1.0),  # Grows with time...
        ("v1", 100, 50, 0.8),
        ("v1", 100, 500, 0.6),
        ("v2", 100, 0, 1 - 0.4 * 3 / 10),  # ... with depth: the third of ten cells ...
        ("v2", 100, 500, 1 - 0.4 * 3 / 10),
        ("v3", 100, 50, 1 - 0.4 * 0.5 * 3 / 10),  # ... or with both.
        ("v1", 0, 0, 0.6),  # Without burn-in it has its full strength at once.
        ("v3", 0, 0, 1 - 0.4 * 3 / 10),
    ],
)
def test_drop_path_versions(monkeypatch, version, burn_in, step, expected):
    """The probability that reaches drop path, for keep_prob 0.6."""
    seen = []
    monkeypatch.setattr(
        network_utils, "drop_path", lambda net, keep_prob: seen.append(keep_prob) or net
    )
    global_step = tf.train.create_global_step()
    cell = _cell(drop_connect_version=version)
    cell._drop_path_keep_prob, cell._drop_path_burn_in_steps = 0.6, burn_in
    cell(tf.ones([2, 8, 8, 8]), "cell", 1.0, 1, None, cell_num=2)
    # Each operation but the three identities of a normal AmoebaNet-D cell.
    assert len(seen) == sum(name != "none" for name in cell._operations)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(global_step.assign(step))
        values = [session.run(tf.convert_to_tensor(k, tf.float32)) for k in seen]
    assert values == pytest.approx([expected] * len(seen))


def test_drop_path_is_off_outside_training():
    with slim.arg_scope([network_utils.batch_norm, network_utils.drop_path], is_training=False):
        cell = _cell()
        cell._drop_path_keep_prob = 0.5
        tf.train.create_global_step()
        cell(tf.ones([2, 8, 8, 8]), "cell", 1.0, 1, None, 0)
    assert not [op for op in tf.get_default_graph().get_operations() if op.type == "RandomUniform"]


@pytest.mark.parametrize("stride, size", [(1, 5), (2, 5), (2, 6)])
@pytest.mark.parametrize("separable", [False, True])
def test_pointwise_convolution_as_matrix_product(graph, separable, stride, size):
    """It has the same variables, outputs and gradients as the convolution."""
    images = tf.random_normal([2, size, size, 3], seed=1)

    def layer(**options):
        with tf.variable_scope("layer", reuse=tf.AUTO_REUSE):
            if separable:
                return network_utils.separable_conv2d(images, 4, 3, "conv", stride, **options)
            return network_utils.conv2d(
                images, 4, (1, 1), "conv", stride=(stride, stride), padding="VALID", **options
            )

    outputs = [layer(), layer(pointwise_matmul=True)]
    kinds = [output.op.type for output in outputs]
    assert kinds == ["Conv2D", "Reshape"]
    sources = [images, *tf.trainable_variables()]
    assert len(sources) == (3 if separable else 2)
    gradients = [tf.gradients(tf.square(output), sources) for output in outputs]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        expected, got = session.run([[o, *g] for o, g in zip(outputs, gradients)])
    for a, b in zip(expected, got):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
