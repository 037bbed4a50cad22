"""The network, its training and its schedule against figures of the original implementation.

In training mode, at these weights and four images, the network amplifies rounding: the original
itself gives other figures on another processor. Such figures have a `spread`: how far the
original's own six runs were apart. A single figure's may be small by chance, so that it is taken to
be at least the median of its kind. In evaluation mode nothing is amplified, so that the gradients
there are the sharp test of the backward pass.
"""

import json
import os
import zlib

import numpy as np
import pytest

import amoeba_net_model
import inception_preprocessing
import model_builder
from common.devices.cpu import Cpu
from common.runtime import tf

_GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
_TOLERANCE = 1e-4
_SPREADS = 6  # On a processor and with a library whose arithmetic the original never saw.


def _load(name):
    with open(os.path.join(_GOLDEN, name)) as f:
        return json.load(f)


def _weight(name, shape):
    """The value every variable of the golden runs was set to, by its name."""
    r = np.random.RandomState(zlib.crc32(name.encode("ascii"))).standard_normal(shape)
    kind = name.split("/")[-1]
    if kind == "depthwise_weights":
        return r * np.sqrt(1.0 / (shape[0] * shape[1]))
    if kind.endswith("weights"):
        return r * np.sqrt(1.0 / np.prod(shape[:-1]))
    if kind == "gamma":
        return 1.0 + 0.1 * r
    if kind == "moving_variance":
        return 1.0 + 0.1 * np.abs(r)
    return 0.1 * r


def _set_weights(session):
    assigns, values = [], {}
    for variable in tf.global_variables():
        name = variable.op.name
        if name != "global_step" and not name.endswith("/ExponentialMovingAverage"):
            assigns.append(variable.initializer)
            values[variable.initializer.inputs[1]] = _weight(name, variable.shape.as_list())
    session.run(assigns, values)


def _inputs(hparams):
    random = np.random.RandomState(0)
    size = hparams.image_size
    images = random.uniform(-1, 1, (4, size, size, 3)).astype(np.float32)
    return images, random.randint(1, hparams.num_label_classes, (4,)).astype(np.int32)


def _norms(values):
    return {name: np.linalg.norm(value) for name, value in values.items()}


def _assert_close(got, figures, name):
    """Compares one figure, a list or a dict of them, allowing for the figures' own spread."""
    wanted, spread = figures[name], figures["spread"].get(name)
    if isinstance(wanted, dict):
        assert set(got) == set(wanted)
        names = list(wanted)
        got, wanted, spread = (
            np.array([values[n] for n in names]) for values in (got, wanted, spread)
        )
        spread = np.maximum(spread, wanted * np.median(spread / np.maximum(wanted, 1e-9)))
    else:
        names = [name] * np.size(wanted)
    sharp = 0
    for n, *values in zip(names, *map(np.atleast_1d, (got, wanted, spread))):
        value, figure, distance = values
        tolerance = _TOLERANCE * abs(figure) + _SPREADS * distance
        assert value == pytest.approx(figure, rel=0, abs=tolerance), n
        sharp += not figure or tolerance < 0.5 * abs(figure)
    assert sharp >= 0.95 * len(names)  # A figure with a wider tolerance says little.


def _hparams(golden):
    hparams = amoeba_net_model.build_hparams(golden["cell_name"])
    for name, value in golden["hparams"].items():
        hparams.set_hparam(name, value)
    return hparams


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(name))
        for name in ("amoeba_net_a", "amoeba_net_d")
    ],
)
def golden(request):
    return _load(f"{request.param}.json")


class _CpuWithConvolutions(Cpu):
    trains_pointwise_as_matmul = False


