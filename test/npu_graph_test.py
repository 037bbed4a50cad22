"""Graphs of training and evaluation on the NPU's stand-in: what they hold, what a step moves."""

import numpy as np
import pytest
from npu_programs import BATCH, hparams, with_small_network
from npu_stand_in.installed import installed

import amoeba_net_model
from common.devices import choosing, gpu
from common.devices.cpu import CpuSession
from common.devices.options import Options
from common.runtime import tf
from imagenet_input import PADDING_LABEL


def _build(device, mode, settings, directory):
    """The spec of one mode's graph, as the device's estimator builds it; images, labels."""
    model = amoeba_net_model.AmoebaNetEstimatorModel(settings, str(directory), device)
    estimator = device.estimator(model.model_fn, str(directory), save_checkpoints_steps=10)
    tf.train.create_global_step()
    size = settings.image_size
    images = tf.placeholder(tf.float32, [BATCH, size, size, 3], "images")
    labels = tf.placeholder(tf.int32, [BATCH], "labels")
    return estimator.model_fn(images, labels, mode, estimator.config), images, labels


def _needed(fetches):
    """All operations a session runs for these fetches."""
    found, stack = set(), [f.op if isinstance(f, tf.Tensor) else f for f in fetches]
    while stack:
        op = stack.pop()
        if op not in found:
            found.add(op)
            stack.extend([tensor.op for tensor in op.inputs] + op.control_inputs)
    return found


@pytest.fixture(scope="module")
def stepping(tmp_path_factory):
    """Runs steps of one training graph and looks at all variables; rmsprop has the most of them."""
    settings = hparams(optimizer="rmsprop", lr=0.01, lr_warmup_epochs=0.0)
    with installed("current") as calls, tf.Graph().as_default(), tf.Session() as session:
        device = choosing.choose("npu")
        yield _Stepping(session, device, settings, tmp_path_factory.mktemp("model"), calls)


_needs_the_adapters_release = pytest.mark.skipif(
    not tf.__version__.startswith("1."),
    reason="npu_bridge needs TensorFlow 1.15; this release makes other operations of the network",
)


class _Stepping:
    def __init__(self, session, device, settings, directory, calls):
        self.calls = calls
        self.session = session
        self.spec, self._images, self._labels = _build(device, "train", settings, directory)
        self.ops = _needed([self.spec.train_op, self.spec.loss])
        session.run(tf.global_variables_initializer())
        size = settings.image_size
        self._pixels = np.random.RandomState(1).uniform(-1, 1, (BATCH, size, size, 3))

    def step(self, overflow=False):
        pixels = np.full_like(self._pixels, np.inf) if overflow else self._pixels
        feed = {self._images: pixels, self._labels: [1, 2, 3, 4]}
        self.session.run(self.spec.train_op, feed)

    def variables(self):
        return self.session.run({v.op.name: v for v in tf.global_variables()})


def _moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


_LOSS_SCALE = {"loss_scale", "good_steps", "bad_steps"}


@_needs_the_adapters_release
@pytest.mark.xdist_group("npu_graph")
def test_training_graph_is_what_the_npu_takes(stepping):
    assert not _dynamic(stepping.ops)
    graph = tf.get_default_graph()
    types = {op.type for op in graph.get_operations()}
    # What TensorFlow makes of float32 with the older horizon; in float16 it is FusedBatchNormV2.
    assert "FusedBatchNorm" in types and "FusedBatchNormV3" not in types
    assert not [
        op.name for op in graph.get_operations() if any(t.dtype == tf.float64 for t in op.outputs)
    ]
    gates = [arguments for name, arguments in stepping.calls if name == "compute_gradients"]
    assert gates == [{"gate_gradients": tf.train.Optimizer.GATE_OP}]


def _dynamic(ops):
    """Names of operations with an output of unknown shape.

    The axes of a gradient's sum are left out: with static shapes they are constants.
    """
    return [
        op.name
        for op in ops
        if op.type != "BroadcastGradientArgs"
        and not all(tensor.shape.is_fully_defined() for tensor in op.outputs)
    ]


@pytest.mark.xdist_group("npu_graph")
def test_overflow_moves_nothing_but_the_loss_scale(stepping):
    start = stepping.variables()
    stepping.step()
    before = stepping.variables()
    assert before["global_step"] == start["global_step"] + 1 and before["loss_scale"] == 2.0**32
    stepping.step(overflow=True)
    assert _moved(before, stepping.variables()) <= _LOSS_SCALE
    stepping.step(overflow=True)
    after = stepping.variables()
    assert _moved(before, after) <= _LOSS_SCALE and after["loss_scale"] == 2.0**31
    stepping.step()
    trained = stepping.variables()
    assert trained["global_step"] == start["global_step"] + 2
    assert all(np.all(np.isfinite(value)) for value in trained.values())
    still = {name.split("/", 1)[-1] for name in set(before) - _moved(after, trained)}
    # Whatever follows a ReLU that is never negative may have no gradient; statistics always move.
    assert not [name for name in still if "moving_" in name]
    assert "final_layer/FC/weights" in _moved(after, trained)


@pytest.mark.xdist_group("npu_graph")
def test_a_good_step_updates_statistics_and_averages(stepping):
    """As without skipping: averages follow the variables after the step."""
    before = stepping.variables()
    stepping.step()
    after = stepping.variables()
    step = after["global_step"]
    weight = 1 - min(0.9999, (1 + step) / (10 + step))
    suffix = "/ExponentialMovingAverage"
    averages = [name for name in after if name.endswith(suffix)]
    assert len(averages) > 100
    for name in averages:
        variable = after[name[: -len(suffix)]]
        expected = before[name] - weight * (before[name] - variable)
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


