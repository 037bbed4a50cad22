"""Prepares a run: checks its settings, completes them, and chooses the device.

A wrong value raises a UserError that names the flag, the value, and what is legal, before a graph
is built.
"""

import importlib.util
import math
import os
import re
from typing import Optional

import imagenet_input
import model_builder
import model_specs
import serving
from common import files, onnx_model, places
from common.checkpoints import selection
from common.data.class_names import class_names
from common.data.tfrecords import read_dataset_info
from common.devices import choosing
from common.devices.cpu import Cpu
from common.devices.device import Device
from common.distribution import cluster
from common.errors import UserError
from common.hparams import HParams
from common.runtime import tf
from settings import RunOptions, Settings

# Exclusive bounds, which absl does not have.
ABOVE_0 = (
    "num_epochs",
    "num_epochs_per_eval",
    "lr",
    "lr_num_epochs_per_decay",
    "drop_connect_keep_prob",
    "dense_dropout_keep_prob",
    "lr_decay_value",
)
BELOW_1 = ("moving_average_decay", "batch_norm_decay")
# Flags with a path that TensorFlow opens; whether checkpoints or SavedModels are there.
PLACES = {
    "data_dir": False,
    "model_dir": True,
    "checkpoint_path": True,
    "init_checkpoint": True,
    "export_dir": True,
    "report_dir": False,
    "explain_dir": False,
    "predictions_file": False,
}


def prepare(settings: Settings) -> Device:
    """Checks all settings and completes the hyper-parameters; returns the device to run on."""
    check_places(settings)
    take_dataset_info(settings)
    check(settings.hparams, settings.run)
    scale_learning_rate(settings)
    device = choose_device(settings)
    check_directories(settings.hparams, settings.run, device)
    return device


def choose_device(settings: Settings) -> Device:
    """The device to run on; an export always runs on the CPU.

    Raises:
        UserError: there is no such device, or it does not support the settings.
    """
    found = cluster.from_environment()
    if settings.run.mode == "export":
        return Cpu(cluster=found)
    device = choosing.choose(settings.run.accelerator, settings.device, found)
    _check_device(settings.hparams, settings.run, device)
    return device


# Completing the hyper-parameters -----------------------------------------------------------------


def take_dataset_info(settings: Settings):
    """Takes numbers that no flag sets from the data set's dataset.json, if it has one."""
    hparams, data_dir = settings.hparams, settings.run.data_dir
    info = data_dir and not hparams.synthetic_data and read_dataset_info(data_dir)
    if not info:
        return
    classes = info["num_label_classes"]
    if "num_label_classes" in settings.given and hparams.num_label_classes != classes:
        raise UserError(
            f"--num_label_classes={hparams.num_label_classes}, but dataset.json in {data_dir} says "
            f"{classes}, including the background class 0: leave the flag out, or use another "
            "--data_dir."
        )
    known = {"num_label_classes": classes}
    for split, name in (("train", "num_train_images"), ("validation", "num_eval_images")):
        if split in info["splits"]:
            known[name] = info["splits"][split]["images"]
    for name, value in known.items():
        if name not in settings.given:
            hparams.set_hparam(name, value)
            tf.logging.info("%s = %d, from %s's dataset.json", name, value, data_dir)


def scale_learning_rate(settings: Settings):
    """Applies --lr_scaling; warns if the default learning rate does not suit the batch size."""
    hparams, run = settings.hparams, settings.run
    batch, base = hparams.train_batch_size, run.lr_base_batch_size
    scaled = hparams.lr * batch / base
    if run.lr_scaling == "linear":
        tf.logging.info("lr = %g: %g for %d images, %d here.", scaled, hparams.lr, base, batch)
        hparams.set_hparam("lr", scaled)
    elif "lr" not in settings.given and 2 * batch < base and run.trains:
        tf.logging.warning(
            "--lr=%g, the default, belongs to batches of %d images, and this is %d: the published "
            "runs use 0.0025 x batch size. Try --lr=%g, or --lr_scaling=linear, which is the same.",
            hparams.lr,
            base,
            batch,
            scaled,
        )


# Checking ----------------------------------------------------------------------------------------


def check_places(settings: Settings):
    """Checks that TensorFlow can open the paths that the flags name, whatever is there."""
    values = {**settings.hparams.values(), **settings.run._asdict()}
    for name, has_checkpoints in PLACES.items():
        problem = values[name] and places.problem(values[name], has_checkpoints)
        if problem:
            raise UserError(f"--{name}={files.printable(values[name])}: {problem}")


