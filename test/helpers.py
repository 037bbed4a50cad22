"""What tests of several files share."""

import glob
import os
from typing import Sequence

import numpy as np
import tensorflow.compat.v1 as tf

# Checkpoints -------------------------------------------------------------------------------------


def save_checkpoints(directory: str, steps: Sequence[int]) -> str:
    """Saves checkpoints of a variable that holds the step, as an Estimator does."""
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        weights = tf.get_variable("weights", [1000], initializer=tf.zeros_initializer())
        saver = tf.train.Saver(max_to_keep=5, save_relative_paths=True)
        session.run(tf.global_variables_initializer())
        for number in steps:
            session.run([step.assign(number), weights.assign(np.full(1000, number))])
            saver.save(session, os.path.join(directory, "model.ckpt"), global_step=number)
    return directory


def checkpoint_path(directory: str, step: int) -> str:
    return os.path.join(directory, f"model.ckpt-{step}")


def checkpoint_file(directory: str, step: int, kind: str) -> str:
    """Path of a checkpoint's file: its "data" or its "index"."""
    (path,) = glob.glob(checkpoint_path(directory, step) + f".{kind}*")
    return path


def truncate(path: str, part: float = 0.5):
    """Cuts a file off, after a part of its bytes."""
    with open(path, "r+b") as file:
        file.truncate(int(part * os.path.getsize(path)))
