"""From a checkpoint to what others run: a SavedModel, a frozen graph, an ONNX model.

All hold the moving averages of the checkpoint at hand, or its weights where training kept no
averages, and answer as evaluation does. They are made on the CPU, from any checkpoint.
"""

import json
import os
import re
import tempfile
import time
from typing import Dict, Sequence, Tuple

import amoeba_net_model
import inception_preprocessing
from common import files, onnx_model, runtime
from common.batch_norm_folding import fold_batch_norms
from common.checkpoints import reading
from common.data import tfrecords
from common.devices.cpu import CpuSession
from common.hparams import HParams
from common.runtime import tf

FORMATS = ("saved_model", "frozen_graph", "onnx")

# Names users of the exported models write down.
INPUT_KEY = "input"
IMAGES_SIGNATURE = "images"
EXPLAIN_SIGNATURE = "explain"
FROZEN_GRAPH = "frozen_graph.pb"
FROZEN_INPUT = "input"
FROZEN_OUTPUT = "predictions"
ONNX_MODEL = "amoeba_net.onnx"
ONNX_OUTPUTS = ("probabilities", "logits", "classes")
ATC_SCRIPT = "atc.sh"
ONNX_ATC_SCRIPT = "atc_onnx.sh"
_ATC_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts", ATC_SCRIPT)

# What the input of an ONNX model is, for those who have only the model.
_PREPROCESSING = (
    "RGB; the central 0.875 of the height and of the width, resized to image_size x image_size "
    "(bilinear, no smoothing), pixels / 127.5 - 1; float32 [batch, height, width, 3]"
)


def inference_hparams(hparams: HParams) -> HParams:
    """The same network as it runs on a CPU: there are no NCHW convolutions, and weights agree."""
    hparams = HParams(**hparams.values())
    hparams.data_format = "NHWC"
    return hparams


# SavedModel --------------------------------------------------------------------------------------


def export_saved_model(
    checkpoint: str,
    hparams: HParams,
    export_dir: str,
    labels: Sequence[str],
    warmup_batch_sizes: Sequence[int] = (),
    model_name: str = "amoeba_net",
) -> str:
    """Writes `export_dir`/<version>, which TensorFlow Serving takes as the newest version.

    Signature `serving_default` takes `input`, a [batch] of encoded images of any size; signature
    `images` takes `images`, preprocessed float32 [batch, size, size, 3] in [-1, 1]. Both give
    `classes` int64 [batch], `probabilities` and `logits` float32 [batch, classes]. Signature
    `explain` takes `input` and gives `classes` int64 [batch, k], the most probable first,
    `probabilities` float32 [batch, k], and `maps` float32 [batch, k, h, w]: see
    `activation_maps.explanation`.

    Args:
        checkpoint: prefix of the checkpoint.
        hparams: those of the network that was trained.
        export_dir: base directory; the version is the time, in seconds.
        labels: class names, which become the asset labels.txt.
        warmup_batch_sizes: sizes of the batches TensorFlow Serving tries the model with.
        model_name: the served model's name, for the warm-up requests.

    Returns:
        The directory of the SavedModel.

    Raises:
        UserError: the checkpoint cannot be read, or is another network's.
    """
    version = int(time.time())
    while tf.io.gfile.exists(os.path.join(export_dir, str(version))):
        version += 1
    path = os.path.join(export_dir, str(version))
    # No number, so that TensorFlow Serving does not load it before it is whole.
    with files.replacing(path) as temporary:
        _write_saved_model(checkpoint, hparams, temporary, labels)
        if warmup_batch_sizes:
            # Here because only this needs tensorflow-serving-api, and it is slow to import.
            from common import inference_warmup

            inference_warmup.write_warmup_requests(
                temporary, model_name, hparams.image_size, batch_sizes=warmup_batch_sizes
            )
    tf.logging.info("SavedModel of %s: %s", checkpoint, path)
    return path


def _write_saved_model(checkpoint, hparams, path, labels):
    hparams = inference_hparams(hparams)
    size = hparams.image_size
    with tempfile.TemporaryDirectory() as assets, tf.Graph().as_default(), CpuSession() as sess:
        encoded = tf.placeholder(tf.string, [None], name="encoded_images")
        with tf.device("/cpu:0"):
            images = tf.map_fn(
                lambda image: inception_preprocessing.preprocess_bytes(image, size),
                encoded,
                dtype=tf.float32,
                back_prop=False,
            )
        # Either signature feeds one of the two; the network is there once.
        images = tf.placeholder_with_default(images, [None, size, size, 3], name="images")
        outputs = _restored_predictions(checkpoint, hparams, images, sess, explains=True)
        explanation = {
            "classes": outputs.pop("top_classes"),
            "probabilities": outputs.pop("top_probabilities"),
            "maps": outputs.pop("maps"),
        }
        add_labels(assets, labels)
        builder = tf.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(
            sess,
            [tf.saved_model.tag_constants.SERVING],
            signature_def_map={
                tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: (
                    tf.saved_model.predict_signature_def({INPUT_KEY: encoded}, outputs)
                ),
                IMAGES_SIGNATURE: tf.saved_model.predict_signature_def({"images": images}, outputs),
                EXPLAIN_SIGNATURE: tf.saved_model.predict_signature_def(
                    {INPUT_KEY: encoded}, explanation
                ),
            },
            assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            strip_default_attrs=True,
        )
        builder.save()
    runtime.drop_new_attributes_of_saved_model(path)


