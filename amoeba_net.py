#!/usr/bin/env python
"""Trains, evaluates, and runs AmoebaNet image classifiers.

    python amoeba_net.py --mode=train_and_eval --data_dir=DATA --model_dir=MODEL

settings.py turns the flags into three typed values, and run.py runs one of the modes with them.
"""

from absl import app, flags

import model_specs
import preparation
import run
import settings
from common import process
from common.data import allocator
from common.devices import options

_DEFAULTS = settings.defaults()


def _definer(define):
    """Makes `define` take the default from the setting that has the flag's name."""
    return lambda name, *rest: define(name, _DEFAULTS[name], *rest)


_boolean, _enum = _definer(flags.DEFINE_boolean), _definer(flags.DEFINE_enum)
_float, _integer = _definer(flags.DEFINE_float), _definer(flags.DEFINE_integer)
_string, _multi_string = _definer(flags.DEFINE_string), _definer(flags.DEFINE_multi_string)
_multi_integer = _definer(flags.DEFINE_multi_integer)
_NO_EFFECT = "Kept for compatibility with the TPU original; has no effect."

# What to run, and on what.
_enum(
    "mode",
    settings.MODES,
    "What the program does. eval evaluates each checkpoint as it appears; predict classifies "
    "--image_paths or, without them, measures the inference speed.",
)
_enum(
    "accelerator",
    options.NAMES,
    "Device to run on. auto selects the NPU if there is one, otherwise a GPU, otherwise the CPU.",
)
flags.DEFINE_boolean(
    "use_tpu", False, "Kept for compatibility with the TPU original; must be False."
)
_string(
    "data_dir",
    "Directory of the TFRecord files, which are directly in it or in train/ and validation/.",
)
_string("model_dir", "Directory for checkpoints, logs, and results.json.")
_string(
    "checkpoint_path",
    "Checkpoint that eval, predict, and export read, or a directory that stands for its latest "
    "checkpoint. If not set, predict and export read the latest checkpoint in --model_dir.",
)
_string("export_dir", "Directory to export the model to. Every mode exports when it has finished.")
flags.DEFINE_list(
    "export_format",
    list(_DEFAULTS["export_format"]),
    "Formats to export: one or more of saved_model, frozen_graph, and onnx.",
)
_multi_string(
    "image_paths", "Files, directories, or patterns of the images that predict classifies."
)
_string(
    "predictions_file",
    "File for the answers about --image_paths: CSV if its name ends in .csv, otherwise JSON lines.",
)
_string(
    "explain_dir",
    "Directory for a picture of each of --image_paths: the image, where the network sees its "
    "answer, and the most probable classes.",
)
_string(
    "report_dir",
    "Directory for a report of the evaluation, report.html and report.json: confusions, mistakes "
    "with activation maps, calibration, and suspected labels. Each evaluation replaces the report "
    "of the one before.",
)
_boolean(
    "synthetic_data",
    "Use one batch of noise instead of --data_dir, to measure the speed without reading images.",
)
_integer("train_steps", "Global step at which training ends. If 0, --num_epochs determines it.", 0)
_integer(
    "random_seed",
    "Seed of the initial weights, the order of the images, and the distortions. If not set, every "
    "run is different.",
)

# The network.
_enum("cell_name", model_specs.CELL_NAMES, "Cells of the network. The evol_net names are aliases.")
_integer("num_cells", "Number of normal cells in the network.", 2)
_integer(
    "reduction_size",
    "Number of filters in the first normal cells. Each reduction cell doubles it.",
    4,
)
_integer("stem_reduction_size", "Number of filters in the first convolution.", 1)
_integer("image_size", "Width and height of the network's input in pixels.", 1)
_integer(
    "num_label_classes",
    "Number of classes, including the background class 0. If not set, dataset.json in --data_dir "
    "takes precedence over the default.",
    2,
)
_boolean("use_aux_head", "Train an auxiliary classifier on an inner layer as well.")
_float("aux_scaling", "Factor for the number of filters in the auxiliary classifier.", 0.01)
_enum("data_format", ["NHWC", "NCHW"], "Order of the axes. The CPU supports NHWC only.")

