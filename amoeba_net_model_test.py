"""The model function: metrics, optimizers, averages, checkpoints."""

import numpy as np
import pytest
import scipy.special
from helpers import tiny_hparams

import amoeba_net_model
import model_builder
import train_step
from common.checkpoints import reading
from common.errors import UserError
from common.runtime import tf

_MODES = tf.estimator.ModeKeys


def _hparams(**values):
    small = {
        "num_label_classes": 7,
        "drop_connect_keep_prob": 1.0,
        "dense_dropout_keep_prob": 1.0,
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "num_train_images": 40,
        "num_eval_images": 10,
        "num_epochs": 10.0,
        "lr": 0.1,
        "lr_decay_method": "constant",
    }
    return tiny_hparams(**{**small, **values})


def _images(count=4, size=19):
    random = np.random.RandomState(0)
    return random.uniform(-1, 1, [count, size, size, 3]).astype(np.float32)


def _model(hparams, model_dir=None):
    return amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir)


def _train_spec(hparams, model_dir=None):
    tf.train.get_or_create_global_step()
    labels = tf.constant([1, 2, 3, 4])
    return _model(hparams, model_dir).model_fn(tf.constant(_images()), labels, _MODES.TRAIN)


def test_number_of_evaluation_batches():
    hparams = _hparams(num_eval_images=50_000, eval_batch_size=64)
    assert amoeba_net_model.num_eval_batches(hparams) == 782
    assert amoeba_net_model.num_evaluated_images(hparams) == 50_000
    hparams.eval_drop_remainder = True
    assert amoeba_net_model.num_eval_batches(hparams) == 781
    assert amoeba_net_model.num_evaluated_images(hparams) == 49_984
    hparams.num_eval_images = 128
    assert amoeba_net_model.num_eval_batches(hparams) == 2


def test_padding_weighs_nothing():
    """Over batches of 4, 4 and 2 images the metrics are the plain means over 10 images."""
    hparams = _hparams(moving_average_decay=0.0)
    images = _images(12)
    labels = np.array([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, -1, -1], np.int32)
    dataset = tf.data.Dataset.from_tensor_slices
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        data = dataset((images, labels)).batch(4, drop_remainder=True)
        batch = tf.data.make_initializable_iterator(data)
        spec = _model(hparams).model_fn(*batch.get_next(), _MODES.EVAL)
        updates = {k: update for k, (_, update) in spec.eval_metric_ops.items()}
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        session.run(batch.initializer)
        losses, logits = [], []
        for _ in range(3):
            loss, batch_logits, metrics = session.run(
                [spec.loss, spec.predictions["logits"], updates]
            )
            losses.append(loss)
            logits.append(batch_logits)
    logits, labels = np.concatenate(logits)[:10], labels[:10]
    log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
    target = np.eye(7)[labels] * 0.9 + 0.1 / 7
    # The Estimator reports the mean over the batches.
    assert np.mean(losses) == pytest.approx(-(target * log_p).sum(axis=1).mean(), rel=1e-4)
    ranks = (logits > logits[np.arange(10), labels][:, None]).sum(axis=1)
    assert metrics["top_1_accuracy"] == pytest.approx((ranks < 1).mean())
    assert metrics["top_5_accuracy"] == pytest.approx((ranks < 5).mean())


def test_predictions():
    hparams = _hparams(moving_average_decay=0.0)
    with tf.Graph().as_default(), tf.Session() as session:
        spec = _model(hparams).model_fn(tf.constant(_images()), None, _MODES.PREDICT)
        session.run(tf.global_variables_initializer())
        got = session.run(spec.predictions)
    assert got["probabilities"].sum(axis=1) == pytest.approx([1] * 4, rel=1e-5)
    assert got["classes"].tolist() == got["logits"].argmax(axis=1).tolist()


# Optimizers: two steps on the loss w^2 / 2 from w = 1, whose gradient is w.
@pytest.mark.parametrize(
    "name, expected",
    [
        ("sgd", [0.9, 0.81]),
        ("momentum", [0.9, 0.9 - 0.1 * (0.9 * 1 + 0.9)]),
        # mean square 0.9 * 1 + 0.1 * g^2 (it starts at 1), momentum 0.9, epsilon 1.
        ("rmsprop", "rmsprop"),
    ],
)
def test_optimizers(name, expected):
    if name == "rmsprop":
        w, mean_square, velocity, expected = 1.0, 1.0, 0.0, []
        for _ in range(2):
            mean_square = 0.9 * mean_square + 0.1 * w * w
            velocity = 0.9 * velocity + 0.1 * w / np.sqrt(mean_square + 1.0)
            w -= velocity
            expected.append(w)
    with tf.Graph().as_default(), tf.Session() as session:
        w = tf.get_variable("w", initializer=1.0, use_resource=True)
        step = train_step.build_optimizer(_hparams(optimizer=name), 0.1).minimize(w * w / 2)
        session.run(tf.global_variables_initializer())
        got = [session.run([step, w.read_value()]) and session.run(w) for _ in range(2)]
    assert got == pytest.approx(expected, rel=1e-5)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="'adam'"):
        train_step.build_optimizer(_hparams(optimizer="adam"), 0.1)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_gradient_clipping(clip):
    """With plain SGD a step moves the weights by the learning rate times the clipped gradient."""
    hparams = _hparams(gradient_clipping_by_global_norm=clip, moving_average_decay=0.0)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        spec = _train_spec(hparams)
        variables = tf.trainable_variables()
        session.run(tf.global_variables_initializer())
        before = session.run(variables)
        session.run(spec.train_op)
        after = session.run(variables)
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, after)))
    if clip:
        assert moved == pytest.approx(hparams.lr * clip, rel=1e-3)
    else:
        assert moved > hparams.lr * 0.05


