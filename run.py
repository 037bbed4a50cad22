"""The program's modes: train, eval, train_and_eval, predict, export."""

import contextlib
import functools
import gc
import math
import os
import sys
from typing import Optional, Tuple

import numpy as np
import tqdm

import amoeba_net_model
import evaluation_report
import model_builder
import prediction
import serving
import train_step
from common import curves, hparams_tab, results
from common.checkpoints import best, reading, selection, storage
from common.data import allocator
from common.data.class_names import class_names
from common.devices.device import Device
from common.distribution import peers
from common.distribution.shares import Shares
from common.errors import UserError
from common.hooks import interruption, nonfinite, progress, summaries
from common.hooks.speed import SessionTimingHook, ThroughputHook
from common.hparams import HParams
from common.runtime import tf
from settings import RunOptions, common_to_processes

_ACCURACIES = ("top_1_accuracy", "top_5_accuracy")


def run_mode(hparams: HParams, device: Device, options: RunOptions):
    """Runs one mode. A training locks its directory, and stops in order when a signal arrives."""
    if device.is_evaluator and options.trains:
        options = options._replace(mode="eval", export_dir=None)  # The chief exports.
    if not device.is_chief and not options.trains:
        tf.logging.info("Rank %d leaves this to rank 0.", device.rank)
        return
    stopper = interruption.Stopper()
    with contextlib.ExitStack() as stack:
        if options.trains:
            stack.enter_context(stopper.listening())
        if options.trains and device.writes:
            directory = device.model_dir(options.model_dir)
            stack.enter_context(storage.locked(directory))
            storage.repair(directory, options.keep_checkpoint_max)
        run = Run(hparams, device, options, stopper)
        {
            "train": functools.partial(run.train, run.train_steps),
            "eval": run.eval_mode,
            "train_and_eval": run.train_and_eval_mode,
            "predict": run.classify_mode if options.image_paths else run.predict_mode,
            "export": run.export,
        }[options.mode]()
        if options.export_dir and options.mode != "export" and device.is_chief:
            run.export()


