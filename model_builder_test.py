"""Assembly, losses and schedules."""

import numpy as np
import pytest
from helpers import tiny_hparams

import amoeba_net_model
import model_builder
from common.runtime import tf

pytestmark = pytest.mark.usefixtures("graph")


def _hparams(**values):
    small = {
        "num_cells": 3,
        "image_size": 67,
        "use_aux_head": True,
        "drop_connect_keep_prob": 1.0,
        "dense_dropout_keep_prob": 1.0,
        "train_batch_size": 8,
    }
    return tiny_hparams(**{**small, **values})


def _build(hparams, is_training=True, classes=7, batch=8):
    random = np.random.RandomState(0)
    size = hparams.image_size
    images = tf.constant(random.uniform(-1, 1, [batch, size, size, 3]), tf.float32)
    return model_builder.build_network(images, classes, is_training, hparams)


def _run(*fetches):
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        return session.run(fetches)


def test_end_points():
    hparams = _hparams(num_cells=4)
    logits, end_points = _build(hparams)
    assert set(end_points) == {
        *["stem", "cell_stem_0", "cell_stem_1", "cell_0", "reduction_cell_0", "cell_1"],
        *["reduction_cell_1", "cell_2", "cell_3", "aux_logits", "feature_maps", "global_pool"],
        *["logits", "predictions"],
    }
    assert end_points["predictions"].op.name == "predictions"
    for name, size in [("stem", 33), ("cell_stem_1", 9), ("cell_1", 5), ("cell_3", 3)]:
        assert end_points[name].shape.as_list()[1:3] == [size, size]
    # The normal AmoebaNet-D cell has four outputs, of 4, 8 and 16 filters here.
    assert [end_points[f"cell_{i}"].shape[3].value for i in (0, 1, 2)] == [16, 32, 64]
    assert end_points["aux_logits"].shape.as_list() == logits.shape.as_list() == [8, 7]
    assert end_points["global_pool"].shape.as_list() == [8, 64]
    assert any(v.op.name.startswith("aux_1/aux_logits/") for v in tf.global_variables())


def test_no_auxiliary_head_in_evaluation_or_when_off():
    for is_training, use_aux_head in [(False, True), (True, False)]:
        with tf.Graph().as_default():
            _, end_points = _build(_hparams(use_aux_head=use_aux_head), is_training)
            assert "aux_logits" not in end_points


def test_plain_stem():
    _, end_points = _build(_hparams(stem_type="cifar", image_size=16, use_aux_head=False))
    assert end_points["stem"].shape.as_list() == [8, 14, 14, 4]
    assert not [name for name in end_points if name.startswith("cell_stem")]


@pytest.mark.parametrize("is_training, smallest", [(True, 67), (False, 19)])
def test_smallest_image_size(is_training, smallest):
    """At the smallest size the network has the variables it has at any larger; below it not."""
    assert model_builder.smallest_image_size(_hparams(), is_training) == smallest

    def variables(size):
        with tf.Graph().as_default():
            _build(_hparams(image_size=size), is_training, batch=1)
            return {
                v.op.name: v.shape.as_list()
                for v in tf.global_variables()
                if "aux_logits/Conv" not in v.op.name
            }

    large = variables(96)
    assert variables(smallest) == large
    try:
        assert variables(smallest - 1) != large
    except ValueError:
        assert is_training  # No room for the auxiliary head's average pool.


def test_smallest_image_size_without_auxiliary_head():
    assert model_builder.smallest_image_size(_hparams(use_aux_head=False), True) == 19


def test_dropout_keeps_the_mean_and_only_in_training():
    hparams = _hparams(dense_dropout_keep_prob=0.25, image_size=19, use_aux_head=False)
    _, end_points = _build(hparams, batch=200)
    graph = tf.get_default_graph()
    dropped = next(op for op in graph.get_operations() if op.type == "MatMul").inputs[0]
    pooled, values = _run(end_points["global_pool"], dropped)
    kept = values[pooled > 0] > 0
    # Of 200 x 64 features; one standard deviation is 0.004.
    assert kept.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(
        values[(pooled > 0) & (values > 0)], 4 * pooled[(pooled > 0) & (values > 0)], rtol=1e-5
    )
    with tf.Graph().as_default() as graph:
        _build(hparams, is_training=False)
        assert not [op for op in graph.get_operations() if op.type == "RandomUniform"]


def _cross_entropy(logits, labels, smoothing):
    """By the definition, in numpy."""
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    target = np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
    return -(target * log_p).sum(axis=1).mean()


