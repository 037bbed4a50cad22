"""From the flags to hyper-parameters and a device; what is wrong with flags, in a sentence.

The flags themselves are defined by the entry points, which pass their values on.
"""

import os
import re

import tensorflow.compat.v1 as tf
from absl.flags import FlagValues

import amoeba_net_model
import imagenet_input
import model_builder
import serving
from common.checkpoints import checkpoints, warm_start
from common.data.tfrecords import read_dataset_info
from common.devices import choosing
from common.devices.cpu import Cpu
from common.devices.device import Device
from common.devices.options import Options
from common.distribution import cluster
from common.errors import UserError
from common.hparams import HParams

# Bounds that the value itself may not reach, which absl's bounds cannot say.
ABOVE_0 = (
    "num_epochs",
    "lr",
    "lr_num_epochs_per_decay",
    "drop_connect_keep_prob",
    "dense_dropout_keep_prob",
    "lr_decay_value",
)
BELOW_1 = ("moving_average_decay", "batch_norm_decay")


def hparams_from_flags(flags: FlagValues) -> HParams:
    """The hyper-parameters, where a flag of the same name says so with the flag's value."""
    hparams = amoeba_net_model.build_hparams(flags.cell_name)
    for name in hparams.values():
        if name in flags:
            hparams.set_hparam(name, flags[name].value)
    return hparams


def choose_device(flags: FlagValues) -> Device:
    """The device to run on; exports need no other than the CPU."""
    found = cluster.from_environment()
    if flags.mode == "export":
        return Cpu(cluster=found)
    options = {name: flags[name].value for name in Options._fields}
    return choosing.choose(flags.accelerator, Options(**options), found)


def take_dataset_info(flags: FlagValues, hparams: HParams):
    """Takes the numbers that no flag gives from the data set's dataset.json, if it has one."""
    info = flags.data_dir and not hparams.synthetic_data and read_dataset_info(flags.data_dir)
    if not info:
        return
    known = {"num_label_classes": info["num_label_classes"]}
    for split, name in (("train", "num_train_images"), ("validation", "num_eval_images")):
        if split in info["splits"]:
            known[name] = info["splits"][split]["images"]
    classes = flags["num_label_classes"]
    if not classes.using_default_value and classes.value != info["num_label_classes"]:
        raise UserError(
            f"--num_label_classes={classes.value}, but {flags.data_dir}'s dataset.json says "
            f"{info['num_label_classes']}, the background class 0 included: leave the flag out, or "
            "name another --data_dir."
        )
    for name, value in known.items():
        if flags[name].using_default_value:
            hparams.set_hparam(name, value)
            tf.logging.info("%s = %d, from %s's dataset.json", name, value, flags.data_dir)


def scale_learning_rate(flags: FlagValues, hparams: HParams):
    """Sets the rate that --lr_scaling asks for, or says that the default is of other batches."""
    batch, base = hparams.train_batch_size, flags.lr_base_batch_size
    scaled = hparams.lr * batch / base
    if flags.lr_scaling == "linear":
        tf.logging.info("lr = %g: %g for %d images, %d here.", scaled, hparams.lr, base, batch)
        hparams.set_hparam("lr", scaled)
    elif flags["lr"].using_default_value and 2 * batch < base and flags.mode.startswith("train"):
        tf.logging.warning(
            "--lr=%g, the default, belongs to batches of %d images, and this is %d: the published "
            "runs use 0.0025 x batch size. Try --lr=%g, or --lr_scaling=linear, which is the same.",
            hparams.lr,
            base,
            batch,
            scaled,
        )


