"""Class activation maps: what each position adds to a logit."""

import numpy as np
import pytest
from helpers import tiny_hparams

import activation_maps
import amoeba_net_model
import model_builder
from common.hparams import HParams
from common.runtime import tf

pytestmark = [pytest.mark.usefixtures("graph"), pytest.mark.xdist_group("tiny_model")]


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_means_of_maps_are_logits(tiny_model, data_format):
    """In NCHW with given feature maps, since the CPU has no convolutions for it."""
    hparams = HParams(**{**tiny_model.hparams.values(), "data_format": data_format})
    random = np.random.RandomState(0)
    tf.train.get_or_create_global_step()
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None, explains=True)
    images = tf.constant(random.uniform(-1, 1, [3, 40, 40, 3]), tf.float32)
    spec = model.model_fn(images, None, tf.estimator.ModeKeys.PREDICT)
    fed = {}
    if data_format == "NCHW":
        feature_maps = tf.get_default_graph().get_tensor_by_name("final_layer/Relu:0")
        fed[feature_maps] = random.uniform(0, 2, [3, *feature_maps.shape.as_list()[1:]])
    with tf.variable_scope("final_layer/FC", reuse=True):
        biases = tf.get_variable("biases")
    with tf.Session() as session:
        spec.scaffold.saver.restore(session, tiny_model.checkpoint)
        predictions, biases = session.run([spec.predictions, biases], fed)
    classes, maps = predictions["top_classes"], predictions["maps"]
    assert maps.shape == (3, 5, 2, 2) and maps.dtype == np.float32
    assert maps.std(axis=(2, 3)).min() > 1e-3  # It matters where the network looks.
    logits = np.take_along_axis(predictions["logits"], classes, axis=1)
    np.testing.assert_allclose(maps.mean(axis=(2, 3)) + biases[classes], logits, atol=1e-4)
    assert np.abs(biases).min() > 1e-3
    assert classes[:, 0].tolist() == predictions["classes"].tolist()
    np.testing.assert_allclose(
        predictions["top_probabilities"], np.sort(predictions["probabilities"])[:, :-6:-1]
    )


def test_map_shows_the_place():
    feature_maps = np.zeros([1, 2, 3, 2], np.float32)
    feature_maps[0, 1, 2] = [1.0, 10.0]
    weights = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], np.float32)
    for data_format, maps in (("NHWC", feature_maps), ("NCHW", feature_maps.transpose(0, 3, 1, 2))):
        found = activation_maps.class_activation_maps(
            tf.constant(maps), tf.constant(weights), tf.constant([[2, 0]]), data_format
        )
        with tf.Session() as session:
            found = session.run(found)
        expected = np.zeros([1, 2, 2, 3])
        expected[0, :, 1, 2] = [-7.0, 1.0]
        np.testing.assert_allclose(found, expected)


def test_predictions_have_maps_only_when_asked(tiny_model):
    images = tf.zeros([2, 40, 40, 3])
    predictions = {}
    for explains in (False, True):
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            model = amoeba_net_model.AmoebaNetEstimatorModel(
                tiny_model.hparams, model_dir=None, explains=explains
            )
            spec = model.model_fn(images, None, tf.estimator.ModeKeys.PREDICT)
        predictions[explains] = set(spec.predictions)
    assert predictions[False] == {"classes", "probabilities", "logits"}
    assert predictions[True] - predictions[False] == {"top_classes", "top_probabilities", "maps"}


def test_fewer_classes_than_are_explained():
    hparams = tiny_hparams()
    _, end_points = model_builder.build_network(tf.zeros([1, 19, 19, 3]), 3, False, hparams)
    found = activation_maps.explanation(end_points, hparams)
    assert {name: value.shape.as_list()[:2] for name, value in found.items()} == {
        name: [1, 3] for name in ("top_classes", "top_probabilities", "maps")
    }
