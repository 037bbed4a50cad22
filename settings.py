"""From the flags to three typed values: the model's settings, the device's and the run's.

The entry points define the flags and pass their values here; nothing below sees them. A flag that
does not fit is a UserError, before any graph is built.
"""

import os
import re
from typing import Any, Dict, FrozenSet, NamedTuple, Optional, Sequence

import tensorflow.compat.v1 as tf
from absl.flags import FlagValues

import amoeba_net_model
import imagenet_input
import model_builder
import serving
from common import files
from common.checkpoints import selection
from common.data.tfrecords import read_dataset_info
from common.devices import choosing
from common.devices.cpu import Cpu
from common.devices.device import Device
from common.devices.options import Options
from common.distribution import cluster
from common.errors import UserError
from common.hparams import HParams

MODES = ("train", "eval", "train_and_eval", "predict", "export")

# Flags that are kept from the TPU original and have no effect.
WITHOUT_EFFECT = ("use_tpu", "enable_hostcall", "num_shards", "distributed_group_size")

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


class RunOptions(NamedTuple):
    """Settings of a run: what to do, where, and how often. Each is a flag of the same name."""

    mode: str = "train_and_eval"  # One of MODES.
    accelerator: str = "auto"  # One of common.devices.options.NAMES.
    # Files.
    data_dir: Optional[str] = None
    model_dir: Optional[str] = None
    checkpoint_path: Optional[str] = None  # The checkpoint to read; None: the latest.
    export_dir: Optional[str] = None
    export_format: Sequence[str] = ("saved_model",)  # Of serving.FORMATS.
    add_warmup_requests: bool = False
    model_name: str = "amoeba_net"
    inference_batch_sizes: Sequence[int] = (8,)
    image_paths: Sequence[str] = ()
    predictions_file: Optional[str] = None
    # Training; `prepare` has applied the scaling to the hyper-parameter `lr`.
    train_steps: int = 0  # 0: as many as num_epochs has.
    lr_scaling: str = "none"  # Or 'linear'.
    lr_base_batch_size: int = 1024
    max_nan_steps: int = 10
    max_skipped_steps: int = 100
    # Intervals.
    num_epochs_per_eval: int = 1
    eval_timeout: int = 86400  # Seconds.
    iterations_per_loop: int = 1251
    save_checkpoints_steps: int = 0  # 0: iterations_per_loop.
    keep_checkpoint_max: int = 5
    log_steps: int = 100

    @property
    def trains(self) -> bool:
        return self.mode.startswith("train")

    @property
    def only_reads_checkpoint(self) -> bool:
        """Whether the run needs a checkpoint, but no data set and no room for results."""
        return self.mode == "export" or (self.mode == "predict" and bool(self.image_paths))

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.save_checkpoints_steps or self.iterations_per_loop


class Settings(NamedTuple):
    """All settings, each flag in exactly one of the first three.

    Attributes:
        hparams: the model's.
        device: the device's.
        run: the run's.
        given: names of the flags that the user has set.
    """

    hparams: HParams
    device: Options
    run: RunOptions
    given: FrozenSet[str]


def defaults() -> Dict[str, Any]:
    """The default of every setting, by name; some hyper-parameters have no flag."""
    hparams = amoeba_net_model.default_hparams().values()
    return {**hparams, **Options()._asdict(), **RunOptions()._asdict()}


def from_flags(flags: FlagValues) -> Settings:
    """The settings as the flags say, not yet checked."""
    hparams = amoeba_net_model.default_hparams()
    for name in hparams.values():
        if name in flags:
            hparams.set_hparam(name, flags[name].value)
    return Settings(
        hparams,
        device=Options(**{name: flags[name].value for name in Options._fields}),
        run=RunOptions(**{name: flags[name].value for name in RunOptions._fields}),
        given=frozenset(name for name in flags if not flags[name].using_default_value),
    )


def prepare(settings: Settings):
    """Checks all settings, and completes the hyper-parameters from the data set."""
    take_dataset_info(settings)
    check(settings.hparams, settings.run)
    scale_learning_rate(settings)
    check_directories(settings.hparams, settings.run)


def choose_device(settings: Settings) -> Device:
    """The device to run on; exports need no other than the CPU."""
    found = cluster.from_environment()
    if settings.run.mode == "export":
        return Cpu(cluster=found)
    return choosing.choose(settings.run.accelerator, settings.device, found)


# Completing --------------------------------------------------------------------------------------