def test_moving_averages_follow_the_formula():
    """Three steps, against the recursion in numpy; the averages start at the initial values."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        spec = _train_spec(_hparams(moving_average_decay=0.3, batch_norm_decay=0.5))
        assert not tf.get_collection(tf.GraphKeys.UPDATE_OPS)  # The step itself moves statistics.
        averaged = train_step.averaged_variables()
        by_name = {v.op.name: v for v in tf.global_variables()}
        averages = [by_name[amoeba_net_model.average_name(v.op.name)] for v in averaged]
        session.run(tf.global_variables_initializer())
        expected = session.run(averaged)
        for a, b in zip(expected, session.run(averages)):
            np.testing.assert_array_equal(a, b)
        for step in range(1, 4):
            session.run(spec.train_op)
            decay = min(0.3, (1 + step) / (10 + step))
            expected = [
                decay * a + (1 - decay) * v for a, v in zip(expected, session.run(averaged))
            ]
        for a, b in zip(expected, session.run(averages)):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def _moved_by_steps(session, train_op):
    """Names of the variables that two training steps change, by as little as a bit."""
    variables = {v.op.name: v for v in tf.global_variables()}
    before = session.run(variables)
    for _ in range(2):
        session.run(train_op)
    after = session.run(variables)
    return {name for name in variables if before[name].tobytes() != after[name].tobytes()}


def test_training_the_classifier_changes_nothing_else():
    hparams = _hparams(trainable_variables="^final_layer/", moving_average_decay=0.3)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        spec = _train_spec(hparams)
        session.run(tf.global_variables_initializer())
        moved = _moved_by_steps(session, spec.train_op)
    names = ["final_layer/FC/weights", "final_layer/FC/biases"]
    averages = [amoeba_net_model.average_name(name) for name in names]
    assert moved == {"global_step", *names, *averages}


def test_frozen_batch_norm():
    """Statistics stay, the rest is trained, and training's loss is evaluation's."""
    hparams = _hparams(freeze_batch_norm=True, moving_average_decay=0.0, weight_decay=0.0)
    hparams.num_eval_images = 4
    model = _model(hparams)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        tf.train.get_or_create_global_step()
        labels, images = tf.constant([1, 2, 3, 4]), tf.constant(_images())
        training = model.model_fn(images, labels, _MODES.TRAIN)
        with tf.variable_scope("", reuse=True):
            evaluation = model.model_fn(images, labels, _MODES.EVAL)
        session.run(tf.global_variables_initializer())
        statistics = tf.get_collection(tf.GraphKeys.MOVING_AVERAGE_VARIABLES)
        session.run(
            [v.initializer for v in statistics],
            {v.initializer.inputs[1]: np.full(v.shape, 0.5, np.float32) for v in statistics},
        )
        loss, expected = session.run([training.loss, evaluation.loss])
        assert loss == pytest.approx(expected, rel=1e-5)
        moved = _moved_by_steps(session, training.train_op)
    assert not [name for name in moved if "moving_" in name]
    assert {"stem/conv0/weights", "stem/conv0_bn/gamma", "cell_1/beginning_bn/beta"} <= moved


def test_regular_expression_that_finds_nothing_to_train():
    with tf.Graph().as_default(), pytest.raises(
        UserError, match=r"--trainable_variables=head/ matches none of the .*stem/conv0/weights"
    ):
        _train_spec(_hparams(trainable_variables="head/"))


@pytest.mark.parametrize("images", [10, 40, 64, 100])
def test_cosine_does_not_rise_again(images):
    """Though it is shorter than the training where the last batch of an epoch is not full."""
    hparams = _hparams(lr=1.0, lr_decay_method="cosine", num_epochs=5.0)
    hparams.num_train_images, hparams.train_batch_size = images, 32
    steps = model_builder.num_train_steps(hparams)
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.placeholder(tf.int64, [])
        rate = _model(hparams).learning_rate(step)
        rates = [session.run(rate, {step: i}) for i in range(steps)]
    assert rates[0] == 1.0 and 0.5 < rates[1] < 1.0 and rates[-1] < 0.1
    assert rates == sorted(rates, reverse=True)


def test_rate_falls_at_fractions_of_steps():
    """One step is an epoch here, and 1.9 epochs are 1.9 steps."""
    hparams = _hparams(lr=1.0, lr_decay_method="exponential", lr_decay_value=0.88)
    hparams.train_batch_size, hparams.lr_warmup_epochs = 32, 0.0
    hparams.lr_num_epochs_per_decay = 1.9
    with tf.Graph().as_default(), tf.Session() as session:
        rate = _model(hparams).learning_rate(tf.constant(35, tf.int64))
        assert session.run(rate) == pytest.approx(0.88**18)


def test_dropout_differs_where_a_training_goes_on():
    masks = []
    for start_step in (0, 0, 5):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(3)  # As the Estimator does.
            model = _model(_hparams(random_seed=3, dense_dropout_keep_prob=0.5))
            model.start_step = start_step
            tf.train.get_or_create_global_step()
            model.model_fn(tf.constant(_images()), tf.constant([1, 2, 3, 4]), _MODES.TRAIN)
            masks.append(session.run(tf.random_uniform([9])))
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()


_trained = pytest.mark.xdist_group("averages")  # One training for all tests of it.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model directory with checkpoints of steps 0, 2 and 4, and its Estimator."""
    model_dir = str(tmp_path_factory.mktemp("model"))
    hparams = _hparams()
    estimator = tf.estimator.Estimator(
        _model(hparams, model_dir).model_fn,
        config=tf.estimator.RunConfig(model_dir, tf_random_seed=0, save_checkpoints_steps=2),
        params={},
    )

    def input_fn():
        return tf.data.Dataset.from_tensors((_images(), np.arange(1, 5, dtype=np.int32))).repeat()

    estimator.train(input_fn, max_steps=4)
    return hparams, model_dir, estimator, input_fn