# What loss scaling has on each adapter, besides the network's and the optimizer's variables.
_SCALES = [
    ("older", "dynamic"),
    ("older", "128"),
    ("newer", "dynamic"),
    ("newer", "128"),
    ("tf26", "dynamic"),
    ("tf26", "128"),
]


@pytest.mark.parametrize("release, scale", _SCALES)
def test_float_status_alone_skips_a_step(release, scale, tmp_path, monkeypatch):
    """A device reports an overflow while its gradients are finite, since they saturate."""
    settings = hparams(optimizer="momentum", lr_warmup_epochs=0.0)
    with installed(release), tf.Graph().as_default(), tf.Session() as session:
        with with_small_network():
            device = choosing.choose("npu", Options(loss_scale=scale))
            stepping = _Stepping(session, device, settings, tmp_path, [])
        start = stepping.variables()
        stepping.step()
        before = stepping.variables()
        assert before["global_step"] == 1
        assert "FC/weights" in _moved(start, before)
        assert (before.keys() >= _LOSS_SCALE) == (scale == "dynamic")
        monkeypatch.setenv("NPU_STAND_IN_OVERFLOW", "0-")
        expected = [(2.0**32, 0, 1), (2.0**31, 0, 0), (2.0**31, 0, 1), (2.0**30, 0, 0)]
        for scale_and_counts in expected:
            stepping.step()
            after = stepping.variables()
            assert _moved(before, after) <= _LOSS_SCALE
            if scale == "dynamic":
                names = ("loss_scale", "good_steps", "bad_steps")
                assert tuple(after[name] for name in names) == scale_and_counts
        monkeypatch.delenv("NPU_STAND_IN_OVERFLOW")
        stepping.step()
        assert stepping.variables()["global_step"] == 2
        assert "FC/weights/Momentum" in _moved(before, stepping.variables())


def test_padding_does_not_reach_what_takes_classes_alone(tmp_path):
    """A device may not have a class below 0 in its operators, whatever the weight is."""
    with installed(), tf.Graph().as_default() as graph, with_small_network():
        spec, images, labels = _build(choosing.choose("npu"), "eval", hparams(), tmp_path)
        operations = {"OneHot": 0, "InTopKV2": 1, "Equal": 1}  # With the input of the labels.
        classes = [
            op.inputs[operations[op.type]] for op in graph.get_operations() if op.type in operations
        ]
        assert len(classes) == 3
        feed = {images: np.ones(images.shape), labels: [PADDING_LABEL, 3, PADDING_LABEL, 1]}
        with CpuSession() as session:
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            for values in session.run(classes, feed):
                assert list(values) == [0, 3, 0, 1]
            assert np.isfinite(session.run(spec.loss, feed))


@_needs_the_adapters_release
@pytest.mark.xdist_group("npu_graph")
def test_evaluation_graph_is_what_the_npu_takes(tmp_path):
    with installed(), tf.Graph().as_default() as graph:
        spec = _build(choosing.choose("npu"), "eval", hparams(), tmp_path)[0]
        fetches = [spec.loss, *(update for _, update in spec.eval_metric_ops.values())]
        ops = _needed(fetches + list(spec.predictions.values()))
        assert not _dynamic(ops)
        assert not [
            op for op in graph.get_operations() if any(t.dtype == tf.float64 for t in op.outputs)
        ]


@pytest.mark.xdist_group("npu_graph")
def test_training_the_classifier_and_one_layer_moves_only_them(tmp_path, monkeypatch):
    """Statistics of the layer that is trained move with it, those of the others do not."""
    layer = "cell_1/beginning_bn"
    settings = hparams(
        trainable_variables=f"^final_layer/|^{layer}", optimizer="momentum", lr_warmup_epochs=0.0
    )
    with installed(), tf.Graph().as_default(), tf.Session() as session:
        device = choosing.choose("npu")
        stepping = _Stepping(session, device, settings, tmp_path, [])
        before = stepping.variables()
        with monkeypatch.context() as overflow:
            overflow.setenv("NPU_STAND_IN_OVERFLOW", "0-")
            stepping.step()
        assert _moved(before, stepping.variables()) <= _LOSS_SCALE
        stepping.step()
        moved = _moved(before, stepping.variables()) - _LOSS_SCALE - {"global_step"}
    trained = {"final_layer/FC/weights", "final_layer/FC/biases"}
    trained |= {f"{layer}/{name}" for name in ("beta", "gamma")}
    followers = {f"{name}/Momentum" for name in trained}
    trained |= {f"{layer}/{name}" for name in ("moving_mean", "moving_variance")}
    followers |= {amoeba_net_model.average_name(name) for name in trained}
    assert moved == trained | followers


@pytest.mark.xdist_group("npu_gpu")
def test_overflow_with_tensorflows_mixed_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "is_there", lambda: True)
    monkeypatch.delenv("RANK_SIZE", raising=False)
    device = choosing.choose("gpu")
    try:
        with tf.Graph().as_default(), tf.Session() as session:
            stepping = _Stepping(session, device, hparams(lr_warmup_epochs=0.0), tmp_path, [])
            before = stepping.variables()
            stepping.step(overflow=True)
            assert _moved(before, stepping.variables()) <= {"current_loss_scale", "good_steps"}
            stepping.step()
            after = stepping.variables()
            assert after["global_step"] == 1 and "stem/conv0_bn/moving_mean" in _moved(
                before, after
            )
    finally:
        tf.train.experimental.disable_mixed_precision_graph_rewrite()