def check(hparams: HParams, run: RunOptions):
    """Checks what absl does not: missing flags, exclusive bounds, and dependent flags."""
    if not run.model_dir and not (run.only_reads_checkpoint and run.checkpoint_path):
        raise UserError("--model_dir is missing: the directory for checkpoints, logs, and results.")
    if not run.data_dir and not hparams.synthetic_data and not run.only_reads_checkpoint:
        raise UserError(
            "--data_dir is missing: set it to the directory of the TFRecord files, or use "
            "--synthetic_data."
        )
    values = {**hparams.values(), **run._asdict()}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a finite number.")
    for name in ABOVE_0:
        if values[name] <= 0:
            raise UserError(f"--{name}={values[name]}: expected a number above 0.")
    for name in BELOW_1:
        if values[name] >= 1:
            raise UserError(f"--{name}={values[name]}: expected a number below 1.")
    if hparams.init_exclude is not None and not hparams.init_checkpoint:
        raise UserError(f"--init_exclude={hparams.init_exclude} needs --init_checkpoint.")
    for name in ("init_exclude", "trainable_variables"):
        _check_regular_expression(name, hparams.get(name))
    if hparams.deterministic_input and hparams.random_seed is None:
        raise UserError("--deterministic_input needs --random_seed.")
    if run.trains and not (run.train_steps or model_builder.num_train_steps(hparams)):
        raise UserError(
            f"--num_epochs={hparams.num_epochs} is less than a step: an epoch has "
            f"{hparams.num_train_images} images, and --train_batch_size={hparams.train_batch_size}."
        )
    if run.trains and run.checkpoint_path:
        raise UserError(
            f"--checkpoint_path={run.checkpoint_path} works with --mode=eval, predict, and export "
            "only. Training starts from --init_checkpoint, and continues in --model_dir."
        )
    _check_image_size(hparams, run.trains)
    _check_filters(hparams)
    _check_export(run)
    _check_image_paths(run)
    _check_report(run)


def _check_regular_expression(name: str, expression: Optional[str]):
    try:
        re.compile(expression or "")
    except re.error as error:
        raise UserError(f"--{name}={expression} is not a regular expression: {error}.") from error


def _check_image_size(hparams: HParams, trains: bool):
    smallest = model_builder.smallest_image_size(hparams, trains)
    if hparams.image_size >= smallest:
        return
    advice = f"the smallest is {smallest}"
    if trains and hparams.use_aux_head:
        without = model_builder.smallest_image_size(hparams, is_training=False)
        advice += f", or {without} with --use_aux_head=False"
    raise UserError(f"--image_size={hparams.image_size} is too small for the network: {advice}.")


def _check_filters(hparams: HParams):
    """Checks that the first cell, of a quarter of the filters, can concatenate what it has read."""
    _, _, used = model_specs.get_reduction_cell(hparams.cell_name)
    if hparams.reduction_size < 8 and hparams.stem_type == "imagenet" and not all(used[:2]):
        raise UserError(
            f"--reduction_size={hparams.reduction_size} is too small for {hparams.cell_name}: "
            "expected at least 8."
        )


def _check_export(run: RunOptions):
    formats = ",".join(run.export_format)
    if not formats or not set(run.export_format) <= set(serving.FORMATS):
        legal = f"{', '.join(serving.FORMATS[:-1])}, or {serving.FORMATS[-1]}"
        raise UserError(f"--export_format={formats}: expected {legal}.")
    if run.mode == "export" and not run.export_dir:
        raise UserError("--export_dir is missing: the directory to export the model to.")
    if run.export_dir and "onnx" in run.export_format:
        onnx_model.check_installed(f"--export_format={formats}")
    if run.add_warmup_requests and not (run.export_dir and "saved_model" in run.export_format):
        raise UserError("--add_warmup_requests needs --export_dir and --export_format=saved_model.")
    if run.add_warmup_requests:
        _check_installed("tensorflow_serving", "--add_warmup_requests needs tensorflow-serving-api")


def _check_image_paths(run: RunOptions):
    if run.image_paths and run.mode != "predict":
        raise UserError(
            f"--image_paths works with --mode=predict only, not with --mode={run.mode}."
        )
    if run.explain_dir and not run.image_paths:
        raise UserError(f"--explain_dir={run.explain_dir} needs --image_paths.")
    if run.predictions_file:
        if not run.image_paths:
            raise UserError(f"--predictions_file={run.predictions_file} needs --image_paths.")
        directory = os.path.dirname(run.predictions_file) or "."
        if not tf.io.gfile.isdir(directory) or tf.io.gfile.isdir(run.predictions_file):
            raise UserError(
                f"--predictions_file={run.predictions_file}: expected a file in a directory "
                "that exists."
            )


