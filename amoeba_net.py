#!/usr/bin/env python
"""Trains, evaluates and runs AmoebaNet image classifiers.

    python amoeba_net.py --mode=train_and_eval --data_dir=DATA --model_dir=MODEL

The flags become three typed values (settings.py), with which one of the modes runs (run.py).
"""

import sys

import tensorflow.compat.v1 as tf
from absl import app, flags

import amoeba_net_model
import model_specs
import run
import settings
from common import storage
from common.data import allocator
from common.devices import options
from common.distribution import cluster
from common.errors import UserError
from common.hooks import interruption

LR_DECAY_METHODS = ("exponential", "cosine", "stepwise", "constant")

# Where the flags have their defaults from.
_MODEL = amoeba_net_model.default_hparams()
_DEVICE = options.Options()
_RUN = settings.RunOptions()

# What to run, and on what.
flags.DEFINE_enum("mode", _RUN.mode, settings.MODES, "What to do.")
flags.DEFINE_enum(
    "accelerator", _RUN.accelerator, options.NAMES, "Device; auto takes the best there is."
)
flags.DEFINE_boolean("use_tpu", False, "Kept from the TPU original: there is no TPU here.")
flags.DEFINE_string("data_dir", _RUN.data_dir, "Directory of the TFRecords, flat or by split.")
flags.DEFINE_string("model_dir", _RUN.model_dir, "Directory of checkpoints, logs and results.json.")
flags.DEFINE_string(
    "checkpoint_path",
    _RUN.checkpoint_path,
    "Eval, predict, export: take this checkpoint only, and end.",
)
flags.DEFINE_string(
    "export_dir", _RUN.export_dir, "Where to export the model to, at the end of any mode."
)
flags.DEFINE_list(
    "export_format", list(_RUN.export_format), "Of saved_model and frozen_graph, or both."
)
flags.DEFINE_multi_string(
    "image_paths", _RUN.image_paths, "Predict: files, folders and patterns of images."
)
flags.DEFINE_string(
    "predictions_file", _RUN.predictions_file, "Predict: answers as .csv, or else as JSON lines."
)
flags.DEFINE_boolean(
    "synthetic_data", _MODEL.synthetic_data, "One batch of noise: speed without input."
)
flags.DEFINE_integer(
    "train_steps", _RUN.train_steps, "Global step to train to; 0: from num_epochs.", 0
)
flags.DEFINE_integer(
    "random_seed", _MODEL.random_seed, "Seed of weights, order and distortions; None: random."
)

# The network.
flags.DEFINE_enum("cell_name", _MODEL.cell_name, model_specs.CELL_NAMES, "Which AmoebaNet.")
flags.DEFINE_integer("num_cells", _MODEL.num_cells, "Normal cells of all stacks together.", 2)
flags.DEFINE_integer(
    "reduction_size", _MODEL.reduction_size, "Filters of the first stack of cells.", 4
)
flags.DEFINE_integer(
    "stem_reduction_size", _MODEL.stem_reduction_size, "Filters of the first convolution.", 1
)
flags.DEFINE_integer(
    "image_size", _MODEL.image_size, "Width and height of the input, in pixels.", 1
)
flags.DEFINE_integer(
    "num_label_classes", _MODEL.num_label_classes, "Classes, with the background class 0.", 2
)
flags.DEFINE_boolean(
    "use_aux_head", _MODEL.use_aux_head, "Train an auxiliary classifier on an inner layer."
)
flags.DEFINE_float("aux_scaling", _MODEL.aux_scaling, "Width of the auxiliary head.", 0.01)
flags.DEFINE_enum(
    "data_format", _MODEL.data_format, ["NHWC", "NCHW"], "Axis order; NCHW not on the CPU."
)

