#!/usr/bin/env python
"""TF-Hub modules from a checkpoint, and their accuracy.

    python tf_hub.py --mode=export --model_dir=MODEL --export_dir=MODULES
    python tf_hub.py --mode=eval --export_dir=MODULES --data_dir=DATA

MODULES/classification gives logits, MODULES/feature_vector the features before them; both are
hub.Module's (TF1 Hub format) and take images in [0, 1]. Flags are those of amoeba_net.py; mode
eval needs none about the network, which the module knows.
"""

import os
import sys
import tempfile
from typing import Callable, Dict, Optional, Sequence

import tensorflow.compat.v1 as tf
import tensorflow_hub as hub
from absl import app, flags

import amoeba_net  # noqa: F401 (it defines the flags)
import amoeba_net_model
import imagenet_input
import model_builder
import network_utils
import run
import serving
import settings
from common import files
from common.checkpoints import reading, selection
from common.data import tfrecords
from common.devices.cpu import Cpu, CpuSession
from common.devices.device import Device
from common.errors import UserError
from common.hparams import HParams

CLASSIFICATION = "classification"
FEATURE_VECTOR = "feature_vector"

# What the network collects for training, and a module may not have.
_DROPPED_COLLECTIONS = (
    tf.GraphKeys.LOSSES,
    tf.GraphKeys.MOVING_AVERAGE_VARIABLES,
    tf.GraphKeys.SUMMARIES,
    tf.GraphKeys.WEIGHTS,
    network_utils.MOVED_STATISTICS,
    network_utils.STATISTICS_CHANGES,
)

FLAGS = flags.FLAGS


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1]!r}.")
    run.set_up_process()
    chosen = settings.from_flags(FLAGS)
    try:
        if chosen.run.mode not in ("export", "eval"):
            raise UserError(f"--mode={chosen.run.mode}: expected export or eval.")
        if not chosen.run.export_dir:
            raise UserError("--export_dir is missing: the directory of the modules.")
        settings.take_dataset_info(chosen)
        export_modules(chosen) if chosen.run.mode == "export" else evaluate_module(chosen)
    except UserError as error:
        sys.exit(f"tf_hub.py: {error}")


def export_modules(chosen: settings.Settings):
    """Exports both modules."""
    hparams, options = chosen.hparams, chosen.run
    settings.check(hparams, options)
    checkpoint = selection.resolve(options.checkpoint_path or options.model_dir)
    num_classes = hparams.num_label_classes
    labels = serving.class_names(options.data_dir, num_classes)
    export_to_hub(
        checkpoint, os.path.join(options.export_dir, CLASSIFICATION), num_classes, hparams, labels
    )
    export_to_hub(checkpoint, os.path.join(options.export_dir, FEATURE_VECTOR), None, hparams)


def evaluate_module(chosen: settings.Settings):
    """Evaluates the classification module on the validation images."""
    hparams, options = chosen.hparams, chosen.run
    if not options.data_dir:
        raise UserError("--data_dir is missing: the directory of the TFRecord files.")
    imagenet_input.check_num_eval_images(options.data_dir, hparams)
    module_path = os.path.join(options.export_dir, CLASSIFICATION)
    hparams.image_size = module_image_size(module_path)
    pipeline = amoeba_net_model.InputPipeline(False, options.data_dir, hparams, eval_from_hub=True)
    device = settings.choose_device(chosen)
    with pipeline.naming_bad_records():
        metrics = eval_from_hub(module_path, pipeline.input_fn, hparams, device)
    metrics["loss"], _ = amoeba_net_model.mean_loss(metrics["loss"], hparams, pipeline.num_images)
    tf.logging.info("Evaluation results: %s", metrics)


# Export ------------------------------------------------------------------------------------------


