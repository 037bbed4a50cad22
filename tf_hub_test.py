"""TF-Hub modules: evaluation's answers, and a graph to fine-tune."""

import ast
import os

import numpy as np
import pytest
import tensorflow_hub as hub
from helpers import run, settings_of

import amoeba_net_model
import tf_hub
from common.errors import UserError
from common.runtime import tf

pytestmark = pytest.mark.xdist_group("tiny_model")
_CLASSES = 11


@pytest.fixture(scope="module")
def modules(tiny_model, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("modules"))
    labels = [f"class {i}" for i in range(_CLASSES)]
    args = tiny_model.hparams, labels
    tf_hub.export_to_hub(tiny_model.checkpoint, f"{directory}/classification", _CLASSES, *args)
    tf_hub.export_to_hub(tiny_model.checkpoint, f"{directory}/feature_vector", None, args[0])
    return directory


def evaluate(tiny_model, eval_from_hub=False):
    """Logits and features of all images as evaluation computes them, or its hub images."""
    hparams = tiny_model.hparams
    pipeline = amoeba_net_model.InputPipeline(
        False, tiny_model.data_dir, hparams, eval_from_hub=eval_from_hub
    )
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.train.get_or_create_global_step()
        iterator = tf.data.make_initializable_iterator(pipeline.input_fn())
        images, labels = iterator.get_next()
        session.run(iterator.initializer)
        fetches = images
        if not eval_from_hub:
            model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None)
            spec = model.model_fn(images, labels, tf.estimator.ModeKeys.EVAL)
            spec.scaffold.saver.restore(session, tiny_model.checkpoint)
            features = graph.get_tensor_by_name("final_layer/global_pool:0")
            fetches = (spec.predictions["logits"], features)
        batches = amoeba_net_model.num_eval_batches(hparams)
        return tf.nest.map_structure(
            lambda *parts: np.concatenate(parts), *[session.run(fetches) for _ in range(batches)]
        )


def test_modules_answer_as_evaluation(tiny_model, modules):
    images = evaluate(tiny_model, eval_from_hub=True)
    assert images.min() >= 0 and 0.9 < images.max() <= 1
    logits, features = evaluate(tiny_model)
    with tf.Graph().as_default(), tf.Session() as session:
        classification = hub.Module(f"{modules}/classification")
        feature_vector = hub.Module(f"{modules}/feature_vector")
        assert hub.get_expected_image_size(feature_vector) == [40, 40]
        signatures = {"default", "image_feature_vector"}
        assert set(feature_vector.get_signature_names()) == signatures
        assert set(classification.get_signature_names()) == {*signatures, "image_classification"}
        assert not any("FC" in name for name in feature_vector.variable_map)
        outputs = (
            classification(images, signature="image_classification"),
            feature_vector(images),
            classification(images, signature="image_feature_vector", as_dict=True),
        )
        session.run(tf.global_variables_initializer())
        found_logits, found_features, end_points = session.run(outputs)
    count = tiny_model.hparams.num_eval_images  # Padding is black here, and grey there.
    for found, expected in (
        (found_logits, logits),
        (found_features, features),
        (end_points["default"], features),
    ):
        np.testing.assert_allclose(found[:count], expected[:count], atol=1e-4)
    assert end_points["cell_0"].ndim == 4


def test_labels_are_an_asset(modules):
    with open(os.path.join(modules, "classification", "assets", "labels.txt")) as file:
        assert file.read().splitlines()[-1] == "class 10"


def test_fine_tuning(modules):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        module = hub.Module(f"{modules}/feature_vector", trainable=True, tags={"train"})
        features = module(tf.random_uniform([4, 40, 40, 3]))
        loss = tf.reduce_sum(features) + tf.losses.get_regularization_loss()
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        variables = module.variable_map
        assert len(updates) == sum(name.endswith("moving_mean") for name in variables) * 2
        assert len(tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)) == 1
        train_op = tf.train.GradientDescentOptimizer(1e-3).minimize(loss)
        watched = variables["stem/conv0/weights"], variables["stem/conv0_bn/moving_mean"]
        session.run(tf.global_variables_initializer())
        before = session.run(watched)
        session.run([train_op, updates])
        for old, new in zip(before, session.run(watched)):
            assert np.abs(old - new).max() > 0


def test_eval_from_hub_equals_evaluation(tiny_model, modules):
    hparams = tiny_model.hparams
    expected = tiny_model.evaluate()
    log = run(
        *["tf_hub.py", "--mode=eval", f"--export_dir={modules}"],
        f"--data_dir={tiny_model.data_dir}",
        *[f"--num_eval_images={hparams.num_eval_images}", "--eval_batch_size=16"],
    ).log
    (line,) = [ln for ln in log.splitlines() if "Evaluation results: " in ln]
    found = ast.literal_eval(line.split("Evaluation results: ")[1])
    for k in (1, 5):
        name = f"top_{k}_accuracy"
        assert round(found[name] * 60) == pytest.approx(expected[name] * 60, abs=1e-4)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_data_of_other_classes(tiny_model, modules):
    arguments = ["--mode=eval", f"--export_dir={modules}", f"--data_dir={tiny_model.data_dir}"]
    chosen = settings_of(*arguments, "--num_eval_images=60", "--num_label_classes=5")
    with pytest.raises(UserError, match=r"classification has 11 classes, and .* has 5, the back"):
        tf_hub.evaluate_module(chosen)


def test_what_is_no_module(tiny_model, modules, tmp_path):
    with pytest.raises(UserError, match="is not a TF-Hub module"):
        tf_hub.module_image_size(str(tmp_path))
    with pytest.raises(UserError, match="exists already"):
        tf_hub.export_to_hub(tiny_model.checkpoint, modules, _CLASSES, tiny_model.hparams)
