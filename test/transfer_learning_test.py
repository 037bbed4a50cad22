"""Trainings that start from another one's checkpoint: what they take, and what they refuse."""

import json
import os
import re
from unittest import mock

import helpers
import numpy as np
import pytest
from absl.testing import flagsaver
from npu_stand_in.installed import installed

import amoeba_net
import amoeba_net_model
from common.checkpoints import reading, warm_start
from common.devices.cpu import CpuSession
from common.runtime import tf

_GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
_HEADS = r"(^|/)(aux_\d+/aux_logits|final_layer)/FC/"

pytestmark = pytest.mark.xdist_group("transfer_learning")


# Checkpoints of the TPU original and the Ascend port ---------------------------------------------


def _golden(cell_name):
    with open(os.path.join(_GOLDEN, f"{cell_name}.json")) as f:
        return json.load(f)


def _write_checkpoint(path, values):
    """A checkpoint without any model code: one operation that saves names and values."""
    with tf.Graph().as_default(), CpuSession() as session:
        save = tf.raw_ops.SaveV2(
            prefix=path,
            tensor_names=list(values),
            shape_and_slices=[""] * len(values),
            tensors=list(values.values()),
        )
        session.run(save)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """(hyper-parameters, path, values) of a checkpoint with the golden list of variables."""
    golden = _golden("amoeba_net_d")
    random = np.random.RandomState(0)
    values = {
        name: np.int64(5005)
        if name == "global_step"
        else random.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape, _ in golden["train_variables"]
    }
    path = str(tmp_path_factory.mktemp("original") / "model.ckpt-5005")
    return golden["hparams"], _write_checkpoint(path, values), values


def test_original_checkpoint_initialises_all_but_the_classifiers(original):
    """In a real training session; its averages start from the same values."""
    flags, path, values = original
    hparams = amoeba_net_model.build_hparams("amoeba_net_d")
    for name, value in {**flags, "num_label_classes": 6, "init_checkpoint": path}.items():
        hparams.set_hparam(name, value)
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        images, labels = tf.zeros([2, 128, 128, 3]), tf.constant([1, 2])
        spec = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None).model_fn(
            images, labels, tf.estimator.ModeKeys.TRAIN
        )
        variables = {v.op.name: v for v in tf.global_variables()}
        with tf.train.MonitoredTrainingSession(scaffold=spec.scaffold) as session:
            got = session.run(variables)
    left_out = {name for name in got if re.search(_HEADS, name)}
    assert len(left_out) == 8  # Weights and biases of two classifiers, and their averages.
    assert got.pop("global_step") == 0
    for name in got.keys() - left_out:
        raw = name.replace("/ExponentialMovingAverage", "")
        expected = values[reading.average_name(raw)]
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
    assert got.keys() - left_out == values.keys() - left_out - {"global_step"}


@pytest.mark.parametrize("cell_name", ["amoeba_net_a", "amoeba_net_d"])
def test_golden_lists_fit_but_for_the_classifiers(cell_name):
    available = {name: shape for name, shape, _ in _golden(cell_name)["train_variables"]}
    averages = "/ExponentialMovingAverage"
    names = [n for n in available if not n.endswith(averages) and n != "global_step"]
    classes = _golden(cell_name)["hparams"]["num_label_classes"]
    wanted = {n: [6 if size == classes else size for size in available[n]] for n in names}
    choice = warm_start.choose(wanted, available)
    assert choice.taken == {n: n + averages for n in names if not re.search(_HEADS, n)}
    assert set(choice.left_out.values()) == {warm_start.OTHER_SHAPE}
    other = {"amoeba_net_a": "amoeba_net_d", "amoeba_net_d": "amoeba_net_a"}[cell_name]
    available = {name: shape for name, shape, _ in _golden(other)["train_variables"]}
    assert not warm_start.choose(wanted, available).fits()


# The program --------------------------------------------------------------------------------------


def _main(**flags):
    """Runs the program in this process; returns nothing, or raises SystemExit with a sentence."""
    values = {
        "mode": "train",
        "accelerator": "cpu",
        "synthetic_data": True,
        **helpers.TINY,
        "reduction_size": 8,
        "image_size": 40,
        "num_label_classes": 6,
        "train_batch_size": 4,
        "num_train_images": 40,
        "lr_warmup_epochs": 0,
        "lr": 0.1,
        "optimizer": "momentum",
        **flags,
    }
    with flagsaver.flagsaver():
        arguments = helpers.flags({k: v for k, v in values.items() if v is not None})
        amoeba_net.FLAGS(["amoeba_net.py", *arguments])
        amoeba_net.main(["amoeba_net.py"])


def _read(path):
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="module")
def source(tiny_model):
    return _read(tiny_model.checkpoint)


def _assert_starts_from_averages(got, source):
    """All but the classifier, and its average, are the source's averages, to the bit."""
    averages = [name for name in source if name.endswith("/ExponentialMovingAverage")]
    assert len(averages) > 200
    for average in averages:
        name = average.replace("/ExponentialMovingAverage", "")
        for key in (name, average):
            same = got[key].tobytes() == source[average].tobytes()
            assert same != name.startswith("final_layer/"), key


_CLASSIFIER_ONLY = {"trainable_variables": "^final_layer/"}


def test_training_the_new_classifier_and_going_on(tiny_model, source, tmp_path):
    flags = {**_CLASSIFIER_ONLY, "model_dir": str(tmp_path)}
    _main(**flags, init_checkpoint=tiny_model.model_dir, train_steps=2)
    first = _read(str(tmp_path / "model.ckpt-2"))
    _assert_starts_from_averages(first, source)
    # A training that goes on needs no source, does not look for it, and does not start anew.
    _main(**flags, init_checkpoint=str(tmp_path / "gone"), train_steps=3)
    second = _read(str(tmp_path / "model.ckpt-3"))
    _assert_starts_from_averages(second, source)
    step = second["final_layer/FC/weights"] - first["final_layer/FC/weights"]
    momentum = second["final_layer/FC/weights/Momentum"]
    np.testing.assert_allclose(step, -0.1 * momentum, rtol=1e-3, atol=1e-6)


def test_start_on_the_npu(tiny_model, source, tmp_path):
    with installed():
        _main(
            **_CLASSIFIER_ONLY,
            accelerator="npu",
            model_dir=str(tmp_path),
            init_checkpoint=tiny_model.model_dir,
            train_steps=2,
        )
    _assert_starts_from_averages(_read(str(tmp_path / "model.ckpt-2")), source)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            {"cell_name": "amoeba_net_a"},
            r"is of another network: only \d+ of \d+ variables fit\..* "
            r"It was trained with --cell_name=amoeba_net_d: use that here\.",
        ),
        (
            {"reduction_size": 16},
            r"cell_stem_0/1x1/weights, for one, has shape \[1, 1, 4, 4\] here and \[1, 1, 4, 2\] "
            r"there\. It was trained with --reduction_size=8: use that here\.",
        ),
    ],
)
def test_checkpoint_of_another_network(flags, message, tiny_model, tmp_path):
    """Said before the long part of graph building."""
    source = tiny_model.as_trained(str(tmp_path / "source"))
    with mock.patch.object(tf.train.Optimizer, "compute_gradients", side_effect=AssertionError):
        with pytest.raises(SystemExit) as error:
            _main(model_dir=str(tmp_path / "new"), init_checkpoint=source, **flags)
    assert re.search(message, str(error.value)), error.value
    assert "\n" not in str(error.value)
