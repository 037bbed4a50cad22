"""What tests of several files share."""

import io
import os
import sys
import zlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import amoeba_net_model
import train_step
from common import files
from common.data import tfrecords

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test"))
import helpers

_PHOTO_SIZES = ((640, 427), (300, 200), (97, 61), (40, 160), (33, 33))


class TinyModel:
    """A checkpoint of a tiny network with random weights, and validation images for it.

    Attributes:
        hparams: of the network; class i + 1 is the digit i.
        model_dir, checkpoint: where the checkpoint is, and its prefix. Its averages are other
            random numbers than its weights, so that mistaking them shows.
        data_dir: digits and photographs as validation shards, with labels.txt.
        images: the encoded images, in the shards' order; the last ones are photographs.
        labels: their classes.
    """

    def __init__(self, directory: str):
        self.hparams = _tiny_hparams()
        self.model_dir = os.path.join(directory, "model")
        self.data_dir = os.path.join(directory, "data")
        self.checkpoint = write_random_checkpoint(self.hparams, self.model_dir)
        self.images, self.labels = _encoded_images()
        self.hparams.num_eval_images = len(self.images)
        _write_shards(self.data_dir, self.images, self.labels)


@pytest.fixture
def log(monkeypatch, caplog):
    """What is logged, as pytest's `caplog`; TensorFlow's logger keeps it from that."""
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    with caplog.at_level("INFO", logger="tensorflow"):
        yield caplog


@pytest.fixture
def model_dir(tmp_path):
    """A directory with checkpoints of the steps 10, 20 and 30."""
    return helpers.save_checkpoints(str(tmp_path / "model"), (10, 20, 30))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return TinyModel(str(tmp_path_factory.mktemp("tiny_model")))


def _tiny_hparams():
    hparams = amoeba_net_model.build_hparams()
    for name, value in {
        "num_cells": 2,
        "reduction_size": 8,
        "stem_reduction_size": 4,
        "image_size": 40,
        "num_label_classes": 11,
        "use_aux_head": False,
        "eval_batch_size": 16,
    }.items():
        hparams.set_hparam(name, value)
    return hparams


def write_random_checkpoint(hparams, model_dir: str) -> str:
    """A checkpoint with random weights, and other random averages; returns its prefix."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.get_or_create_global_step()
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None)
        shape = [1, hparams.image_size, hparams.image_size, 3]
        model.model_fn(tf.zeros(shape), None, tf.estimator.ModeKeys.PREDICT)
        for variable in train_step.averaged_variables():
            name = amoeba_net_model.average_name(variable.op.name)
            tf.get_variable(name, variable.shape, trainable=False)
        # One run: a session plans anew for each other fetch.
        assigns = {v: v.initializer for v in tf.global_variables()}
        values = {
            assign.inputs[1]: _random_value(v.op.name, v.shape.as_list())
            for v, assign in assigns.items()
        }
        session.run(list(assigns.values()), values)
        return tf.train.Saver().save(session, os.path.join(model_dir, "model.ckpt"), global_step=7)


def _random_value(name, shape):
    """Weights that keep the size of what passes through them, and distinct for each name."""
    if name == "global_step":
        return 7
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.replace("/ExponentialMovingAverage", "").split("/")[-1]
    if kind.endswith("weights"):
        inputs = shape[:2] if kind == "depthwise_weights" else shape[:-1]
        # Small at the end, for probabilities that are neither 0 nor 1.
        gain = 0.02 if name.startswith("final_layer") else 2.0
        return normal * np.sqrt(gain / np.prod(inputs))
    if kind in ("gamma", "moving_variance"):
        return np.exp(0.3 * normal)
    return 0.3 * normal


def _encoded_images():
    digits = load_digits()
    images = [_encode(_digit(pixels), "JPEG") for pixels in digits.images[:50]]
    labels = [int(digit) + 1 for digit in digits.target[:50]]
    for photo in load_sample_images().images:
        for i, size in enumerate(_PHOTO_SIZES):
            resized = Image.fromarray(photo).resize(size, Image.BICUBIC)
            images.append(_encode(resized, "PNG" if i % 2 else "JPEG"))
            labels.append(len(labels) % 10 + 1)
    return images, labels


def _digit(pixels):
    image = Image.fromarray((pixels * (255.0 / 16.0)).astype(np.uint8))
    return image.resize((72, 72), Image.BICUBIC).convert("RGB")


def _encode(image, image_format):
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def _write_shards(data_dir, images, labels):
    examples = [
        tfrecords.image_example(encoded, label, height=72, width=72)
        for encoded, label in zip(images, labels)
    ]
    os.makedirs(data_dir)
    for i in range(2):
        path = os.path.join(data_dir, tfrecords.shard_name("validation", i, 2))
        tfrecords.write_shard(path, examples[30 * i : 30 * (i + 1)])
    names = ["background", *(f"digit {i}" for i in range(10))]
    files.write_text(os.path.join(data_dir, tfrecords.LABELS), "\n".join(names) + "\n")
