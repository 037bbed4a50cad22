"""What tests of several files share: starting programs, tiny networks, images, checkpoints."""

import glob
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from absl.testing import flagsaver
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from tensorboard.summary.writer.record_writer import masked_crc32c

import amoeba_net
import amoeba_net_model
import serving
import settings
import train_step
from common import files
from common.data import tfrecords
from common.data.class_names import class_names
from common.devices.cpu import Cpu
from common.hparams import HParams
from common.runtime import tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Programs ----------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """A program that has ended: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def log(self) -> str:
        return self.out + self.err


def command(program: str, *arguments) -> List[str]:
    """The command that runs one of the project's programs, like "scripts/make_digits.py"."""
    return [sys.executable, os.path.join(ROOT, program), *map(str, arguments)]


def run(program: str, *arguments, status: Optional[int] = 0, **options) -> Ended:
    """Runs one of the project's programs to its end, from another directory.

    Args:
        program: its path from the root.
        arguments: its arguments.
        status: the exit status that is expected; None for any.
        options: of subprocess.run.
    """
    done = subprocess.run(
        command(program, *arguments),
        **{"capture_output": True, "text": True, "timeout": 1200, "cwd": "/", **options},
    )
    ended = Ended(done.returncode, done.stdout, done.stderr)
    assert status in (None, ended.status), ended.log
    return ended


def flags(values: Dict[str, Any]) -> List[str]:
    return [f"--{name}={value}" for name, value in values.items()]


# Networks ----------------------------------------------------------------------------------------

# The smallest network there is.
TINY = {
    "num_cells": 2,
    "reduction_size": 4,
    "stem_reduction_size": 4,
    "image_size": 19,
    "use_aux_head": False,
}


def settings_of(*arguments) -> settings.Settings:
    """The settings in a command line of amoeba_net.py, unchecked."""
    with flagsaver.flagsaver():
        amoeba_net.FLAGS(["amoeba_net.py", *map(str, arguments)])
        return settings.from_flags(amoeba_net.FLAGS)


def tiny_hparams(**values) -> HParams:
    """Hyper-parameters of the smallest network, but for some values."""
    hparams = amoeba_net_model.build_hparams()
    for name, value in {"optimizer": "sgd", **TINY, **values}.items():
        hparams.set_hparam(name, value)
    return hparams


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
        self.model_dir = os.path.join(directory, "model")
        self.data_dir = os.path.join(directory, "data")
        self.images, self.labels = digits_and_photos()
        self.hparams = tiny_hparams(
            reduction_size=8,
            image_size=40,
            num_label_classes=11,
            eval_batch_size=16,
            num_eval_images=len(self.images),
        )
        self.checkpoint = write_random_checkpoint(self.hparams, self.model_dir)
        examples = image_examples(self.images, self.labels)
        write_shards(self.data_dir, "validation", [examples[:30], examples[30:]])
        names = ["background", *(f"digit {i}" for i in range(10))]
        files.write_text(os.path.join(self.data_dir, tfrecords.LABELS), "\n".join(names) + "\n")

    def estimator(self) -> tf.estimator.Estimator:
        model = amoeba_net_model.AmoebaNetEstimatorModel(self.hparams, self.model_dir)
        return Cpu().estimator(model.model_fn, self.model_dir, save_checkpoints_steps=1)

    def evaluate(self) -> Dict[str, float]:
        """The metrics of an evaluation, as `--mode=eval` computes them."""
        pipeline = amoeba_net_model.InputPipeline(False, self.data_dir, self.hparams)
        return self.estimator().evaluate(pipeline.input_fn, checkpoint_path=self.checkpoint)

    def export(self, directory: str):
        """Exports it in all formats, with the data set's names of classes."""
        labels = class_names(self.data_dir, self.hparams.num_label_classes)
        args = self.checkpoint, self.hparams, directory, labels
        serving.export_saved_model(*args, warmup_batch_sizes=[1, 3], model_name="tiny")
        serving.export_frozen_graph(*args)
        serving.export_onnx(*args)

    def as_trained(self, directory: str, **values) -> str:
        """Makes the model directory of a training, with a results.json; returns its checkpoint.

        Args:
            directory: the model directory.
            values: hyper-parameters that results.json tells otherwise.
        """
        os.makedirs(directory)
        path = os.path.join(directory, os.path.basename(self.checkpoint))
        for file in glob.glob(f"{self.checkpoint}.*"):
            os.symlink(file, path + file[len(self.checkpoint) :])
        records = [{"kind": "train", "hparams": {**self.hparams.values(), **values}}]
        files.write_text(os.path.join(directory, "results.json"), json.dumps(records))
        return path


# Images ------------------------------------------------------------------------------------------

_PHOTO_SIZES = ((640, 427), (300, 200), (97, 61), (40, 160), (33, 33))


def encode(image, image_format: str = "JPEG", **options) -> bytes:
    """The bytes of an image's file; the image is PIL's or uint8 [height, width(, 3)]."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(seed: int, size: int = 16, mode: str = "RGB") -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def many_scans(count: int) -> bytes:
    """A progressive JPEG that has its last scan so many times more than others have."""
    encoded = encode(noise(0).resize((32, 32)), progressive=True)
    start = encoded.rindex(b"\xff\xda")
    return encoded[:-2] + encoded[start:-2] * count + encoded[-2:]


def digits_and_photos() -> Tuple[List[bytes], List[int]]:
    """50 digits, then 10 photographs of several sizes: (encoded images, labels from 1 to 10)."""
    digits = load_digits()
    images = [encode(_digit(pixels)) for pixels in digits.images[:50]]
    labels = [int(digit) + 1 for digit in digits.target[:50]]
    for photo in load_sample_images().images:
        for i, size in enumerate(_PHOTO_SIZES):
            resized = Image.fromarray(photo).resize(size, Image.BICUBIC)
            images.append(encode(resized, "PNG" if i % 2 else "JPEG"))
            labels.append(len(labels) % 10 + 1)
    return images, labels


def _digit(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray((pixels * (255.0 / 16.0)).astype(np.uint8))
    return image.resize((72, 72), Image.BICUBIC).convert("RGB")


def image_examples(images: Sequence[bytes], labels: Sequence[int]) -> List[tf.train.Example]:
    return [
        tfrecords.image_example(image, label, height=72, width=72)
        for image, label in zip(images, labels)
    ]


def deal(records: Sequence, shards: int) -> List[Sequence]:
    """Records dealt out to shards, one after another."""
    return [records[i::shards] for i in range(shards)]


def write_shards(directory, split: str, shards: Sequence[Sequence]) -> List[str]:
    """Writes shards of the given records into a directory, which is made; returns their paths."""
    os.makedirs(str(directory), exist_ok=True)
    paths = []
    for i, records in enumerate(shards):
        name = tfrecords.shard_name(split, i, len(shards))
        paths.append(os.path.join(str(directory), name))
        tfrecords.write_shard(paths[-1], records)
    return paths


# Checkpoints -------------------------------------------------------------------------------------


def write_random_checkpoint(hparams: HParams, model_dir: str) -> str:
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


def flip(path: str, position: int):
    """Changes a bit of one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def claim_length(path: str, length: int, position: int = 0):
    """Makes the header of a TFRecord, at a position of a file, claim a length; its CRC is right."""
    header = struct.pack("<Q", length)
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(header + struct.pack("<I", masked_crc32c(header)))