@_trained
def test_evaluation_uses_the_averages_of_the_checkpoint_at_hand(trained):
    _, model_dir, estimator, input_fn = trained
    answers = {}
    for step in (2, 4):
        path = f"{model_dir}/model.ckpt-{step}"
        predictions = next(estimator.predict(lambda: input_fn().take(1), checkpoint_path=path))
        reader = tf.train.load_checkpoint(path)
        with tf.Graph().as_default(), tf.Session() as session:
            raw = _hparams(moving_average_decay=0.0)
            spec = _model(raw).model_fn(tf.constant(_images()), None, _MODES.PREDICT)
            for name in ("", "/ExponentialMovingAverage"):
                variables = tf.global_variables()
                session.run(
                    [v.initializer for v in variables],
                    {
                        v.initializer.inputs[1]: reader.get_tensor(v.op.name + name)
                        for v in variables
                    },
                )
                answers[step, name] = session.run(spec.predictions["logits"])[0]
        np.testing.assert_allclose(
            predictions["logits"], answers[step, "/ExponentialMovingAverage"], atol=1e-4
        )
        assert not np.allclose(predictions["logits"], answers[step, ""], atol=1e-2)
    assert not np.allclose(
        answers[2, "/ExponentialMovingAverage"], answers[4, "/ExponentialMovingAverage"], atol=1e-2
    )


@_trained
def test_load_ema_hook_loads_the_averages(trained):
    _, model_dir, _, _ = trained
    average = tf.train.load_checkpoint(model_dir).get_tensor(
        "final_layer/FC/weights/ExponentialMovingAverage"
    )
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        weights = tf.get_variable("final_layer/FC/weights", average.shape)
        hook = amoeba_net_model.LoadEMAHook(model_dir)
        with tf.train.MonitoredSession(hooks=[hook]) as session:
            np.testing.assert_array_equal(session.run(weights), average)


@_trained
def test_checkpoint_of_another_network_stops_training_and_prediction(trained):
    _, model_dir, _, input_fn = trained
    other = _hparams(stem_reduction_size=8)
    message = (
        r"variable stem/conv0/weights.* should have shape \[3, 3, 3, 8\], "
        r"the checkpoint has shape \[3, 3, 3, 4\]"
    )
    with tf.Graph().as_default(), pytest.raises(UserError, match=message):
        _train_spec(other, model_dir)
    estimator = tf.estimator.Estimator(_model(other).model_fn, model_dir, params={})
    with pytest.raises(UserError, match=message):
        next(estimator.predict(lambda: input_fn().take(1)))


def test_checkpoint_that_is_none(tmp_path):
    with pytest.raises(UserError, match="Cannot read a checkpoint at"):
        reading.open_checkpoint(str(tmp_path / "model.ckpt-7"))


@pytest.mark.parametrize(
    "num_images, loss, counted",
    [(0, 2.0, 10), (10, 2.0, 10), (8, 2.5, 8), (1, 20.0, 1)],
)
def test_loss_is_the_mean_over_the_images_that_came(num_images, loss, counted):
    hparams = amoeba_net_model.build_hparams()
    hparams.num_eval_images, hparams.eval_batch_size = 10, 4
    assert amoeba_net_model.mean_loss(2.0, hparams, num_images) == (pytest.approx(loss), counted)
