"""What tests of training on an NPU share: data, flags, runs of the program with the stand-in.

As a program it is amoeba_net.py with a network so small that nearly all time goes elsewhere.
"""

import json
import os
from typing import NamedTuple, Optional
from unittest import mock

import helpers
from absl import app
from absl.testing import flagsaver
from npu_stand_in.installed import PATH, installed

import amoeba_net
import model_builder
import network_utils
from common import files
from common.devices import rank_table
from common.runtime import tf

BATCH = 4
_NETWORK = {**helpers.TINY, "reduction_size": 8, "image_size": 32, "num_label_classes": 11}


def small_network(inputs, num_classes, is_training, hparams):
    """A layer with statistics and a classifier, with which a session starts in no time."""
    net = tf.image.resize_images(inputs, [4, 4])
    net = network_utils.batch_norm(net, "stem/bn", hparams.batch_norm_decay, 1e-3, is_training)
    logits = network_utils.fully_connected(tf.layers.flatten(net), num_classes)
    return logits, {"predictions": tf.nn.softmax(logits)}


def with_small_network():
    return mock.patch.object(model_builder, "build_network", small_network)


def hparams(**values):
    return helpers.tiny_hparams(**{**_NETWORK, **values})


def write_data(directory, train_files=1, images=8, damaged=()):
    """Training images with the labels 1, 2, ..., and 6 validation images; returns the directory.

    Args:
        damaged: the training images of which nothing can be decoded.
    """
    encoded = [helpers.encode(helpers.noise(i, size=24)) for i in range(images)]
    labels = range(1, images + 1)
    splits = {"train": (encoded[:], train_files), "validation": (encoded[:6], 2)}
    for i in damaged:
        splits["train"][0][i] = b"\xff\xd8 nothing"
    for split, (contents, shards) in splits.items():
        examples = helpers.image_examples(contents, labels)
        helpers.write_shards(directory, split, helpers.deal(examples, shards))
    return str(directory)


def write_rank_table(path, ranks):
    table = rank_table.make("127.0.0.1", range(ranks), ["192.168.1.1"] * ranks)
    files.write_text(str(path), json.dumps(table))
    return str(path)


def flags(directory, mode="train", **values):
    """The program's flags for a directory with data/ and model/, unless there are others."""
    values = {
        **_NETWORK,
        "accelerator": "npu",
        "mode": mode,
        "data_dir": os.path.join(directory, "data"),
        "model_dir": os.path.join(directory, "model"),
        "num_train_images": 8,
        "num_eval_images": 6,
        "train_batch_size": BATCH,
        "eval_batch_size": BATCH,
        "lr": 0.01,
        "random_seed": 1,
        **values,
    }
    return helpers.flags(values)


def environment(path=PATH, **variables):
    """A process's environment in which an adapter can be imported from a path."""
    own = ("RANK_", "CM_", "NPU_STAND_IN")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return {**kept, "PYTHONPATH": path, "JOB_ID": "10087", **variables}


class Outcome(NamedTuple):
    """What came of a run: the calls of the adapter, and the sentence it ended with, if any."""

    calls: list
    message: Optional[str]

    def arguments(self, callee):
        """The arguments of each call of this name."""
        return [arguments for name, arguments in self.calls if name == callee]


def run(directory, release="current", variables=None, **values):
    """Runs the program with the small network in this process; see `flags` and `installed`."""
    with installed(release, **(variables or {})) as calls, flagsaver.flagsaver():
        amoeba_net.FLAGS(["amoeba_net.py", *flags(str(directory), **values)])
        with with_small_network():
            try:
                amoeba_net.main(["amoeba_net.py"])
            except SystemExit as error:
                return Outcome(list(calls), str(error))
        return Outcome(list(calls), None)


if __name__ == "__main__":
    with with_small_network():
        app.run(amoeba_net.main)