def _restored_predictions(checkpoint, hparams, images, sess, explains=False):
    """Adds the network to the graph and restores it: {name: tensor} of its answers."""
    # As the Estimator does it: otherwise drop path, which asks for the step, makes one of its own.
    tf.train.get_or_create_global_step()
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None, explains=explains)
    spec = model.model_fn(images, None, tf.estimator.ModeKeys.PREDICT)
    spec.scaffold.saver.restore(sess, checkpoint)
    return spec.predictions


def add_labels(directory: str, labels: Sequence[str]):
    """Adds labels.txt to the graph's assets; it must stay in `directory` until they are saved."""
    path = tfrecords.write_labels(directory, labels)
    tf.add_to_collection(tf.GraphKeys.ASSET_FILEPATHS, tf.constant(path, name="labels"))


# Frozen graph and ONNX ---------------------------------------------------------------------------


def export_frozen_graph(
    checkpoint: str, hparams: HParams, export_dir: str, labels: Sequence[str]
) -> str:
    """Writes frozen_graph.pb, labels.txt, and the script that makes an Ascend offline model.

    Args: see `export_saved_model`.

    Returns:
        The path of frozen_graph.pb; see `freeze` for its input and output.

    Raises:
        UserError: the checkpoint cannot be read, or is another network's.
    """
    data = freeze(checkpoint, hparams).SerializeToString()
    _write_labels_and_script(export_dir, labels, ATC_SCRIPT, image_size=hparams.image_size)
    path = os.path.join(export_dir, FROZEN_GRAPH)
    files.write_bytes(path, data)
    tf.logging.info("Frozen graph of %s: %s", checkpoint, path)
    return path


def export_onnx(checkpoint: str, hparams: HParams, export_dir: str, labels: Sequence[str]) -> str:
    """Writes amoeba_net.onnx, labels.txt, and the script that makes an Ascend offline model.

    The model takes `input`, as the frozen graph does, and gives `probabilities` and `logits`,
    float32 [batch, classes], and `classes`, int64 [batch]. Its metadata are `class_names` (a JSON
    list), `image_size`, `global_step`, and `preprocessing`, a sentence.

    Args: see `export_saved_model`.

    Returns:
        The path of amoeba_net.onnx.

    Raises:
        UserError: the checkpoint cannot be read, or is another network's.
    """
    graph_def, tensors = _freeze(checkpoint, hparams, ONNX_OUTPUTS)
    metadata = {
        "class_names": json.dumps(list(labels), ensure_ascii=False),
        "image_size": str(hparams.image_size),
        "global_step": str(reading.global_step(checkpoint)),
        "preprocessing": _PREPROCESSING,
    }
    data = onnx_model.convert(
        graph_def, "amoeba_net", {FROZEN_INPUT: f"{FROZEN_INPUT}:0"}, tensors, metadata
    )
    _write_labels_and_script(
        export_dir,
        labels,
        ONNX_ATC_SCRIPT,
        image_size=hparams.image_size,
        model=ONNX_MODEL,
        output="amoeba_net_onnx",
        framework=5,
        input_format="ND",  # There is no NHWC for ONNX.
    )
    path = os.path.join(export_dir, ONNX_MODEL)
    files.write_bytes(path, data)
    tf.logging.info("ONNX model of %s: %s", checkpoint, path)
    return path


def _write_labels_and_script(export_dir: str, labels: Sequence[str], name: str, **settings):
    """Writes labels.txt, and scripts/atc.sh as `name` with other settings at its beginning."""
    files.make_directory(export_dir)
    tfrecords.write_labels(export_dir, labels)
    with open(_ATC_TEMPLATE, encoding="utf-8") as file:
        script = file.read()
    for key, value in settings.items():
        script = re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", script)
    files.write_text(os.path.join(export_dir, name), script)


def freeze(checkpoint: str, hparams: HParams) -> tf.GraphDef:
    """The network with its weights as constants and batch normalisation in its convolutions.

    Input node `input`: preprocessed float32 [batch, size, size, 3] in [-1, 1]. Output node
    `predictions`: probabilities, float32 [batch, classes].
    """
    return _freeze(checkpoint, hparams, ["probabilities"])[0]


def _freeze(
    checkpoint: str, hparams: HParams, outputs: Sequence[str]
) -> Tuple[tf.GraphDef, Dict[str, str]]:
    """The frozen graph of some of the network's answers, and the names of their tensors."""
    hparams = inference_hparams(hparams)
    size = hparams.image_size
    with tf.Graph().as_default() as graph, CpuSession() as sess:
        images = tf.placeholder(tf.float32, [None, size, size, 3], name=FROZEN_INPUT)
        answers = _restored_predictions(checkpoint, hparams, images, sess)
        nodes = [answers[key].op.name for key in outputs]
        graph_def = tf.graph_util.convert_variables_to_constants(sess, graph.as_graph_def(), nodes)
        runtime.drop_new_attributes(graph_def)
    graph_def = fold_batch_norms(tf.graph_util.remove_training_nodes(graph_def, nodes))
    return graph_def, {key: answers[key].name for key in outputs}
