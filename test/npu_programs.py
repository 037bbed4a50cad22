"""What tests of training on an NPU share: data, flags, runs of the program with the stand-in.

As a program it is amoeba_net.py with a network so small that nearly all time goes elsewhere.
"""

import io
import json
import os
import subprocess
import sys
from typing import NamedTuple, Optional
from unittest import mock

import numpy as np
import tensorflow.compat.v1 as tf
from absl import app
from absl.testing import flagsaver
from npu_stand_in.installed import PATH, installed
from PIL import Image

import amoeba_net
import amoeba_net_model
import model_builder
import network_utils
from common.data import tfrecords
from common.devices import rank_table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BATCH = 4
NETWORK = {
    "num_cells": 2,
    "reduction_size": 8,
    "stem_reduction_size": 4,
    "image_size": 32,
    "num_label_classes": 11,
    "use_aux_head": False,
}


def small_network(inputs, num_classes, is_training, hparams):
    """A layer with statistics and a classifier, with which a session starts in no time."""
    net = tf.image.resize_images(inputs, [4, 4])
    net = network_utils.batch_norm(net, "stem/bn", hparams.batch_norm_decay, 1e-3, is_training)
    logits = network_utils.fully_connected(tf.layers.flatten(net), num_classes)
    return logits, {"predictions": tf.nn.softmax(logits)}


def with_small_network():
    return mock.patch.object(model_builder, "build_network", small_network)


def hparams(**values):
    result = amoeba_net_model.build_hparams()
    for name, value in {**NETWORK, **values}.items():
        result.set_hparam(name, value)
    return result


def write_data(directory, train_files=1, images=8, damaged=()):
    """Training images with the labels 1, 2, ..., and 6 validation images; returns the directory.

    Args:
        damaged: the training images of which nothing can be decoded.
    """
    os.makedirs(directory)
    pixels = np.random.RandomState(0).randint(0, 255, (images, 24, 24, 3), np.uint8)

    def example(i, damage):
        buffer = io.BytesIO()
        Image.fromarray(pixels[i]).save(buffer, "JPEG")
        encoded = b"\xff\xd8 nothing" if damage else buffer.getvalue()
        return tfrecords.image_example(encoded, i + 1, height=24, width=24)

    for split, files, count in (("train", train_files, images), ("validation", 2, 6)):
        for shard in range(files):
            path = os.path.join(directory, tfrecords.shard_name(split, shard, files))
            examples = [
                example(i, split == "train" and i in damaged) for i in range(shard, count, files)
            ]
            tfrecords.write_shard(path, examples)
    return directory


def write_rank_table(path, ranks):
    table = rank_table.make("127.0.0.1", range(ranks), ["192.168.1.1"] * ranks)
    with open(path, "w") as f:
        json.dump(table, f)
    return str(path)


def flags(directory, mode="train", **values):
    """The program's flags for a directory with data/ and model/, unless there are others."""
    values = {
        **NETWORK,
        "accelerator": "npu",
        "mode": mode,
        "data_dir": os.path.join(directory, "data"),
        "model_dir": os.path.join(directory, "model"),
        "num_train_images": 8,
        "num_eval_images": 6,
        "train_batch_size": BATCH,
        "eval_batch_size": BATCH,
        "lr": 0.01,
        **values,
    }
    return [f"--{name}={value}" for name, value in values.items()]


def environment(path=PATH, **variables):
    """A process's environment in which an adapter can be imported from a path."""
    own = ("RANK_", "CM_", "NPU_STAND_IN", "NPU_BENCH_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return {**kept, "PYTHONPATH": path, "JOB_ID": "10087", **variables}


# In this process ---------------------------------------------------------------------------------


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


# In others ---------------------------------------------------------------------------------------


def start(arguments, variables, program="amoeba_net.py"):
    """A process of the program; variables come from `environment`."""
    return subprocess.Popen(
        [sys.executable, os.path.join(ROOT, program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=variables,
    )


def finish(process):
    """What a process that is to end well printed."""
    printed = process.communicate()[0].decode()
    assert process.returncode == 0, printed[-3000:]
    return printed


if __name__ == "__main__":
    with with_small_network():
        app.run(amoeba_net.main)