def take_dataset_info(settings: Settings):
    """Takes the numbers that no flag gives from the data set's dataset.json, if it has one."""
    hparams, data_dir = settings.hparams, settings.run.data_dir
    info = data_dir and not hparams.synthetic_data and read_dataset_info(data_dir)
    if not info:
        return
    classes = info["num_label_classes"]
    if "num_label_classes" in settings.given and hparams.num_label_classes != classes:
        raise UserError(
            f"--num_label_classes={hparams.num_label_classes}, but {data_dir}'s dataset.json says "
            f"{classes}, the background class 0 included: leave the flag out, or name another "
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
    """Sets the rate that --lr_scaling asks for, or says that the default is of other batches."""
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


def check(hparams: HParams, run: RunOptions):
    """Checks what absl's bounds do not: what is missing, and values that do not go together."""
    if not run.model_dir and not (run.only_reads_checkpoint and run.checkpoint_path):
        raise UserError("--model_dir is missing: where checkpoints, logs and results go.")
    if not run.data_dir and not hparams.synthetic_data and not run.only_reads_checkpoint:
        raise UserError(
            "--data_dir is missing: the directory of the TFRecord files; or use --synthetic_data."
        )
    for name in ABOVE_0:
        if hparams.get(name) <= 0:
            raise UserError(f"--{name}={hparams.get(name)}: expected a number above 0.")
    for name in BELOW_1:
        if hparams.get(name) >= 1:
            raise UserError(f"--{name}={hparams.get(name)}: expected a number below 1.")
    if hparams.init_exclude is not None and not hparams.init_checkpoint:
        raise UserError("--init_exclude is for --init_checkpoint, which is missing.")
    for name in ("init_exclude", "trainable_variables"):
        _check_regular_expression(name, hparams.get(name))
    if hparams.deterministic_input and hparams.random_seed is None:
        raise UserError("--deterministic_input needs --random_seed: the same seed, the same input.")
    _check_image_size(hparams, run.trains)
    _check_export(run)
    _check_image_paths(run)


def _check_regular_expression(name: str, expression: Optional[str]):
    try:
        re.compile(expression or "")
    except re.error as error:
        raise UserError(f"--{name}={expression} is no regular expression: {error}.") from error


def _check_image_size(hparams: HParams, trains: bool):
    smallest = model_builder.smallest_image_size(hparams, trains)
    if hparams.image_size >= smallest:
        return
    advice = f"the smallest is {smallest}"
    if trains and hparams.use_aux_head:
        without = model_builder.smallest_image_size(hparams, is_training=False)
        advice += f", or {without} with --use_aux_head=False"
    raise UserError(f"--image_size={hparams.image_size} is too small for the network: {advice}.")


def _check_export(run: RunOptions):
    formats = ",".join(run.export_format)
    if not formats or not set(run.export_format) <= set(serving.FORMATS):
        raise UserError(f"--export_format={formats}: expected {' or '.join(serving.FORMATS)}.")
    if run.mode == "export" and not run.export_dir:
        raise UserError("--export_dir is missing: where to export the model to.")
    if run.add_warmup_requests and not (run.export_dir and "saved_model" in formats):
        raise UserError(
            "--add_warmup_requests is for --export_dir with --export_format=saved_model."
        )


def _check_image_paths(run: RunOptions):
    if run.image_paths and run.mode != "predict":
        raise UserError(f"--image_paths is for --mode=predict, and this is {run.mode}.")
    if run.predictions_file:
        if not run.image_paths:
            raise UserError("--predictions_file is for --image_paths, which is missing.")
        directory = os.path.dirname(run.predictions_file) or "."
        if not tf.io.gfile.isdir(directory) or tf.io.gfile.isdir(run.predictions_file):
            raise UserError(
                f"--predictions_file={run.predictions_file}: expected a file in a directory "
                "that exists."
            )


def check_directories(hparams: HParams, run: RunOptions):
    """Checks, before any graph is built, that there is data to read and room to write."""
    if run.only_reads_checkpoint:
        return
    if not hparams.synthetic_data:
        if run.trains:
            imagenet_input.find_shards(run.data_dir, "train", hparams)
        if run.mode != "train":
            imagenet_input.check_num_eval_images(run.data_dir, hparams)
    if hparams.init_checkpoint:
        _check_init_checkpoint(hparams.init_checkpoint, run)
    marker = files.temporary_path(os.path.join(run.model_dir, "write_test"))
    try:
        tf.io.gfile.makedirs(run.model_dir)
        files.write_text(marker, "")
        files.remove(marker)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={run.model_dir} cannot be written to: {error}. Name another directory."
        ) from error


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