@pytest.fixture(scope="module", params=[Cpu, _CpuWithConvolutions])
def training(golden, request):
    """What the golden runs recorded of training, measured with one graph of ours."""
    hparams = _hparams(golden)
    images, labels = _inputs(hparams)
    measured = {}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.get_or_create_global_step()
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None, request.param())
        spec = model.model_fn(tf.constant(images), tf.constant(labels), tf.estimator.ModeKeys.TRAIN)
        measured["variables"] = [
            [v.op.name, v.shape.as_list(), v in tf.trainable_variables()]
            for v in tf.global_variables()
        ]
        by_name = {v.op.name: v for v in tf.global_variables()}
        wanted = golden["train"]
        gradient_of = {
            op.inputs[0].op.name: op.inputs[2]
            for op in tf.get_default_graph().get_operations()
            if op.type == "ResourceApplyGradientDescent"
        }
        session.run(tf.global_variables_initializer())
        recorded = {name: by_name[name] for name in wanted["norms_after_5_steps"]}
        _set_weights(session)
        measured["first"] = session.run(
            {
                "losses": tf.losses.get_losses(),
                "regularization": tf.losses.get_regularization_loss(),
                "total": spec.loss,
                "global_norm": tf.global_norm(list(gradient_of.values())),
                "norms": {name: tf.norm(gradient_of[name]) for name in wanted["gradient_norms"]},
                "learning_rate": session.graph.get_tensor_by_name("learning_rate:0"),
            }
        )
        measured["steps"] = [session.run([spec.loss, spec.train_op])[0] for _ in range(5)]
        measured["norms"] = _norms(session.run(recorded))
    return measured


def test_variables_names_order_and_shapes(golden, training):
    def without_step(variables):
        return [v for v in variables if v[0] != "global_step"]

    assert without_step(training["variables"]) == without_step(golden["train_variables"])
    assert ["global_step", [], False] in training["variables"]


def test_losses_and_gradients(golden, training):
    wanted, got = golden["train"], training["first"]
    losses = wanted["losses"]
    assert got["losses"] == pytest.approx(
        [losses["softmax_loss/value"], losses["aux_loss/value"]], rel=_TOLERANCE
    )
    assert got["regularization"] == pytest.approx(wanted["regularization_loss"], rel=_TOLERANCE)
    _assert_close(got["total"], wanted, "total_loss")
    _assert_close(got["global_norm"], wanted, "gradient_global_norm")
    _assert_close(got["norms"], wanted, "gradient_norms")
    assert got["learning_rate"] == pytest.approx(golden["learning_rate_step0"], rel=_TOLERANCE)


def test_five_training_steps(golden, training):
    _assert_close(training["steps"], golden["train"], "loss_first_5_train_ops")
    # The averages began at initial weights that were random and are not recorded, which is within
    # these norms' spread.
    _assert_close(training["norms"], golden["train"], "norms_after_5_steps")


@pytest.fixture(scope="module")
def evaluation(golden):
    """Logits, loss and the loss's gradients in evaluation mode."""
    hparams = _hparams(golden)
    hparams.moving_average_decay = 0.0
    hparams.num_eval_images = 4
    images, labels = _inputs(hparams)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None)
        spec = model.model_fn(tf.constant(images), tf.constant(labels), tf.estimator.ModeKeys.EVAL)
        variables = tf.trainable_variables()
        # The auxiliary head and variables that nothing reads have none.
        gradients = {
            variable.op.name: gradient
            for variable, gradient in zip(variables, tf.gradients(spec.loss, variables))
            if gradient is not None
        }
        measured = {
            "num_variables": len(tf.global_variables()),
            "num_parameters": sum(v.shape.num_elements() for v in variables),
        }
        _set_weights(session)
        names = golden["evaluation_gradients"]["gradient_norms"]
        measured.update(
            session.run(
                {
                    "loss": spec.loss,
                    "logits": spec.predictions["logits"],
                    "pooled": graph.get_tensor_by_name("final_layer/global_pool:0"),
                    "gradient_global_norm": tf.global_norm(list(gradients.values())),
                    "gradient_norms": {name: tf.norm(gradients[name]) for name in names},
                }
            )
        )
    return measured