def _check_report(run: RunOptions):
    if not run.report_dir:
        return
    if run.mode not in ("eval", "train_and_eval"):
        raise UserError(
            f"--report_dir={run.report_dir} works with --mode=eval and --mode=train_and_eval only, "
            f"not with --mode={run.mode}."
        )
    _check_installed("jinja2", "--report_dir needs Jinja2")


def _check_installed(module: str, problem: str):
    if not importlib.util.find_spec(module):
        raise UserError(f"{problem}: install what requirements.txt lists, or leave the flag out.")


def _make_writable(flag: str, directory: str):
    """Makes the directory of a flag, and checks that files can be written there."""
    try:
        files.make_directory(directory)
        files.check_writable(directory)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--{flag}={directory} cannot be written to: {error}. Use another directory."
        ) from error


def _check_device(hparams: HParams, run: RunOptions, device: Device):
    devices = device.num_devices
    if hparams.data_format not in device.data_formats:
        raise UserError(
            f"--data_format={hparams.data_format}: the {device.name.upper()} supports "
            f"{' and '.join(device.data_formats)} only."
        )
    if not run.only_reads_checkpoint:
        _check_batch_size("eval_batch_size", hparams)
        no_batch = hparams.eval_drop_remainder and not imagenet_input.num_eval_batches(hparams)
        if no_batch and run.mode != "train":
            raise UserError(
                f"--eval_drop_remainder leaves no batch: --num_eval_images="
                f"{hparams.num_eval_images} is less than --eval_batch_size="
                f"{hparams.eval_batch_size}."
            )
    if not run.trains:
        return
    _check_batch_size("train_batch_size", hparams, devices)
    if hparams.train_batch_size % devices:
        raise UserError(
            f"--train_batch_size={hparams.train_batch_size} is not a multiple of the {devices} "
            "devices: it is the number of images on all of them together."
        )
    device.check_save_steps(run.checkpoint_steps)
    if hparams.on_nan == "skip" and device.replicates:
        raise UserError(
            f"--on_nan=skip works with one device only, and there are {devices}: use --on_nan=stop."
        )


def _check_batch_size(name: str, hparams: HParams, devices: int = 1):
    """Checks that a device's part of a batch of images would fit into the memory of the host."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bytes_per_image = 4 * 3 * hparams.image_size**2
    most = memory // bytes_per_image * devices
    if hparams.get(name) > most:
        raise UserError(
            f"--{name}={hparams.get(name)}: the {memory >> 30} GiB of memory of this host hold at "
            f"most {most} images of --image_size={hparams.image_size}; use a smaller batch."
        )


def check_directories(hparams: HParams, run: RunOptions, device: Device):
    """Checks that there is data to read and that the directories can be written to."""
    if run.explain_dir:
        _make_writable("explain_dir", run.explain_dir)
    if run.predictions_file and not files.is_stream(run.predictions_file):
        _make_writable("predictions_file", os.path.dirname(run.predictions_file) or ".")
    if run.export_dir and device.is_chief and not device.is_evaluator:
        _make_writable("export_dir", run.export_dir)
        class_names(run.data_dir, hparams.num_label_classes)  # It would be a pity afterwards.
    if not run.results_dir:
        return
    trains = run.trains and not device.is_evaluator
    if not hparams.synthetic_data:
        if trains:
            imagenet_input.find_shards(run.data_dir, "train", hparams)
        if not trains or run.mode == "train_and_eval":
            imagenet_input.check_num_eval_images(run.data_dir, hparams)
    if hparams.init_checkpoint:
        _check_init_checkpoint(hparams.init_checkpoint, run)
    _make_writable("model_dir", run.model_dir)
    if run.report_dir:
        _make_writable("report_dir", run.report_dir)


def _check_init_checkpoint(init_checkpoint: str, run: RunOptions):
    """Checks that there is a checkpoint to start from, if this run starts a training."""
    if not run.trains:
        tf.logging.info("--init_checkpoint is for training: it has no effect in %s.", run.mode)
        return
    latest = selection.latest(run.model_dir)
    if latest:
        tf.logging.info("Going on from %s: --init_checkpoint is for new trainings.", latest)
    else:
        selection.resolve(init_checkpoint, "--init_checkpoint")