# Training.
_float("num_epochs", "Number of epochs to train, counted from the first step.", 0.0)
_integer("train_batch_size", "Images per training step, on all devices together.", 1)
_enum("optimizer", ["sgd", "momentum", "rmsprop"], "Optimizer that updates the weights.")
_float("lr", "Initial learning rate.", 0.0)
_enum(
    "lr_scaling",
    ["none", "linear"],
    "If linear, the initial learning rate is --lr x --train_batch_size / --lr_base_batch_size; if "
    "none, it is --lr.",
)
_integer("lr_base_batch_size", "Batch size that --lr is meant for.", 1)
_enum(
    "lr_decay_method",
    ["exponential", "cosine", "stepwise", "constant"],
    "Schedule of the learning rate. Over --num_epochs, cosine lets it fall to its minimum, and "
    "stepwise divides it by 10 after 1/3, 2/3, and 8/9; --train_steps changes neither.",
)
_float(
    "lr_decay_value",
    "Factor by which the exponential schedule multiplies the learning rate at each decay.",
    0.0,
    1.0,
)
_float("lr_num_epochs_per_decay", "Epochs between two decays of the exponential schedule.", 0.0)
_float(
    "lr_warmup_epochs",
    "Epochs in which the exponential schedule raises the learning rate linearly from 0.",
    0.0,
)
_float("weight_decay", "Factor of the L2 regularization.", 0.0)
_float("drop_connect_keep_prob", "Probability that drop path keeps a branch of a cell.", 0.0, 1.0)
_enum(
    "drop_connect_version",
    ["v1", "v2", "v3"],
    "Drop path becomes stronger over time (v1), with depth (v2), or with both (v3).",
)
_integer(
    "drop_connect_burn_in_steps",
    "Steps after which drop path has its full strength (v1 and v3). If not set, the steps of "
    "--num_epochs.",
    0,
)
_float(
    "dense_dropout_keep_prob",
    "Probability that dropout before the last layer keeps a feature.",
    0.0,
    1.0,
)
_float(
    "batch_norm_decay", "Decay of the moving mean and variance of batch normalization.", 0.0, 1.0
)
_float(
    "batch_norm_epsilon",
    "Number that batch normalization adds to the variance; less counts as 1.001e-5.",
    0.0,
)
_float(
    "moving_average_decay",
    "Decay of the moving averages of all weights, which evaluation uses. If 0, there are none.",
    0.0,
    1.0,
)
_float(
    "gradient_clipping_by_global_norm",
    "If the global norm of the gradients exceeds this number, they are scaled down to it. If 0, "
    "they are not.",
)
_enum(
    "on_nan", ["stop", "skip"], "If the loss or a gradient is not finite: stop, or skip the step."
)
_integer("max_nan_steps", "With --on_nan=skip: the most steps in a row that may be skipped.", 1)
_integer(
    "max_skipped_steps",
    "Training ends if loss scaling skips more than this many steps in a row because gradients "
    "overflow.",
    1,
)

# Transfer learning.
_string(
    "init_checkpoint",
    "Checkpoint, or directory of checkpoints, that a new training takes its initial weights from.",
)
_string(
    "init_exclude",
    "Regular expression: variables whose names contain a match are not taken from the checkpoint.",
)
_boolean(
    "init_averages",
    "Take moving averages rather than weights from --init_checkpoint if it has them.",
)
_string(
    "trainable_variables",
    "Regular expression: only variables whose names contain a match are trained.",
)
_boolean(
    "freeze_batch_norm",
    "In training, normalize with the moving mean and variance, and do not update them.",
)

# Data.
_integer(
    "num_train_images",
    "Images in one epoch of training. If not set, dataset.json takes precedence over the default.",
    1,
)
_integer(
    "num_eval_images",
    "Validation images to evaluate. If not set, dataset.json takes precedence over the default.",
    1,
)
_enum(
    "on_bad_record",
    ["fail", "skip"],
    "If a record is damaged or its label is out of range: fail, or skip the record.",
)
_float(
    "max_bad_fraction",
    "With --on_bad_record=skip: the largest fraction of bad records that is tolerated.",
    0.0,
    1.0,
)
_boolean(
    "deterministic_input",
    "Read the same batches in every run with the same --random_seed. Reading is slower then.",
)
_boolean(
    "augment",
    "Crop, flip, and distort training images at random. If False, process them as in evaluation.",
)
_boolean(
    "use_fast_color_distort",
    "Distort only brightness and chroma. If False, distort brightness, saturation, hue, and "
    "contrast.",
)
_float("cb_distortion_range", "Largest shift of the blue chroma, Cb.", 0.0, 1.0)
_float("cr_distortion_range", "Largest shift of the red chroma, Cr.", 0.0, 1.0)