def test_evaluation(golden, training, evaluation):
    wanted, logits, pooled = golden["eval"], evaluation["logits"], evaluation["pooled"]
    assert evaluation["num_variables"] == golden["eval_variables_count"]
    assert evaluation["num_parameters"] == golden["params_without_aux"]
    trainable = [v for v in training["variables"] if v[2]]
    assert sum(int(np.prod(v[1])) for v in trainable) == golden["trainable_params_with_aux"]
    assert evaluation["loss"] == pytest.approx(wanted["loss"], rel=_TOLERANCE)
    np.testing.assert_allclose(logits[:, :8], wanted["logits_first8"], rtol=_TOLERANCE, atol=1e-4)
    assert np.linalg.norm(logits, axis=1) == pytest.approx(wanted["logits_l2"], rel=_TOLERANCE)
    assert logits.argmax(axis=1).tolist() == wanted["argmax"]
    assert pooled.shape[1] == wanted["global_pool_dim"]
    assert np.linalg.norm(pooled, axis=1) == pytest.approx(wanted["global_pool_l2"], rel=_TOLERANCE)


@pytest.mark.parametrize("name", ["loss", "gradient_global_norm", "gradient_norms"])
def test_gradients_in_evaluation_mode(golden, evaluation, name):
    _assert_close(evaluation[name], golden["evaluation_gradients"], name)


def test_learning_rate():
    for schedule in _load("learning_rate.json"):
        with tf.Graph().as_default(), tf.Session() as session:
            step = tf.placeholder(tf.int64, [])
            hparams = amoeba_net_model.build_hparams()
            for name in set(schedule) - {"steps", "learning_rate"}:
                hparams.set_hparam(name, schedule[name])
            model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None)
            rate = model.learning_rate(step)
            # Those that training reaches: behind its end the original's cosine rises again.
            steps = [s for s in schedule["steps"] if s < model_builder.num_train_steps(hparams)]
            got = [session.run(rate, {step: s}) for s in steps]
        expected = schedule["learning_rate"][: len(steps)]
        assert got == pytest.approx(expected, rel=_TOLERANCE), schedule


@pytest.mark.parametrize("as_float", [True, False])
def test_evaluation_preprocessing(as_float):
    for golden in _load("eval_preprocessing.json"):
        shape = (golden["image_height"], golden["image_width"], 3)
        image = np.random.RandomState(golden["image_seed"]).randint(0, 256, shape).astype(np.uint8)
        size = golden["output_size"]
        with tf.Graph().as_default(), tf.Session() as session:
            image = tf.constant(image)
            if as_float:
                image = tf.image.convert_image_dtype(image, tf.float32)
            got = session.run(
                inception_preprocessing.preprocess_image(
                    image, size, size, scaled_images=golden["scaled_images"]
                )
            )
        assert got.shape == (size, size, 3)
        assert got.mean() == pytest.approx(golden["mean"], rel=_TOLERANCE, abs=1e-6)
        assert got.std() == pytest.approx(golden["std"], rel=_TOLERANCE)
        for (y, x), pixel in golden["pixels"]:
            assert got[y, x] == pytest.approx(pixel, rel=_TOLERANCE, abs=1e-6)


# Parameters and multiply-adds of the published networks, inference mode, 1001 classes. Counted on
# the original's graph, but for the two with odd filter counts, which it cannot build: the paper
# (table 2) gives 86.7 and 155.3 million parameters for them.
@pytest.mark.parametrize(
    "cell, cells, filters, size, parameters, multiply_adds",
    [
        ("amoeba_net_d", 6, 256, 224, 46_099_177, 5_715_773_792),
        ("amoeba_net_a", 18, 448, 331, 468_158_353, 126_520_764_944),
        ("amoeba_net_b", 18, 192, 331, 80_646_777, 21_380_881_248),
        ("amoeba_net_d", 18, 208, 224, 81_140_766, 9_381_917_696),
        ("amoeba_net_d", 18, 256, 224, 121_915_113, 14_193_510_752),
        ("amoeba_net_a", 18, 190, 331, 86_721_838, None),
        ("amoeba_net_c", 18, 228, 331, 155_277_228, None),
    ],
)
def test_size_of_published_networks(cell, cells, filters, size, parameters, multiply_adds):
    hparams = amoeba_net_model.build_hparams(cell)
    hparams.num_cells, hparams.reduction_size = cells, filters
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [1, size, size, 3])
        model_builder.build_network(images, 1001, is_training=False, hparams=hparams)
        assert sum(v.shape.num_elements() for v in tf.trainable_variables()) == parameters
        if multiply_adds:
            assert model_builder.count_multiply_adds(graph) == multiply_adds
