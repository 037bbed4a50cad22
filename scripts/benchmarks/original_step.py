#!/usr/bin/env python
r"""The training step of the TPU original, measured for benchmark_train.py beside this project's.

    python scripts/benchmarks/benchmark_train.py --parts=train \
        --beside="original=python scripts/benchmarks/original_step.py DIRECTORY"

DIRECTORY is models/official/amoeba_net of https://github.com/tensorflow/tpu; its code needs
TensorFlow's contrib modules. Its network gets this project's hyper-parameters where it has the same
ones, and runs in the session that an Estimator would open.
"""

import argparse
import json
import os
import sys

import tensorflow.compat.v1 as tf

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from scripts.benchmarks import turns


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="models/official/amoeba_net of tensorflow/tpu")
    parser.add_argument("--hparams", type=json.loads, required=True, help="this project's, as JSON")
    arguments = parser.parse_args()
    turns.serve(training_step(arguments.directory, arguments.hparams), multiply_adds=None)


def training_step(directory, values):
    """A function that does one training step of the original."""
    # Its modules have the names of this project's, which therefore cannot be imported here.
    sys.path[0] = directory
    import amoeba_net_model

    hparams = amoeba_net_model.build_hparams(values["cell_name"])
    for name in set(values).intersection(hparams.values()):
        if values[name] is not None:
            hparams.set_hparam(name, values[name])
    hparams.add_hparam("enable_hostcall", False)
    size, batch_size = hparams.image_size, hparams.train_batch_size
    # The original feeds its TPUs height, width, channels, and image last.
    images = tf.Variable(tf.random_uniform([size, size, 3, batch_size], -1.0, 1.0), trainable=False)
    labels = tf.Variable(tf.ones([batch_size], tf.int32), trainable=False)
    tf.train.get_or_create_global_step()
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None)
    spec = model.model_fn(images, labels, tf.estimator.ModeKeys.TRAIN, {})
    session = tf.Session()
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    operation = tf.group(spec.train_op, spec.loss)
    return lambda: session.run(operation)


if __name__ == "__main__":
    main()
