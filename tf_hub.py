#!/usr/bin/env python
"""Exports a checkpoint as TF-Hub modules, and evaluates them.

    python tf_hub.py --mode=export --model_dir=MODEL --export_dir=MODULES
    python tf_hub.py --mode=eval --export_dir=MODULES --data_dir=DATA

MODULES/classification returns logits, MODULES/feature_vector the features before the last layer.
Both are in the TF1 Hub format (hub.Module) and take images in [0, 1]. The flags are those of
amoeba_net.py; eval needs no flags for the network, since it is in the module.
"""

import os
import tempfile
from typing import Callable, Dict, Optional, Sequence

import tensorflow_hub as hub
from absl import app, flags

import amoeba_net  # noqa: F401 (it defines the flags)
import amoeba_net_model
import imagenet_input
import model_builder
import network_utils
import preparation
import serving
import settings
from common import files, process
from common.checkpoints import reading, selection
from common.data.class_names import class_names
from common.data.tfrecords import read_dataset_info
from common.devices.cpu import Cpu, CpuSession
from common.devices.device import Device
from common.errors import UserError
from common.hparams import HParams
from common.runtime import tf

CLASSIFICATION = "classification"
FEATURE_VECTOR = "feature_vector"

# Collections that the network fills for training, and that a module may not contain.
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
    process.set_up()
    chosen = settings.from_flags(FLAGS)
    with process.exiting_with_a_sentence(argv[0]):
        if chosen.run.mode not in ("export", "eval"):
            raise UserError(f"--mode={chosen.run.mode}: expected export or eval.")
        if not chosen.run.export_dir:
            raise UserError("--export_dir is missing: the directory for the modules.")
        if chosen.run.report_dir:
            raise UserError(f"--report_dir={chosen.run.report_dir} works with amoeba_net.py only.")
        preparation.check_places(chosen)
        preparation.take_dataset_info(chosen)
        export_modules(chosen) if chosen.run.mode == "export" else evaluate_module(chosen)


def export_modules(chosen: settings.Settings):
    """Exports both modules."""
    hparams, options = chosen.hparams, chosen.run
    preparation.check(hparams, options)
    checkpoint = selection.resolve(options.checkpoint_path or options.model_dir)
    num_classes = hparams.num_label_classes
    labels = class_names(options.data_dir, num_classes)
    export_to_hub(
        checkpoint, os.path.join(options.export_dir, CLASSIFICATION), num_classes, hparams, labels
    )
    export_to_hub(checkpoint, os.path.join(options.export_dir, FEATURE_VECTOR), None, hparams)


def evaluate_module(chosen: settings.Settings):
    """Evaluates the classification module on the validation images."""
    hparams, options = chosen.hparams, chosen.run
    if not options.data_dir:
        raise UserError("--data_dir is missing: set it to the directory of the TFRecord files.")
    imagenet_input.check_num_eval_images(options.data_dir, hparams)
    module_path = os.path.join(options.export_dir, CLASSIFICATION)
    hparams.image_size = module_image_size(module_path)
    classes = module_classes(module_path)
    is_known = "num_label_classes" in chosen.given or read_dataset_info(options.data_dir)
    if is_known and hparams.num_label_classes != classes:
        raise UserError(
            f"{module_path} has {classes} classes, and {options.data_dir} has "
            f"{hparams.num_label_classes}, the background included: use the module's data."
        )
    hparams.num_label_classes = classes
    pipeline = amoeba_net_model.InputPipeline(False, options.data_dir, hparams, eval_from_hub=True)
    device = preparation.choose_device(chosen)
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
    """Exports the moving averages of a checkpoint as a module for inference and fine-tuning.

    The input `images` is float32 [batch, size, size, 3] in [0, 1]. The signature
    image_feature_vector returns features [batch, features] as `default`, and the outputs of the
    cells. If there are classes, the signature image_classification returns logits as `default`. The
    signature `default` is image_classification if there is one. The graph with the tag 'train' has
    batch statistics and their updates, dropout, and regularization of the weights. It has no
    auxiliary head, and no drop path, since the strength of drop path depends on the global step.

    Args:
        checkpoint_path: prefix of the checkpoint.
        export_path: directory of the module, which must not exist.
        num_classes: classes of the network; None for feature vectors only.
        hparams: hyper-parameters of the network that was trained.
        labels: names of the classes, for the asset labels.txt.

    Raises:
        UserError: `export_path` exists, or the checkpoint is of another network.
    """
    if tf.io.gfile.exists(export_path):
        raise UserError(f"{export_path} exists already: remove it, or use another --export_dir.")
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
        serving.add_labels(assets, labels)
    inputs = {"images": images}
    features = {**end_points, "default": end_points["global_pool"]}
    hub.add_signature("image_feature_vector", inputs, features)
    if logits is None:
        hub.add_signature("default", inputs, {"default": features["default"]})
    else:
        hub.add_signature("image_classification", inputs, {**end_points, "default": logits})
        hub.add_signature("default", inputs, {"default": logits})


def _checkpoint_variables(module: hub.Module, hparams: HParams) -> Dict[str, tf.Variable]:
    """{name in the checkpoint: variable of the module}; averages are used if there are any."""
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
        UserError: the path is not a module that takes square images.
    """
    try:
        height, width = hub.get_expected_image_size(hub.load_module_spec(module_path))
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{module_path} is not a TF-Hub module that takes images: {error}"
        ) from error
    if height != width:
        raise UserError(
            f"{module_path} takes images of {height} x {width} pixels: expected squares."
        )
    return height


def module_classes(module_path: str) -> int:
    """Number of classes of a classification module."""
    spec = hub.load_module_spec(module_path)
    return spec.get_output_info_dict("image_classification")["default"].get_shape().as_list()[1]


def eval_from_hub(
    module_path: str,
    input_fn: Callable,
    hparams: HParams,
    device: Optional[Device] = None,
) -> Dict[str, float]:
    """Evaluates a classification module.

    Args:
        module_path: directory of the module.
        input_fn: returns a dataset of (images in [0, 1], labels).
        hparams: `num_label_classes`, `label_smoothing`, and those of the evaluation are used.
        device: the device to run on; None for the CPU.

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
    app.run(main, flags_parser=process.parse_flags)