# Training.
flags.DEFINE_float(
    "num_epochs", _MODEL.num_epochs, "Epochs to train, counted from the first step.", 0.0
)
flags.DEFINE_integer("train_batch_size", _MODEL.train_batch_size, "Images a training step.", 1)
flags.DEFINE_enum("optimizer", _MODEL.optimizer, ["sgd", "momentum", "rmsprop"], "Optimizer.")
flags.DEFINE_float("lr", _MODEL.lr, "Initial learning rate.", 0.0)
flags.DEFINE_enum(
    "lr_scaling", _RUN.lr_scaling, ["none", "linear"], "Linear: lr is of lr_base_batch_size."
)
flags.DEFINE_integer(
    "lr_base_batch_size", _RUN.lr_base_batch_size, "Batch that the lr of linear scaling is of.", 1
)
flags.DEFINE_enum("lr_decay_method", _MODEL.lr_decay_method, LR_DECAY_METHODS, "Schedule.")
flags.DEFINE_float(
    "lr_decay_value", _MODEL.lr_decay_value, "Factor of the exponential schedule.", 0.0, 1.0
)
flags.DEFINE_float(
    "lr_num_epochs_per_decay", _MODEL.lr_num_epochs_per_decay, "Epochs between two decays.", 0.0
)
flags.DEFINE_float(
    "lr_warmup_epochs", _MODEL.lr_warmup_epochs, "Epochs of linear warm-up (exponential).", 0.0
)
flags.DEFINE_float("weight_decay", _MODEL.weight_decay, "Scale of the L2 regularisation.", 0.0)
flags.DEFINE_float(
    "drop_connect_keep_prob",
    _MODEL.drop_connect_keep_prob,
    "Probability of keeping a branch.",
    0.0,
    1.0,
)
flags.DEFINE_enum(
    "drop_connect_version",
    _MODEL.drop_connect_version,
    ["v1", "v2", "v3"],
    "Dropping grows with time, depth or both.",
)
flags.DEFINE_integer(
    "drop_connect_burn_in_steps",
    _MODEL.drop_connect_burn_in_steps,
    "Steps to drop path's full strength; 0: none; None: all.",
    0,
)
flags.DEFINE_float(
    "dense_dropout_keep_prob",
    _MODEL.dense_dropout_keep_prob,
    "Part of the last features kept.",
    0.0,
    1.0,
)
flags.DEFINE_float(
    "batch_norm_decay", _MODEL.batch_norm_decay, "Decay of the batch statistics.", 0.0, 1.0
)
flags.DEFINE_float(
    "batch_norm_epsilon", _MODEL.batch_norm_epsilon, "Epsilon of batch normalisation.", 0.0
)
flags.DEFINE_float(
    "moving_average_decay", _MODEL.moving_average_decay, "Decay of the averages; 0: none.", 0.0, 1.0
)
flags.DEFINE_float(
    "gradient_clipping_by_global_norm",
    _MODEL.gradient_clipping_by_global_norm,
    "Largest gradient norm; 0: any.",
)
flags.DEFINE_enum(
    "on_nan", _MODEL.on_nan, ["stop", "skip"], "Where loss or gradients are not finite."
)
flags.DEFINE_integer(
    "max_nan_steps", _RUN.max_nan_steps, "Skip: steps in a row that may be left out.", 1
)
flags.DEFINE_integer(
    "max_skipped_steps",
    _RUN.max_skipped_steps,
    "Training ends after this many steps in a row that loss scaling skipped because gradients "
    "overflowed.",
    1,
)

# Transfer learning.
flags.DEFINE_string(
    "init_checkpoint", _MODEL.init_checkpoint, "Checkpoint or model_dir to start a training from."
)
flags.DEFINE_string(
    "init_exclude", _MODEL.init_exclude, "Do not take what this regular expression finds."
)
flags.DEFINE_boolean(
    "init_averages", _MODEL.init_averages, "Take moving averages where there are, or weights."
)
flags.DEFINE_string(
    "trainable_variables",
    _MODEL.trainable_variables,
    "Train what this regular expression finds only.",
)
flags.DEFINE_boolean(
    "freeze_batch_norm", _MODEL.freeze_batch_norm, "Neither use nor move batch statistics."
)

# Data.
flags.DEFINE_integer("num_train_images", _MODEL.num_train_images, "Images of one epoch.", 1)
flags.DEFINE_integer("num_eval_images", _MODEL.num_eval_images, "Validation images to evaluate.", 1)
flags.DEFINE_enum(
    "on_bad_record", _MODEL.on_bad_record, ["fail", "skip"], "Stop at bad records, or not."
)
flags.DEFINE_float(
    "max_bad_fraction", _MODEL.max_bad_fraction, "Skip: stop where more is bad.", 0.0, 1.0
)
flags.DEFINE_boolean(
    "deterministic_input", _MODEL.deterministic_input, "Same seed, same batches; slower."
)
flags.DEFINE_boolean(
    "augment", _MODEL.augment, "Crop, flip and distort training images; else as in eval."
)
flags.DEFINE_boolean(
    "use_fast_color_distort",
    _MODEL.use_fast_color_distort,
    "Shift colours only; else distort them fully.",
)
flags.DEFINE_float(
    "cb_distortion_range", _MODEL.cb_distortion_range, "Largest shift of blue chroma.", 0.0, 1.0
)
flags.DEFINE_float(
    "cr_distortion_range", _MODEL.cr_distortion_range, "Largest shift of red chroma.", 0.0, 1.0
)

# Several processes, by TF_CONFIG.
flags.DEFINE_enum(
    "collectives",
    _DEVICE.collectives,
    options.COLLECTIVES,
    "How gradients are summed over processes.",
)
flags.DEFINE_integer(
    "cluster_timeout", _DEVICE.cluster_timeout, "Seconds to wait for the other processes.", 1
)

