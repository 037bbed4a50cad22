#!/usr/bin/env python
"""Trains, evaluates and runs AmoebaNet image classifiers.

    python amoeba_net.py --mode=train_and_eval --data_dir=DATA --model_dir=MODEL

Flags become hyper-parameters, hyper-parameters a model and two input pipelines, and these one mode.
"""

import contextlib
import functools
import gc
import logging
import math
import os
import sys
from typing import Optional

import tensorflow.compat.v1 as tf
import tqdm
from absl import app, flags
from tensorflow.python.util import deprecation

import amoeba_net_model
import model_builder
import model_specs
import prediction
import serving
import settings
from common import curves, results, storage
from common.checkpoints import checkpoints
from common.data import allocator
from common.devices import options
from common.devices.device import Device
from common.distribution import cluster
from common.errors import UserError
from common.hooks import interruption, nonfinite, progress
from common.hooks.speed import SessionTimingHook, ThroughputHook
from common.hooks.summaries import LastValueHook
from common.hparams import HParams

MODES = ("train", "eval", "train_and_eval", "predict", "export")
_NAN_ADVICE = {
    "stop": "Lower --lr, or leave such steps out with --on_nan=skip.",
    "skip": "Lower --lr, or start from an earlier checkpoint.",
}
LR_DECAY_METHODS = ("exponential", "cosine", "stepwise", "constant")

# What to run, and on what.
flags.DEFINE_enum("mode", "train_and_eval", MODES, "What to do.")
flags.DEFINE_enum("accelerator", "auto", options.NAMES, "Device; auto takes the best there is.")
flags.DEFINE_boolean("use_tpu", False, "Kept from the TPU original: there is no TPU here.")
flags.DEFINE_string("data_dir", None, "Directory of the TFRecords, flat or by split.")
flags.DEFINE_string("model_dir", None, "Directory of checkpoints, logs and results.json.")
flags.DEFINE_string(
    "checkpoint_path", None, "Eval, predict, export: take this checkpoint only, and end."
)
flags.DEFINE_string("export_dir", None, "Where to export the model to, at the end of any mode.")
flags.DEFINE_list("export_format", ["saved_model"], "Of saved_model and frozen_graph, or both.")
flags.DEFINE_multi_string("image_paths", [], "Predict: files, folders and patterns of images.")
flags.DEFINE_string("predictions_file", None, "Predict: answers as .csv, or else as JSON lines.")
flags.DEFINE_boolean("synthetic_data", False, "One batch of noise: speed without input.")
flags.DEFINE_integer("train_steps", 0, "Global step to train to; 0: from num_epochs.", 0)
flags.DEFINE_integer("random_seed", None, "Seed of weights, order and distortions; None: random.")

# The network.
flags.DEFINE_enum("cell_name", "amoeba_net_d", model_specs.CELL_NAMES, "Which AmoebaNet.")
flags.DEFINE_integer("num_cells", 6, "Normal cells of all stacks together.", 2)
flags.DEFINE_integer("reduction_size", 256, "Filters of the first stack of cells.", 4)
flags.DEFINE_integer("stem_reduction_size", 32, "Filters of the first convolution.", 1)
flags.DEFINE_integer("image_size", 224, "Width and height of the input, in pixels.", 1)
flags.DEFINE_integer("num_label_classes", 1001, "Classes, with the background class 0.", 2)
flags.DEFINE_boolean("use_aux_head", True, "Train an auxiliary classifier on an inner layer.")
flags.DEFINE_float("aux_scaling", 0.4, "Width of the auxiliary head.", 0.01)
flags.DEFINE_enum("data_format", "NHWC", ["NHWC", "NCHW"], "Axis order; NCHW not on the CPU.")