def check_flags(flags: FlagValues, hparams: HParams):
    """Checks what absl's bounds do not: what is missing, and values that do not go together."""
    if flags.use_tpu:
        raise UserError("--use_tpu=True: there is no TPU here; see --accelerator.")
    if not flags.model_dir and not (only_reads_checkpoint(flags) and flags.checkpoint_path):
        raise UserError("--model_dir is missing: where checkpoints, logs and results go.")
    if not flags.data_dir and not flags.synthetic_data and not only_reads_checkpoint(flags):
        raise UserError(
            "--data_dir is missing: the directory of the TFRecord files; or use --synthetic_data."
        )
    for name in ABOVE_0:
        if flags[name].value <= 0:
            raise UserError(f"--{name}={flags[name].value}: expected a number above 0.")
    for name in BELOW_1:
        if flags[name].value >= 1:
            raise UserError(f"--{name}={flags[name].value}: expected a number below 1.")
    if flags.init_exclude is not None and not flags.init_checkpoint:
        raise UserError("--init_exclude is for --init_checkpoint, which is missing.")
    for name in ("init_exclude", "trainable_variables"):
        _check_regular_expression(flags, name)
    if hparams.deterministic_input and hparams.random_seed is None:
        raise UserError("--deterministic_input needs --random_seed: the same seed, the same input.")
    _check_image_size(flags, hparams)
    _check_export(flags)
    _check_image_paths(flags)


def _check_regular_expression(flags: FlagValues, name: str):
    try:
        re.compile(flags[name].value or "")
    except re.error as error:
        raise UserError(
            f"--{name}={flags[name].value} is no regular expression: {error}."
        ) from error


def only_reads_checkpoint(flags: FlagValues) -> bool:
    """Whether the run needs a checkpoint, but no data set and no room for results."""
    return flags.mode == "export" or (flags.mode == "predict" and bool(flags.image_paths))


def _check_export(flags: FlagValues):
    formats = ",".join(flags.export_format)
    if not formats or not set(flags.export_format) <= set(serving.FORMATS):
        raise UserError(f"--export_format={formats}: expected {' or '.join(serving.FORMATS)}.")
    if flags.mode == "export" and not flags.export_dir:
        raise UserError("--export_dir is missing: where to export the model to.")
    if flags.add_warmup_requests and not (flags.export_dir and "saved_model" in formats):
        raise UserError(
            "--add_warmup_requests is for --export_dir with --export_format=saved_model."
        )


def _check_image_paths(flags: FlagValues):
    if flags.image_paths and flags.mode != "predict":
        raise UserError(f"--image_paths is for --mode=predict, and this is {flags.mode}.")
    if flags.predictions_file:
        if not flags.image_paths:
            raise UserError("--predictions_file is for --image_paths, which is missing.")
        directory = os.path.dirname(flags.predictions_file) or "."
        if not tf.io.gfile.isdir(directory) or tf.io.gfile.isdir(flags.predictions_file):
            raise UserError(
                f"--predictions_file={flags.predictions_file}: expected a file in a directory "
                "that exists."
            )


def _check_image_size(flags: FlagValues, hparams: HParams):
    trains = flags.mode.startswith("train")
    smallest = model_builder.smallest_image_size(hparams, trains)
    if hparams.image_size >= smallest:
        return
    advice = f"the smallest is {smallest}"
    if trains and hparams.use_aux_head:
        without = model_builder.smallest_image_size(hparams, is_training=False)
        advice += f", or {without} with --use_aux_head=False"
    raise UserError(f"--image_size={hparams.image_size} is too small for the network: {advice}.")


def check_directories(flags: FlagValues, hparams: HParams):
    """Checks, before any graph is built, that there is data to read and room to write."""
    if only_reads_checkpoint(flags):
        return
    if not hparams.synthetic_data:
        if flags.mode.startswith("train"):
            imagenet_input.find_shards(flags.data_dir, "train", hparams)
        if flags.mode != "train":
            imagenet_input.check_num_eval_images(flags.data_dir, hparams)
    if flags.init_checkpoint:
        check_init_checkpoint(flags)
    marker = os.path.join(flags.model_dir, f".write_test{os.getpid()}")
    try:
        tf.io.gfile.makedirs(flags.model_dir)
        with tf.io.gfile.GFile(marker, "w") as f:
            f.write("")
        tf.io.gfile.remove(marker)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={flags.model_dir} cannot be written to: {error}. Name another directory."
        ) from error


def check_init_checkpoint(flags: FlagValues):
    """Checks that there is a checkpoint to start from, if this run starts a training."""
    if not flags.mode.startswith("train"):
        tf.logging.info("--init_checkpoint is for training: it has no effect in %s.", flags.mode)
        return
    latest = checkpoints.latest(flags.model_dir)
    if latest:
        tf.logging.info("Going on from %s: --init_checkpoint is for new trainings.", latest)
    else:
        warm_start.resolve(flags.init_checkpoint)