class Run:
    """One run of the program: the model, its Estimators, and its two input pipelines."""

    def __init__(
        self, hparams: HParams, device: Device, options: RunOptions, stopper: interruption.Stopper
    ):
        self.hparams = hparams
        self.device = device
        self.options = options
        self.stopper = stopper
        # Nothing is written beside a checkpoint that is only read, but for an Estimator without a
        # directory TensorFlow would make one, which stays.
        self.model_dir = device.model_dir(options.model_dir or options.checkpoint_path)
        self.last_checkpoint = functools.partial(selection.latest, self.model_dir)
        self.train_steps = options.train_steps or model_builder.num_train_steps(hparams)
        steps_per_epoch = math.ceil(hparams.num_train_images / hparams.train_batch_size)
        self.steps_per_eval = max(1, int(options.num_epochs_per_eval * steps_per_epoch))
        if options.trains and self.model_dir != options.model_dir:
            self.start_at_step_of_chief()
        self.train_input = amoeba_net_model.InputPipeline(
            True,
            options.data_dir,
            hparams,
            sharding=device.sharding,
            num_devices=device.num_devices,
        )
        self.shares = self.shares_of_evaluation()
        self.eval_hparams = hparams
        if self.shares:
            self.eval_hparams = amoeba_net_model.share_of_evaluation(hparams, *device.sharding())
        self.eval_input = amoeba_net_model.InputPipeline(
            False,
            options.data_dir,
            self.eval_hparams,
            sharding=device.sharding if self.shares else None,
        )
        self.report = None
        if options.report_dir:
            data_dir = None if hparams.synthetic_data else options.data_dir
            names = class_names(data_dir, hparams.num_label_classes)
            self.report = evaluation_report.EvaluationReport(
                options.report_dir, data_dir, hparams, names
            )
        self.trainer, self.estimator = self.estimators()
        for name, value in hparams.values().items():
            tf.logging.info("%s = %s", name, value)

    def estimators(self) -> Tuple[tf.estimator.Estimator, tf.estimator.Estimator]:
        """The Estimator that trains, and that which evaluates, predicts, and exports."""
        device, options = self.device, self.options
        estimator = functools.partial(
            device.estimator,
            model_dir=self.model_dir,
            save_checkpoints_steps=options.checkpoint_steps,
            random_seed=self.hparams.random_seed,
            log_steps=options.log_steps,
            keep_checkpoint_max=options.keep_checkpoint_max,
        )
        model = functools.partial(
            amoeba_net_model.AmoebaNetEstimatorModel, model_dir=self.model_dir, device=device
        )
        self.training_model = model(self.hparams)
        evaluated = model(
            self.eval_hparams,
            explains=bool(options.explain_dir),
            watch_evaluation=self.report and self.report.watch,
        )
        return estimator(self.training_model.model_fn, training=True), estimator(evaluated.model_fn)

    def shares_of_evaluation(self) -> Optional[Shares]:
        """What the ranks exchange if each evaluates a share of the images; None otherwise."""
        device, options = self.device, self.options
        enough = self.hparams.num_eval_images >= device.num_devices
        if not (device.shares_evaluation and options.mode == "train_and_eval" and enough):
            return None
        return Shares(
            options.model_dir,
            *device.sharding(),
            timeout=device.options.cluster_timeout,
            check=self.stopper.check,
        )

    def start_at_step_of_chief(self):
        """The ranks start at the same step: at the end the others would wait forever."""
        chief, step = selection.latest(self.options.model_dir), self.current_step()
        if step and not chief:
            where = f"{self.model_dir} is at step {step}, but {self.options.model_dir}"
            raise UserError(f"{where} has no checkpoint. Copy that one there, or remove it.")
        if chief and step != reading.global_step(chief):
            tf.logging.warning("Rank %d goes on from rank 0's %s.", self.device.rank, chief)
            storage.follow(self.model_dir, chief)

    def eval_mode(self):
        """Evaluates each checkpoint as it appears, up to that of the last step."""
        if self.options.checkpoint_path:
            self.evaluate(selection.resolve(self.options.checkpoint_path))
            return
        for checkpoint in selection.wait_for_new(self.model_dir, self.options.eval_timeout):
            consequence = f"{checkpoint} was deleted during its evaluation: taking the next one."
            with reading.warning_if_deleted(checkpoint, consequence):
                step = reading.global_step(checkpoint)
                self.evaluate(checkpoint)
                if step >= self.train_steps:
                    tf.logging.info("Evaluated the last step, %d.", step)
                    return

    def train_and_eval_mode(self):
        """Trains and evaluates in turn; evaluates a finished run once."""
        step = self.current_step()
        finished = step >= self.train_steps
        if finished:
            tf.logging.info("Training has finished already, at step %d.", step)
        if self.device.cluster:
            step = self.train_together()
        elif finished or (
            step
            and step % self.steps_per_eval == 0
            and not results.is_evaluated(self.options.model_dir, step)
        ):
            self.evaluate(self.last_checkpoint())  # The run ended before it evaluated.
        while step < self.train_steps:
            # Multiples, so that a resumed run evaluates at the same steps as an uninterrupted one.
            step = min((step // self.steps_per_eval + 1) * self.steps_per_eval, self.train_steps)
            self.train(step)
            self.evaluate(self.last_checkpoint())

    def train_together(self) -> int:
        """Trains with other processes; evaluates at the end unless there is an evaluator."""
        self.train(self.train_steps)
        if not self.device.cluster.has_evaluator:
            self.evaluate(self.last_checkpoint())
        return self.train_steps

    def predict_mode(self):
        """Measures inference speed on the validation images."""
        checkpoint = self.checkpoint_to_read()
        step = reading.global_step(checkpoint)
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
        figures = timing.statistics(self.hparams.eval_batch_size)
        self.record("predict", checkpoint, step, {}, figures)

    def classify_mode(self):
        """Classifies the user's own images."""
        names = class_names(self.options.data_dir, self.hparams.num_label_classes)
        prediction.answer_all(
            self.estimator, self.checkpoint_to_read(), self.hparams, names, self.options
        )

    def export(self):
        """Exports the checkpoint in all formats of --export_format."""
        labels = class_names(self.options.data_dir, self.hparams.num_label_classes)
        args = (self.checkpoint_to_read(), self.hparams, self.options.export_dir, labels)
        if "saved_model" in self.options.export_format:
            sizes = self.options.inference_batch_sizes if self.options.add_warmup_requests else ()
            serving.export_saved_model(
                *args, warmup_batch_sizes=sizes, model_name=self.options.model_name
            )
        if "frozen_graph" in self.options.export_format:
            serving.export_frozen_graph(*args)
        if "onnx" in self.options.export_format:
            serving.export_onnx(*args)

    def checkpoint_to_read(self) -> str:
        """The checkpoint of --checkpoint_path, or the latest."""
        return selection.resolve(self.options.checkpoint_path or self.model_dir)

    def current_step(self) -> int:
        """Step of the latest checkpoint; 0 if there is none."""
        latest = self.last_checkpoint()
        return reading.global_step(latest) if latest else 0

    def train(self, max_steps: int):
        """Trains from the latest checkpoint to the global step `max_steps`."""
        if self.current_step() >= max_steps:
            tf.logging.info("Step %d is reached already: nothing to train.", max_steps)
            return
        if self.device.is_chief:
            hparams_tab.write_or_warn(self.model_dir, self.hparams.values())
        batch_size, log_steps = self.hparams.train_batch_size, self.options.log_steps
        summary_dir = self.model_dir if self.device.writes else None
        throughput = ThroughputHook(batch_size, summary_dir, every_n_steps=log_steps)
        loss = summaries.LossHook()
        shown = progress.ProgressHook(
            self.train_steps, batch_size, bar=sys.stderr.isatty(), every_n_steps=log_steps
        )
        hooks = [
            *[throughput, loss, self.non_finite_hook()],
            interruption.StopHook(self.stopper, self.stop_file()),
            *self.device.training_hooks(
                *(self.model_dir, self.options.checkpoint_steps, log_steps, max_steps),
                check_end=functools.partial(self.check_end, max_steps),
            ),
            shown,
        ]
        self.train_input.start_step = self.training_model.start_step = self.current_step()
        with contextlib.closing(shown), self.train_input.naming_bad_records():
            self.device.train(
                self.trainer,
                self.train_input.input_fn,
                max_steps,
                hooks,
                self.saving_listeners(),
                self.stopper.check,
                lambda: common_to_processes(self.hparams, self.options, self.current_step),
            )
        figures = {**throughput.statistics(), "losses": loss.history}
        checkpoint, step = self.last_checkpoint(), self.current_step()
        if not checkpoint and self.stopper.name:  # All steps so far were skipped.
            raise interruption.Interrupted(f"Stopped by {self.stopper.name} before the first step.")
        self.record("train", checkpoint, step, {"loss": loss.value}, figures)
        if self.device.is_chief:
            curves.draw_or_warn(self.model_dir)
        if self.stopper.name:
            where = f"at step {step} of {self.train_steps}, saved as {checkpoint}"
            raise interruption.Interrupted(f"Stopped by {self.stopper.name} {where}.")

    def check_end(self, max_steps: int, step: int, others_ended: bool):
        """Raises an error if processes that train together end before the last step."""
        if step < max_steps and not self.stopper.ended_training:
            self.train_input.check_records()
            if others_ended:
                raise peers.early_end(step, max_steps)

    def stop_file(self) -> Optional[str]:
        """The file in which processes that train together agree on the step to stop at."""
        if self.device.num_devices == 1 or not os.path.isdir(self.options.model_dir):
            return None
        return os.path.join(self.options.model_dir, ".stop_step")

    def non_finite_hook(self) -> nonfinite.NonFiniteHook:
        overflows = None
        if self.device.skips_steps:
            overflows = nonfinite.Overflows(
                self.options.max_skipped_steps,
                self.device.loss_scale_variable,
                self.device.steps_per_run,
            )
        skippable = train_step.may_skip(self.device, self.hparams)
        return nonfinite.NonFiniteHook(
            skips=self.hparams.on_nan == "skip",
            step_after=f"{train_step.STEP_AFTER}:0" if skippable else None,
            max_in_row=self.options.max_nan_steps,
            overflows=overflows,
            last_checkpoint=self.last_checkpoint,
        )

    def saving_listeners(self) -> list:
        listeners = [storage.DirectoryGuard(self.model_dir)]
        if self.device.forgets_checkpoints:
            listeners.append(storage.NewestKept(self.model_dir, self.options.keep_checkpoint_max))
        if not self.device.skips_steps:  # With those that skip, variables are always finite.
            skips = self.hparams.on_nan == "skip"
            listeners.append(nonfinite.FiniteCheckpoints(skips, self.last_checkpoint))
        return listeners

    def evaluate(self, checkpoint: str):
        """Evaluates the moving averages of one checkpoint on the validation images."""
        if self.shares:  # All ranks evaluate rank 0's weights, with its statistics.
            path = os.path.join(self.options.model_dir, os.path.basename(checkpoint))
            checkpoint = self.shares.checkpoint(path)
        elif not self.device.is_chief:
            tf.logging.info("Rank %d leaves evaluation to rank 0.", self.device.rank)
            return
        timing = SessionTimingHook()
        if self.report:
            self.report.start(self.eval_input)
        with self.eval_input.naming_bad_records():
            found = self.estimator.evaluate(
                self.eval_input.input_fn,
                steps=amoeba_net_model.num_eval_batches(self.eval_hparams),
                hooks=[timing, interruption.CheckHook(self.stopper)],
                checkpoint_path=checkpoint,
                name="share" if self.shares else None,
            )
        step = int(found["global_step"])
        loss, images = amoeba_net_model.mean_loss(
            found["loss"], self.eval_hparams, self.eval_input.num_images
        )
        metrics = {"loss": loss, **{name: found[name] for name in _ACCURACIES}}
        if self.shares:
            metrics = {name: float(value) for name, value in metrics.items()}
            part = self.report and self.report.found
            if not self.device.is_chief:
                self.shares.deliver(checkpoint, images, metrics, part and part.to_json())
                return
            images, means = self.shares.collect(checkpoint, images, metrics, part and part.merge)
            metrics = {name: np.float32(mean) for name, mean in means.items()}
            summaries.write_evaluation(self.model_dir, metrics, step)
        tf.logging.info("Evaluation results: %s", {**metrics, "global_step": step})
        data = self.eval_input.description()
        evaluation = best.Evaluation(step, metrics["top_1_accuracy"], images, data)
        is_trainings = self.options.trains or self.device.is_evaluator
        kept = best.keep_if_best(self.model_dir, checkpoint, evaluation, is_trainings)
        figures = {**timing.statistics(self.hparams.eval_batch_size), "data": data, "best": kept}
        recorded = self.record("eval", checkpoint, step, {**metrics, "images": images}, figures)
        curves.draw_or_warn(self.model_dir)
        if self.report:
            self.report.write(recorded, self.model_dir, may_fail=self.options.trains)

    def record(self, kind: str, checkpoint: str, step: int, metrics: dict, speed: dict):
        """Appends a record to results.json, and returns it as it is there."""
        gc.collect()  # The last graph: 100 MB of reference cycles.
        allocator.return_free_memory()  # The next graph would not fit into the gaps.
        if not self.device.writes:
            return None
        return results.append_result(
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
