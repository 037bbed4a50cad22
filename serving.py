"""From a checkpoint to what others run: a SavedModel, a frozen graph.

Both hold the moving averages of the checkpoint at hand, or its weights where training kept no
averages, and answer as evaluation does. They are made on the CPU, from any checkpoint.
"""

import os
import re
import tempfile
import time
from typing import Sequence

import amoeba_net_model
import inception_preprocessing
from common import files, runtime
from common.batch_norm_folding import fold_batch_norms
from common.data import tfrecords
from common.devices.cpu import CpuSession
from common.hparams import HParams
from common.runtime import tf

FORMATS = ("saved_model", "frozen_graph")

# Names users of the exported models write down.
INPUT_KEY = "input"
IMAGES_SIGNATURE = "images"
EXPLAIN_SIGNATURE = "explain"
FROZEN_GRAPH = "frozen_graph.pb"
FROZEN_INPUT = "input"
FROZEN_OUTPUT = "predictions"
ATC_SCRIPT = "atc.sh"
_ATC_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts", ATC_SCRIPT)


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
        add_asset(assets, tfrecords.LABELS, labels)
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


def add_asset(directory: str, name: str, lines: Sequence[str]):
    """Adds a text file to the graph's assets; it must stay in `directory` until they are saved."""
    path = os.path.join(directory, name)
    files.write_text(path, _text(lines))
    tf.add_to_collection(tf.GraphKeys.ASSET_FILEPATHS, tf.constant(path, name="labels"))


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# Frozen graph ------------------------------------------------------------------------------------


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
    graph_def = freeze(checkpoint, hparams)
    tf.io.gfile.makedirs(export_dir)
    files.write_text(os.path.join(export_dir, tfrecords.LABELS), _text(labels))
    with open(_ATC_TEMPLATE, encoding="utf-8") as file:
        script = re.sub(r"(?m)^image_size=.*$", f"image_size={hparams.image_size}", file.read())
    files.write_text(os.path.join(export_dir, ATC_SCRIPT), script)
    path = os.path.join(export_dir, FROZEN_GRAPH)
    files.write_bytes(path, graph_def.SerializeToString())
    tf.logging.info("Frozen graph of %s: %s", checkpoint, path)
    return path


def freeze(checkpoint: str, hparams: HParams) -> tf.GraphDef:
    """The network with its weights as constants and batch normalisation in its convolutions.

    Input node `input`: preprocessed float32 [batch, size, size, 3] in [-1, 1]. Output node
    `predictions`: probabilities, float32 [batch, classes].
    """
    hparams = inference_hparams(hparams)
    size = hparams.image_size
    with tf.Graph().as_default() as graph, CpuSession() as sess:
        images = tf.placeholder(tf.float32, [None, size, size, 3], name=FROZEN_INPUT)
        _restored_predictions(checkpoint, hparams, images, sess)
        graph_def = tf.graph_util.convert_variables_to_constants(
            sess, graph.as_graph_def(), [FROZEN_OUTPUT]
        )
        runtime.drop_new_attributes(graph_def)
    return fold_batch_norms(tf.graph_util.remove_training_nodes(graph_def, [FROZEN_OUTPUT]))