def export_to_hub(
    checkpoint_path: str,
    export_path: str,
    num_classes: Optional[int],
    hparams: HParams,
    labels: Sequence[str] = (),
):
    """Exports the averages of a checkpoint as a module, made for inference and for fine-tuning.

    Its signatures are image_feature_vector (`default`: [batch, features], and the outputs of the
    cells) and, with classes, image_classification (`default`: logits); `default` is the latter if
    it is there. The input `images` is float32 [batch, size, size, 3] in [0, 1]. The graph tagged
    'train' has batch statistics, their updates, dropout and the weights' regularisation, but
    neither auxiliary head nor drop path, whose strength depends on a training's steps.

    Args:
        checkpoint_path: prefix of the checkpoint.
        export_path: directory of the module, which must not exist.
        num_classes: of the network; None for feature vectors only.
        hparams: those of the network that was trained.
        labels: class names, which become the asset labels.txt.

    Raises:
        UserError: there is something at `export_path`, or the checkpoint does not fit.
    """
    if tf.io.gfile.exists(export_path):
        raise UserError(f"{export_path} exists already: remove it, or export elsewhere.")
    hparams = serving.inference_hparams(hparams)
    hparams.use_aux_head = False
    hparams.drop_connect_keep_prob = 1.0
    with tempfile.TemporaryDirectory() as assets:
        spec = hub.create_module_spec(
            lambda is_training: _build_module(hparams, num_classes, is_training, labels, assets),
            [(set(), {"is_training": False}), ({"train"}, {"is_training": True})],
            _DROPPED_COLLECTIONS,
        )
        with tf.Graph().as_default(), CpuSession() as session:
            module = hub.Module(spec)
            variables = _checkpoint_variables(module, hparams)
            reading.CheckedSaver(variables).restore(session, checkpoint_path)
            with files.replacing(export_path) as temporary:
                module.export(temporary, session)
    tf.logging.info("TF-Hub module of %s: %s", checkpoint_path, export_path)


def _build_module(hparams, num_classes, is_training, labels, assets):
    """Adds one graph of a module."""
    size = hparams.image_size
    info = hub.ImageModuleInfo()
    info.default_image_size.height = info.default_image_size.width = size
    hub.attach_image_module_info(info)
    images = tf.placeholder(tf.float32, [None, size, size, 3], name="images")
    logits, end_points = model_builder.build_network(
        images * 2.0 - 1.0, num_classes, is_training, hparams
    )
    if is_training:
        model_builder.build_regularization_loss(hparams.weight_decay)
    if labels:
        serving.add_asset(assets, tfrecords.LABELS, labels)
    inputs = {"images": images}
    features = {**end_points, "default": end_points["global_pool"]}
    hub.add_signature("image_feature_vector", inputs, features)
    if logits is None:
        hub.add_signature("default", inputs, {"default": features["default"]})
    else:
        hub.add_signature("image_classification", inputs, {**end_points, "default": logits})
        hub.add_signature("default", inputs, {"default": logits})


def _checkpoint_variables(module: hub.Module, hparams: HParams) -> Dict[str, tf.Variable]:
    """{name in the checkpoint: variable of the module}; all of them have averages, if any has."""
    if hparams.moving_average_decay <= 0:
        return module.variable_map
    return {
        amoeba_net_model.average_name(name): variable
        for name, variable in module.variable_map.items()
    }


# Evaluation --------------------------------------------------------------------------------------


def module_image_size(module_path: str) -> int:
    """Width and height of the images that a module takes.

    Raises:
        UserError: there is no module of square images at the path.
    """
    try:
        height, width = hub.get_expected_image_size(hub.load_module_spec(module_path))
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{module_path} is no TF-Hub module of images: {error}") from error
    if height != width:
        raise UserError(f"{module_path} takes images of {height} x {width}: expected a square.")
    return height


def eval_from_hub(
    module_path: str,
    input_fn: Callable,
    hparams: HParams,
    device: Optional[Device] = None,
) -> Dict[str, float]:
    """Evaluates a classification module.

    Args:
        module_path: directory of the module.
        input_fn: gives (images in [0, 1], labels), as `InputPipeline(..., eval_from_hub=True)`.
        hparams: says how many images there are, and how many in a batch.
        device: to run on; None for the CPU.

    Returns:
        loss, top_1_accuracy and top_5_accuracy, each image counted once.
    """

    def model_fn(features, labels, mode, params):
        logits = hub.Module(module_path)(features, signature="image_classification")
        return tf.estimator.EstimatorSpec(
            mode,
            loss=amoeba_net_model.eval_loss(hparams, logits, labels),
            eval_metric_ops=amoeba_net_model.accuracies(logits, labels),
        )

    with tempfile.TemporaryDirectory() as model_dir:
        estimator = (device or Cpu()).estimator(model_fn, model_dir, 1)
        metrics = estimator.evaluate(input_fn)
    return {key: value for key, value in metrics.items() if key != tf.GraphKeys.GLOBAL_STEP}


if __name__ == "__main__":
    FLAGS.set_default("mode", "export")
    app.run(main)