# Training.
flags.DEFINE_float("num_epochs", 35.0, "Epochs to train, counted from the first step.", 0.0)
flags.DEFINE_integer("train_batch_size", 64, "Images a training step.", 1)
flags.DEFINE_enum("optimizer", "sgd", ["sgd", "momentum", "rmsprop"], "Optimizer.")
flags.DEFINE_float("lr", 2.56, "Initial learning rate.", 0.0)
flags.DEFINE_enum("lr_scaling", "none", ["none", "linear"], "Linear: lr is of lr_base_batch_size.")
flags.DEFINE_integer("lr_base_batch_size", 1024, "Batch that the lr of linear scaling is of.", 1)
flags.DEFINE_enum("lr_decay_method", "exponential", LR_DECAY_METHODS, "Schedule.")
flags.DEFINE_float("lr_decay_value", 0.88, "Factor of the exponential schedule.", 0.0, 1.0)
flags.DEFINE_float("lr_num_epochs_per_decay", 1.0, "Epochs between two decays.", 0.0)
flags.DEFINE_float("lr_warmup_epochs", 0.35, "Epochs of linear warm-up (exponential).", 0.0)
flags.DEFINE_float("weight_decay", 4e-5, "Scale of the L2 regularisation.", 0.0)
flags.DEFINE_float("drop_connect_keep_prob", 1.0, "Probability of keeping a branch.", 0.0, 1.0)
flags.DEFINE_enum(
    "drop_connect_version", "v1", ["v1", "v2", "v3"], "Dropping grows with time, depth or both."
)
flags.DEFINE_integer(
    "drop_connect_burn_in_steps", None, "Steps to drop path's full strength; 0: none; None: all.", 0
)
flags.DEFINE_float("dense_dropout_keep_prob", 0.5, "Part of the last features kept.", 0.0, 1.0)
flags.DEFINE_float("batch_norm_decay", 0.9, "Decay of the batch statistics.", 0.0, 1.0)
flags.DEFINE_float("batch_norm_epsilon", 1e-5, "Epsilon of batch normalisation.", 0.0)
flags.DEFINE_float("moving_average_decay", 0.9999, "Decay of the averages; 0: none.", 0.0, 1.0)
flags.DEFINE_float("gradient_clipping_by_global_norm", 0.0, "Largest gradient norm; 0: any.")
flags.DEFINE_enum("on_nan", "stop", ["stop", "skip"], "Where loss or gradients are not finite.")
flags.DEFINE_integer("max_nan_steps", 10, "Skip: steps in a row that may be left out.", 1)

# Transfer learning.
flags.DEFINE_string("init_checkpoint", None, "Checkpoint or model_dir to start a training from.")
flags.DEFINE_string("init_exclude", None, "Do not take what this regular expression finds.")
flags.DEFINE_boolean("init_averages", True, "Take moving averages where there are, or weights.")
flags.DEFINE_string("trainable_variables", None, "Train what this regular expression finds only.")
flags.DEFINE_boolean("freeze_batch_norm", False, "Neither use nor move batch statistics.")

# Data.
flags.DEFINE_integer("num_train_images", 1281167, "Images of one epoch.", 1)
flags.DEFINE_integer("num_eval_images", 50000, "Validation images to evaluate.", 1)
flags.DEFINE_enum("on_bad_record", "fail", ["fail", "skip"], "Stop at bad records, or not.")
flags.DEFINE_float("max_bad_fraction", 0.001, "Skip: stop where more is bad.", 0.0, 1.0)
flags.DEFINE_boolean("deterministic_input", False, "Same seed, same batches; slower.")
flags.DEFINE_boolean("augment", True, "Crop, flip and distort training images; else as in eval.")
flags.DEFINE_boolean("use_fast_color_distort", True, "Shift colours only; else distort them fully.")
flags.DEFINE_float("cb_distortion_range", 0.1, "Largest shift of blue chroma.", 0.0, 1.0)
flags.DEFINE_float("cr_distortion_range", 0.1, "Largest shift of red chroma.", 0.0, 1.0)

# Several processes, by TF_CONFIG.
flags.DEFINE_enum(
    "collectives", "auto", options.COLLECTIVES, "How gradients are summed over processes."
)
flags.DEFINE_integer("cluster_timeout", 600, "Seconds to wait for the other processes.", 1)