@pytest.mark.parametrize("one_hot", [True, False])
def test_softmax_loss_is_smoothed_and_adds_the_auxiliary_head(one_hot):
    random = np.random.RandomState(1)
    logits, aux = random.normal(size=(2, 6, 5)) * 2
    labels = random.randint(0, 5, 6)
    given = tf.one_hot(labels, 5) if one_hot else tf.constant(labels)
    logits_t, aux_t = tf.constant(logits, tf.float32), tf.constant(aux, tf.float32)
    alone = model_builder.build_softmax_loss(logits_t, {}, given, 0.1)
    both = model_builder.build_softmax_loss(logits_t, {"aux_logits": aux_t}, given, 0.1)
    plain = model_builder.build_softmax_loss(logits_t, {}, given, 0.0, add_summary=False)
    alone, both, plain = _run(alone, both, plain)
    assert alone == pytest.approx(_cross_entropy(logits, labels, 0.1), rel=1e-5)
    assert plain == pytest.approx(_cross_entropy(logits, labels, 0.0), rel=1e-5)
    assert both - alone == pytest.approx(0.4 * _cross_entropy(aux, labels, 0.1), rel=1e-4)


def test_regularization_covers_all_convolutions_and_fully_connected_layers():
    _build(_hparams(cell_name="amoeba_net_a"))
    weights = [v for v in tf.trainable_variables() if v.op.name.endswith("weights")]
    kinds = {v.op.name.split("/")[-1] for v in weights}
    assert kinds == {"weights", "depthwise_weights", "pointwise_weights"}
    loss = model_builder.build_regularization_loss(0.01)
    assert tf.losses.get_regularization_losses() == [loss]
    got, *values = _run(loss, *weights)
    assert got == pytest.approx(0.01 * sum((v**2).sum() for v in values) / 2, rel=1e-5)


def test_drop_path_reaches_the_network():
    """A network that drops nearly everything differs between runs, one that keeps all does not."""
    hparams = _hparams(image_size=19, use_aux_head=False, drop_connect_version="v2")
    for probability in (0.1, 1.0):
        hparams.drop_connect_keep_prob = probability
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            logits, _ = _build(hparams)
            session.run(tf.global_variables_initializer())
            differ = not np.allclose(session.run(logits), session.run(logits))
        assert differ == (probability < 1)


def test_one_batch_is_overfitted():
    """Eight images of noise with random labels are learnt by heart."""
    hparams = _hparams(image_size=32, use_aux_head=False, reduction_size=8)
    labels = np.random.RandomState(2).randint(0, 7, 8)
    logits, end_points = _build(hparams)
    loss = model_builder.build_softmax_loss(
        logits, end_points, tf.constant(labels), label_smoothing=0.0
    )
    train = tf.train.MomentumOptimizer(0.05, 0.9).minimize(loss)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        first = session.run(loss)
        for _ in range(60):
            session.run(train)
        last, answers = session.run([loss, logits])
    assert first > 1.0
    assert last < 0.05
    assert answers.argmax(axis=1).tolist() == labels.tolist()


def _rates(method, steps, **kwargs):
    step = tf.placeholder(tf.int64, [])
    rate = model_builder.build_learning_rate(2.0, method, step, **kwargs)
    with tf.Session() as session:
        return [float(session.run(rate, {step: s})) for s in steps]


def test_stepwise_learning_rate():
    got = _rates("stepwise", [0, 300, 301, 600, 601, 800, 801, 900], total_steps=900)
    assert got == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_exponential_learning_rate_without_warmup():
    got = _rates("exponential", [0, 9, 10, 25], decay_steps=10, decay_factor=0.5)
    assert got == pytest.approx([2.0, 2.0, 1.0, 0.5])


def test_learning_rate_has_a_floor():
    assert _rates("cosine", [100, 150, 200], total_steps=100) == pytest.approx([2e-4] * 3)
    assert _rates(
        "exponential", [0], decay_steps=10, decay_factor=0.5, warmup_steps=5
    ) == pytest.approx([2e-4])


def test_unknown_learning_rate():
    with pytest.raises(ValueError, match="'linear'"):
        _rates("linear", [0])


def test_drop_path_has_its_strength_after_as_many_steps_as_in_the_original():
    hparams = amoeba_net_model.build_hparams()
    hparams.num_train_images, hparams.train_batch_size, hparams.num_epochs = 100, 64, 35.0
    assert model_builder._drop_path_burn_in_steps(hparams) == 54
    hparams.drop_connect_burn_in_steps = 7
    assert model_builder._drop_path_burn_in_steps(hparams) == 7


def test_num_train_steps():
    hparams = amoeba_net_model.build_hparams()
    hparams.num_epochs, hparams.train_batch_size = 35.0, 64
    assert model_builder.num_train_steps(hparams) == 700_665