# Ascend NPUs; the first two are for GPUs as well.
flags.DEFINE_enum(
    "precision_mode", _DEVICE.precision_mode, options.PRECISION_MODES, "Number formats."
)
flags.DEFINE_string("loss_scale", _DEVICE.loss_scale, "Loss scale: dynamic, none or a number.")
flags.DEFINE_integer(
    "npu_iterations_per_loop",
    _DEVICE.npu_iterations_per_loop,
    "Steps on the NPU between host's turns.",
    1,
)
flags.DEFINE_string("profile_dir", _DEVICE.profile_dir, "Where to write a profile of training.")
flags.DEFINE_string("dump_dir", _DEVICE.dump_dir, "Where to dump tensors.")
flags.DEFINE_enum(
    "dump_mode", _DEVICE.dump_mode, options.DUMP_MODES, "Which tensors of an operator."
)
flags.DEFINE_string("dump_step", _DEVICE.dump_step, "Steps to dump, like 0|5-10; None: all.")
flags.DEFINE_enum(
    "dump_debug",
    _DEVICE.dump_debug,
    options.DUMP_DEBUG_MODES,
    "Dump operators that overflow, not all.",
)
flags.DEFINE_string(
    "op_compiler_cache_dir",
    _DEVICE.op_compiler_cache_dir,
    "Keeps compiled operators for the next start.",
)
flags.DEFINE_string(
    "fusion_switch_file", _DEVICE.fusion_switch_file, "JSON of fusions to switch on and off."
)
flags.DEFINE_string(
    "modify_mixlist", _DEVICE.modify_mixlist, "JSON of operators to compute in other precision."
)
flags.DEFINE_boolean(
    "deterministic", _DEVICE.deterministic, "The same sums in the same order each time."
)
flags.DEFINE_enum(
    "aoe_mode", _DEVICE.aoe_mode, options.AOE_MODES, "Tune graphs (1) or operators (2)."
)

# Evaluation, checkpoints and export.
flags.DEFINE_integer("eval_batch_size", _MODEL.eval_batch_size, "Images an evaluation step.", 1)
flags.DEFINE_boolean(
    "eval_drop_remainder",
    _MODEL.eval_drop_remainder,
    "Leave out what does not fill the last batch.",
)
flags.DEFINE_integer(
    "eval_timeout", _RUN.eval_timeout, "Seconds eval waits for another checkpoint.", 1
)
flags.DEFINE_integer(
    "num_epochs_per_eval", _RUN.num_epochs_per_eval, "Epochs between two evaluations.", 1
)
flags.DEFINE_integer(
    "save_checkpoints_steps",
    _RUN.save_checkpoints_steps,
    "Steps a checkpoint; 0: iterations_per_loop.",
    0,
)
flags.DEFINE_integer(
    "log_steps", _RUN.log_steps, "Steps between lines of the log, and summaries.", 1
)
flags.DEFINE_integer(
    "keep_checkpoint_max", _RUN.keep_checkpoint_max, "Newest checkpoints to keep; and best/.", 1
)
flags.DEFINE_integer(
    "iterations_per_loop", _RUN.iterations_per_loop, "Default of save_checkpoints_steps.", 1
)
flags.DEFINE_boolean(
    "add_warmup_requests", _RUN.add_warmup_requests, "Add warm-up requests to the exported model."
)
flags.DEFINE_string("model_name", _RUN.model_name, "Name of the served model in warm-up requests.")
flags.DEFINE_multi_integer(
    "inference_batch_sizes", _RUN.inference_batch_sizes, "Batch sizes of the warm-up requests.", 1
)
flags.DEFINE_boolean("enable_hostcall", False, "Kept from the TPU original; has no effect.")
flags.DEFINE_integer("num_shards", None, "Kept from the TPU original; has no effect.")
flags.DEFINE_integer("distributed_group_size", 1, "Kept from the TPU original; has no effect.")

flags.register_validator(
    "use_tpu", lambda value: not value, "there is no TPU here; see --accelerator."
)

FLAGS = flags.FLAGS


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1]!r}.")
    run.set_up_process()
    chosen = settings.from_flags(FLAGS)
    try:
        settings.prepare(chosen)
        device = settings.choose_device(chosen)
        allocator.keep_large_buffers()
        run.run_mode(chosen.hparams, device, chosen.run)
    except cluster.LostPeerError as error:
        cluster.end_process(error)
    except UserError as error:
        sys.exit(f"amoeba_net.py: {error}")
    except interruption.Interrupted as error:
        tf.logging.warning("%s The same command goes on from there.", error)
        sys.exit(interruption.EXIT_STATUS)
    except (OSError, ValueError, tf.errors.OpError) as error:
        directory = None if chosen.run.only_reads_checkpoint else chosen.run.model_dir
        explanation = storage.explain(error, directory)
        if not explanation:
            raise
        sys.exit(f"amoeba_net.py: {explanation}")


if __name__ == "__main__":
    app.run(main)