# Ascend NPUs; the first two are for GPUs as well.
flags.DEFINE_enum(
    "precision_mode", "allow_fp32_to_fp16", options.PRECISION_MODES, "Number formats."
)
flags.DEFINE_string("loss_scale", "dynamic", "Loss scale: dynamic, none or a number.")
flags.DEFINE_integer("npu_iterations_per_loop", 1, "Steps on the NPU between host's turns.", 1)
flags.DEFINE_string("profile_dir", None, "Where to write a profile of training.")
flags.DEFINE_string("dump_dir", None, "Where to dump tensors.")
flags.DEFINE_enum("dump_mode", "all", options.DUMP_MODES, "Which tensors of an operator.")
flags.DEFINE_string("dump_step", None, "Steps to dump, like 0|5-10; None: all.")
flags.DEFINE_enum(
    "dump_debug", None, options.DUMP_DEBUG_MODES, "Dump operators that overflow, not all."
)
flags.DEFINE_string("op_compiler_cache_dir", None, "Keeps compiled operators for the next start.")
flags.DEFINE_string("fusion_switch_file", None, "JSON of fusions to switch on and off.")
flags.DEFINE_string("modify_mixlist", None, "JSON of operators to compute in other precision.")
flags.DEFINE_boolean("deterministic", False, "The same sums in the same order each time.")
flags.DEFINE_enum("aoe_mode", None, options.AOE_MODES, "Tune graphs (1) or operators (2).")

# Evaluation, checkpoints and export.
flags.DEFINE_integer("eval_batch_size", 64, "Images an evaluation step.", 1)
flags.DEFINE_boolean("eval_drop_remainder", False, "Leave out what does not fill the last batch.")
flags.DEFINE_integer("eval_timeout", 86400, "Seconds eval waits for another checkpoint.", 1)
flags.DEFINE_integer("num_epochs_per_eval", 1, "Epochs between two evaluations.", 1)
flags.DEFINE_integer("save_checkpoints_steps", 0, "Steps a checkpoint; 0: iterations_per_loop.", 0)
flags.DEFINE_integer("log_steps", 100, "Steps between lines of the log, and summaries.", 1)
flags.DEFINE_integer("keep_checkpoint_max", 5, "Newest checkpoints to keep; and best/.", 1)
flags.DEFINE_integer("iterations_per_loop", 1251, "Default of save_checkpoints_steps.", 1)
flags.DEFINE_boolean("add_warmup_requests", False, "Add warm-up requests to the exported model.")
flags.DEFINE_string("model_name", "amoeba_net", "Name of the served model in warm-up requests.")
flags.DEFINE_multi_integer("inference_batch_sizes", [8], "Batch sizes of the warm-up requests.", 1)
flags.DEFINE_boolean("enable_hostcall", False, "Kept from the TPU original; has no effect.")
flags.DEFINE_integer("num_shards", None, "Kept from the TPU original; has no effect.")
flags.DEFINE_integer("distributed_group_size", 1, "Kept from the TPU original; has no effect.")

FLAGS = flags.FLAGS


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1]!r}.")
    set_up_logging()
    # Graphs are many objects that stay: looking for garbage among them takes a fifth of building.
    gc.set_threshold(100_000)
    try:
        hparams = settings.hparams_from_flags(FLAGS)
        settings.take_dataset_info(FLAGS, hparams)
        settings.check_flags(FLAGS, hparams)
        settings.scale_learning_rate(FLAGS, hparams)
        settings.check_directories(FLAGS, hparams)
        device = settings.choose_device(FLAGS)
        allocator.keep_large_buffers()
        run_mode(hparams, device)
    except cluster.LostPeerError as error:
        cluster.end_process(error)
    except UserError as error:
        sys.exit(f"amoeba_net.py: {error}")
    except interruption.Interrupted as error:
        tf.logging.warning("%s The same command goes on from there.", error)
        sys.exit(interruption.EXIT_STATUS)
    except (OSError, ValueError, tf.errors.OpError) as error:
        directory = None if settings.only_reads_checkpoint(FLAGS) else FLAGS.model_dir
        explanation = storage.explain(error, directory)
        if not explanation:
            raise
        sys.exit(f"amoeba_net.py: {explanation}")


def run_mode(hparams: HParams, device: Device):
    """Does what --mode says; training alone in its directory, and until a signal comes."""
    stopper = interruption.Stopper()
    with contextlib.ExitStack() as stack:
        mode = "eval" if device.is_evaluator and FLAGS.mode.startswith("train") else FLAGS.mode
        if mode.startswith("train"):
            stack.enter_context(stopper.listening())
        if mode.startswith("train") and device.writes:
            directory = device.model_dir(FLAGS.model_dir)
            stack.enter_context(storage.locked(directory))
            checkpoints.repair(directory, FLAGS.keep_checkpoint_max)
        run = Run(hparams, device, stopper)
        if not run.device.is_chief and not FLAGS.mode.startswith("train"):
            tf.logging.info("Rank %d leaves this to rank 0.", run.device.rank)
            return
        {
            "train": run.train_mode,
            "eval": run.eval_mode,
            "train_and_eval": run.train_and_eval_mode,
            "predict": run.classify_mode if FLAGS.image_paths else run.predict_mode,
            "export": run.export,
        }[mode]()
        if FLAGS.export_dir and mode == FLAGS.mode != "export" and run.device.is_chief:
            run.export()