# Several processes (TF_CONFIG).
_enum(
    "collectives",
    options.COLLECTIVES,
    "How the processes sum their gradients. With auto, TensorFlow chooses.",
)
_integer(
    "cluster_timeout",
    "Seconds to wait until all processes have connected and compared their settings; on NPUs, "
    "seconds to wait for another process's part of an evaluation.",
    1,
)
_integer(
    "stall_timeout",
    "Seconds after which all processes exit, with status 75, if no training step ends. Saving a "
    "checkpoint counts as part of a step; --cluster_timeout is added before the first step. If 0, "
    "there is no limit.",
    0,
)

# Ascend NPUs; --precision_mode and --loss_scale apply to GPUs as well, --xla only to GPUs.
_enum(
    "precision_mode",
    options.PRECISION_MODES,
    "Number formats of the computation. A GPU accepts some of these modes.",
)
_string("loss_scale", "Loss scale in mixed precision: dynamic, none, or a number of at least 1.")
_integer("npu_iterations_per_loop", "Steps that the NPU runs before it returns to the host.", 1)
_string("profile_dir", "Directory to write a profile of the training to.")
_string("dump_dir", "Directory to dump tensors to.")
_enum("dump_mode", options.DUMP_MODES, "Tensors of each operator to dump.")
_string(
    "dump_step",
    "Steps to dump, for example 0|5-10, in quotes in a shell. If not set, all steps.",
)
_enum(
    "dump_debug",
    options.DUMP_DEBUG_MODES,
    "If set, dump only operators with this kind of overflow.",
)
_string("op_compiler_cache_dir", "Directory that keeps compiled operators for the next start.")
_string("fusion_switch_file", "JSON file that switches fusions of operators on and off.")
_string("modify_mixlist", "JSON file that changes which operators mixed precision converts.")
_boolean(
    "xla",
    "On GPUs, compile the graph with XLA. The first step takes minutes longer then; whether the "
    "others are faster depends on the GPU.",
)
_boolean("deterministic", "Compute all sums in the same order in every run.")
_enum(
    "aoe_mode",
    options.AOE_MODES,
    "Mode of Ascend's tuning engine AOE; for example, 1 tunes graphs, and 2 tunes operators.",
)

# Evaluation, checkpoints, and export.
_integer("eval_batch_size", "Images per step of evaluation and prediction.", 1)
_boolean("eval_drop_remainder", "Leave out the images that do not fill the last batch.")
_integer("eval_timeout", "Seconds that eval waits for a new checkpoint before it ends.", 1)
_float("num_epochs_per_eval", "Epochs between two evaluations of train_and_eval.", 0.0)
_integer("save_checkpoints_steps", "Steps between two checkpoints. If 0, --iterations_per_loop.", 0)
_integer("log_steps", "Steps between two lines of the log, and between two summaries.", 1)
_integer(
    "keep_checkpoint_max",
    "Number of the newest checkpoints that are kept. The best one is kept in best/ as well.",
    1,
)
_integer(
    "iterations_per_loop", "Steps between two checkpoints if --save_checkpoints_steps is 0.", 1
)
_boolean("add_warmup_requests", "Add warm-up requests for TensorFlow Serving to the SavedModel.")
_string("model_name", "Name of the served model in the warm-up requests.")
_multi_integer("inference_batch_sizes", "Batch sizes of the warm-up requests.", 1)
flags.DEFINE_boolean("enable_hostcall", False, _NO_EFFECT)
flags.DEFINE_integer("num_shards", None, _NO_EFFECT)
flags.DEFINE_integer("distributed_group_size", 1, _NO_EFFECT)
flags.register_validator(
    "use_tpu", lambda value: not value, "there is no TPU here; see --accelerator."
)

FLAGS = flags.FLAGS


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1]!r}.")
    process.set_up()
    chosen = settings.from_flags(FLAGS)
    with process.exiting_with_a_sentence(argv[0]):
        device = preparation.prepare(chosen)
    with process.exiting_with_a_sentence(argv[0], chosen.run.results_dir):
        allocator.keep_large_buffers()
        run.run_mode(chosen.hparams, device, chosen.run)


if __name__ == "__main__":
    app.run(main, flags_parser=process.parse_flags)