def set_up_logging():
    """Lets TensorFlow log what goes on, each line once."""
    # They are about TensorFlow's own code, and looking for them takes a fifth of graph building.
    deprecation._PRINT_DEPRECATION_WARNINGS = False
    tf.logging.set_verbosity(tf.logging.INFO)
    logging.getLogger("tensorflow").propagate = False  # absl's handler would repeat each line.


class Run:
    """One run of the program: the model, its Estimator and its two inputs."""

    def __init__(
        self,
        hparams: HParams,
        device: Device,
        stopper: interruption.Stopper,
    ):
        self.hparams = hparams
        self.device = device
        self.stopper = stopper
        self.model_dir = device.model_dir(FLAGS.model_dir)
        self.train_steps = FLAGS.train_steps or model_builder.num_train_steps(hparams)
        steps_per_epoch = math.ceil(hparams.num_train_images / hparams.train_batch_size)
        self.steps_per_eval = FLAGS.num_epochs_per_eval * steps_per_epoch
        self.checkpoint_steps = FLAGS.save_checkpoints_steps or FLAGS.iterations_per_loop
        self.check_device()
        self.train_input = amoeba_net_model.InputPipeline(
            True,
            FLAGS.data_dir,
            hparams,
            sharding=device.sharding,
            num_devices=device.num_devices,
        )
        self.eval_input = amoeba_net_model.InputPipeline(False, FLAGS.data_dir, hparams)
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, self.model_dir, device)
        estimator = functools.partial(
            device.estimator,
            model.model_fn,
            self.model_dir,
            save_checkpoints_steps=self.checkpoint_steps,
            random_seed=hparams.random_seed,
            log_steps=FLAGS.log_steps,
            keep_checkpoint_max=FLAGS.keep_checkpoint_max,
        )
        self.trainer, self.estimator = estimator(training=True), estimator()
        for name, value in hparams.values().items():
            tf.logging.info("%s = %s", name, value)

    def check_device(self):
        """Checks batches and steps against the devices that train together."""
        if not FLAGS.mode.startswith("train"):
            return
        devices = self.device.num_devices
        if self.hparams.train_batch_size % devices:
            raise UserError(
                f"--train_batch_size={self.hparams.train_batch_size} does not divide by the "
                f"{devices} devices: it counts the images of all of them together."
            )
        self.device.check_save_steps(self.checkpoint_steps)
        if FLAGS.on_nan == "skip" and self.device.replicates:
            raise UserError(
                f"--on_nan=skip is for one device, and these are {devices}: use --on_nan=stop."
            )
        # Ranks that start from different steps would wait for each other in the end, forever.
        chief = checkpoints.latest(FLAGS.model_dir)
        chief_step = checkpoints.global_step(chief) if chief else 0
        if chief_step != self.current_step():
            raise UserError(
                f"The ranks' checkpoints differ: step {chief_step} in {FLAGS.model_dir}, "
                f"{self.current_step()} in {self.model_dir}. Remove the newer ones."
            )

    # Modes ---------------------------------------------------------------------------------------

    def train_mode(self):
        self.train(self.train_steps)

    def eval_mode(self):
        """Evaluates each checkpoint as it appears, until that of the last step."""
        if FLAGS.checkpoint_path:
            self.evaluate(checkpoints.resolve(FLAGS.checkpoint_path))
            return
        for checkpoint in checkpoints.wait_for_new(self.model_dir, FLAGS.eval_timeout):
            consequence = f"{checkpoint} was deleted during its evaluation: taking the next one."
            with checkpoints.warning_if_deleted(checkpoint, consequence):
                step = checkpoints.global_step(checkpoint)
                self.evaluate(checkpoint)
                if step >= self.train_steps:
                    tf.logging.info("Evaluated the last step, %d.", step)
                    return

    def train_and_eval_mode(self):
        """Evaluates every `num_epochs_per_eval` epochs; a finished run once."""
        step = self.current_step()
        if step >= self.train_steps:
            tf.logging.info("Training has finished already, at step %d.", step)
            self.evaluate(checkpoints.latest(self.model_dir))
        elif self.device.cluster:
            step = self.train_together()
        elif (
            step
            and step % self.steps_per_eval == 0
            and not results.is_evaluated(self.model_dir, step)
        ):
            self.evaluate(checkpoints.latest(self.model_dir))  # It ended before it could.
        while step < self.train_steps:
            # Whole multiples, so that a resumed run evaluates where an undisturbed one does.
            step = min((step // self.steps_per_eval + 1) * self.steps_per_eval, self.train_steps)
            self.train(step)
            self.evaluate(checkpoints.latest(self.model_dir))

    def train_together(self) -> int:
        """Trains with other processes; an evaluator among them evaluates, else the chief does."""
        self.train(self.train_steps)
        if not self.device.cluster.has_evaluator:
            self.evaluate(checkpoints.latest(self.model_dir))
        return self.train_steps

    def predict_mode(self):
        """Measures inference speed on the validation images."""
        checkpoint = self.checkpoint_to_read()
        step = checkpoints.global_step(checkpoint)
        timing = SessionTimingHook()
        batches = self.estimator.predict(
            self.eval_input.input_fn,
            hooks=[timing],
            checkpoint_path=checkpoint,
            yield_single_examples=False,
        )
        num_batches = amoeba_net_model.num_eval_batches(self.hparams)
        with self.eval_input.naming_bad_records():
            count = sum(1 for _ in tqdm.tqdm(batches, total=num_batches, unit="batch"))
        speed = timing.compute_speed(count * self.hparams.eval_batch_size)
        tf.logging.info("Inference speed = %s images per second.", speed)
        self.record(
            "predict", checkpoint, step, {}, timing.statistics(self.hparams.eval_batch_size)
        )

    def classify_mode(self):
        """Classifies the user's own images."""
        names = serving.class_names(FLAGS.data_dir, self.hparams.num_label_classes)
        paths = prediction.find_images(FLAGS.image_paths)
        answers = []
        for answer in prediction.classify(
            self.estimator, self.checkpoint_to_read(), self.hparams, paths
        ):
            print(prediction.text(answer, names), flush=True)
            answers.append(answer)
        if FLAGS.predictions_file:
            prediction.write_answers(FLAGS.predictions_file, answers, names)
        failed = sum(1 for answer in answers if answer.error)
        if failed:
            raise UserError(f"{failed} of {len(paths)} images could not be read; see above.")

    def export(self):
        """Exports the checkpoint in all formats asked for."""
        labels = serving.class_names(FLAGS.data_dir, self.hparams.num_label_classes)
        args = (self.checkpoint_to_read(), self.hparams, FLAGS.export_dir, labels)
        if "saved_model" in FLAGS.export_format:
            serving.export_saved_model(
                *args,
                warmup_batch_sizes=FLAGS.inference_batch_sizes if FLAGS.add_warmup_requests else (),
                model_name=FLAGS.model_name,
            )
        if "frozen_graph" in FLAGS.export_format:
            serving.export_frozen_graph(*args)

    # Steps of a mode -----------------------------------------------------------------------------

    def checkpoint_to_read(self) -> str:
        """The checkpoint that is asked for, else the latest."""
        return checkpoints.resolve(FLAGS.checkpoint_path or self.model_dir)

    def current_step(self) -> int:
        """Step of the latest checkpoint, 0 if there is none."""
        latest = checkpoints.latest(self.model_dir)
        return checkpoints.global_step(latest) if latest else 0

    def train(self, max_steps: int):
        """Trains until the global step `max_steps`, from wherever the latest checkpoint is."""
        if self.current_step() >= max_steps:
            tf.logging.info("Step %d is reached already: nothing to train.", max_steps)
            return
        summary_dir = self.model_dir if self.device.writes else None
        throughput = ThroughputHook(
            self.hparams.train_batch_size, summary_dir, every_n_steps=FLAGS.log_steps
        )
        loss = LastValueHook("total_loss:0")
        shown = progress.ProgressHook(
            self.train_steps,
            self.hparams.train_batch_size,
            bar=sys.stderr.isatty(),
            every_n_steps=FLAGS.log_steps,
        )
        hooks = [
            *[throughput, loss, self.non_finite_hook()],
            interruption.StopHook(self.stopper, self.stop_file()),
            *self.device.training_hooks(
                self.model_dir, self.checkpoint_steps, FLAGS.log_steps, max_steps
            ),
            shown,
        ]
        self.train_input.start_step = self.current_step()
        with contextlib.closing(shown), self.train_input.naming_bad_records():
            self.device.train(
                self.trainer,
                self.train_input.input_fn,
                max_steps,
                hooks,
                self.saving_listeners(),
                self.stopper.check,
            )
        metrics = {"loss": loss.value}
        figures = {**throughput.statistics(), "losses": loss.history}
        checkpoint = checkpoints.latest(self.model_dir)
        step = self.current_step()
        self.record("train", checkpoint, step, metrics, figures)
        if self.device.is_chief:
            curves.draw_or_warn(self.model_dir)
        if self.stopper.name:
            raise interruption.Interrupted(
                f"Stopped by {self.stopper.name} at step {step} of {self.train_steps}, saved as "
                f"{checkpoint}."
            )

    def stop_file(self) -> Optional[str]:
        """Where processes that train together agree on the step to stop at."""
        if self.device.num_devices == 1 or not os.path.isdir(FLAGS.model_dir):
            return None
        return os.path.join(FLAGS.model_dir, ".stop_step")

    def non_finite_hook(self) -> nonfinite.NonFiniteHook:
        skips = FLAGS.on_nan == "skip"
        # Steps that loss scaling leaves out are its own way of finding a scale.
        only_loss = self.device.skips_steps
        return nonfinite.NonFiniteHook(
            loss="total_loss:0",
            learning_rate="learning_rate:0",
            skips=skips,
            was_applied=f"{amoeba_net_model.STEP_WAS_APPLIED}:0" if skips or only_loss else None,
            only_loss=only_loss,
            max_in_row=FLAGS.max_nan_steps,
            last_checkpoint=functools.partial(checkpoints.latest, self.model_dir),
            advice=_NAN_ADVICE[FLAGS.on_nan],
        )

    def saving_listeners(self) -> list:
        guard = storage.DirectoryGuard(self.model_dir)
        if self.device.skips_steps:
            return [guard]  # Nothing that is not finite gets into its variables.
        last_checkpoint = functools.partial(checkpoints.latest, self.model_dir)
        return [guard, nonfinite.FiniteCheckpoints(last_checkpoint, _NAN_ADVICE[FLAGS.on_nan])]

    def evaluate(self, checkpoint: str):
        """Evaluates the moving averages of one checkpoint over the validation images."""
        if not self.device.is_chief:
            tf.logging.info("Rank %d leaves evaluation to rank 0.", self.device.rank)
            return
        timing = SessionTimingHook()
        with self.eval_input.naming_bad_records():
            metrics = self.estimator.evaluate(
                self.eval_input.input_fn,
                steps=amoeba_net_model.num_eval_batches(self.hparams),
                hooks=[timing, interruption.CheckHook(self.stopper)],
                checkpoint_path=checkpoint,
            )
        images = amoeba_net_model.correct_loss(metrics, self.hparams, self.eval_input.num_images)
        names = ("loss", "top_1_accuracy", "top_5_accuracy", "global_step")
        tf.logging.info("Evaluation results: %s", {name: metrics[name] for name in names})
        step = int(metrics.pop("global_step"))
        metrics["images"] = images
        figures = timing.statistics(self.hparams.eval_batch_size)
        figures["best"] = results.keep_best(
            self.model_dir, checkpoint, step, metrics["top_1_accuracy"]
        )
        self.record("eval", checkpoint, step, metrics, figures)
        curves.draw_or_warn(self.model_dir)

    def record(self, kind: str, checkpoint: str, step: int, metrics: dict, speed: dict):
        """Adds what was done to results.json."""
        gc.collect()  # A round's graph is garbage in cycles, of 100 MB, and collecting is rare.
        allocator.return_free_memory()  # The next graph does not fit into its pieces.
        if not self.device.writes:
            return
        results.append_result(
            self.model_dir,
            kind,
            {
                "global_step": step,
                "checkpoint": os.path.basename(checkpoint),
                "metrics": metrics,
                **speed,
                "accelerator": self.device.name,
                "num_devices": self.device.num_devices,
                "precision_mode": self.device.options.precision_mode,
                "hparams": self.hparams.values(),
            },
        )


if __name__ == "__main__":
    app.run(main)
