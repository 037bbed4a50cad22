"""Exported models answer as evaluation does, example by example."""

import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from helpers import write_random_checkpoint

import amoeba_net_model
import serving
from common import files, inference_warmup
from common.data.class_names import class_names
from common.errors import UserError
from common.runtime import tf

pytestmark = pytest.mark.xdist_group("tiny_model")
_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def export_dir(tiny_export):
    return tiny_export


@pytest.fixture(scope="module")
def saved_model_dir(export_dir):
    (version,) = [name for name in os.listdir(export_dir) if name.isdigit()]
    return os.path.join(export_dir, version)


@pytest.fixture(scope="module")
def saved_model(saved_model_dir):
    """A function of a signature's inputs that gives its outputs."""
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.load(session, ["serve"], saved_model_dir)

        def run(signature, **inputs):
            signature = loaded.signature_def[signature]
            feed = {signature.inputs[key].name: value for key, value in inputs.items()}
            return session.run({key: t.name for key, t in signature.outputs.items()}, feed)

        yield run


@pytest.fixture(scope="module")
def evaluation(tiny_model):
    """What evaluation computes of every image: images, logits, probabilities, labels."""
    return evaluate(tiny_model, tiny_model.hparams)


def evaluate(tiny_model, hparams):
    batches = []
    with tf.Graph().as_default(), tf.Session() as session:
        pipeline = amoeba_net_model.InputPipeline(False, tiny_model.data_dir, hparams)
        iterator = tf.data.make_initializable_iterator(pipeline.input_fn())
        images, labels = iterator.get_next()
        session.run(iterator.initializer)
        tf.train.get_or_create_global_step()
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None)
        spec = model.model_fn(images, labels, tf.estimator.ModeKeys.EVAL)
        spec.scaffold.saver.restore(session, tiny_model.checkpoint)
        fetches = {"images": images, "labels": labels, **spec.predictions}
        for _ in range(amoeba_net_model.num_eval_batches(hparams)):
            batches.append(session.run(fetches))
    count = hparams.num_eval_images
    return {key: np.concatenate([b[key] for b in batches])[:count] for key in fetches}


def run_frozen(path, images):
    with tf.Graph().as_default() as graph, tf.Session() as session:
        graph_def = tf.GraphDef()
        with open(path, "rb") as file:
            graph_def.ParseFromString(file.read())
        tf.import_graph_def(graph_def, name="")
        return session.run("predictions:0", {graph.get_tensor_by_name("input:0"): images})


def hits(scores, labels, k):
    """How many of the labels are among the k largest scores."""
    larger = scores > scores[np.arange(len(labels)), labels][:, np.newaxis]
    return int((larger.sum(axis=1) < k).sum())


def test_averages_differ_visibly_from_the_weights(tiny_model, evaluation):
    hparams = serving.inference_hparams(tiny_model.hparams)
    hparams.moving_average_decay = 0.0
    raw = evaluate(tiny_model, hparams)
    assert np.abs(raw["probabilities"] - evaluation["probabilities"]).max() > 0.1


def test_saved_model_answers_as_evaluation(tiny_model, saved_model, evaluation):
    for answers in (
        saved_model("serving_default", input=tiny_model.images),
        saved_model("images", images=evaluation["images"]),
    ):
        assert set(answers) == {"classes", "probabilities", "logits"}
        for key in ("probabilities", "logits"):
            np.testing.assert_allclose(answers[key], evaluation[key], atol=_TOLERANCE)
        assert answers["classes"].tolist() == evaluation["classes"].tolist()
        for k in (1, 5):
            assert hits(answers["logits"], tiny_model.labels, k) == hits(
                evaluation["logits"], evaluation["labels"], k
            )


def test_saved_model_explains(tiny_model, saved_model, evaluation):
    answers = saved_model("explain", input=tiny_model.images)
    assert set(answers) == {"classes", "probabilities", "maps"}
    classes, maps = answers["classes"], answers["maps"]
    assert classes.dtype == np.int64 and maps.dtype == np.float32
    assert classes.shape == maps.shape[:2] == (len(tiny_model.images), 5)
    expected = np.sort(evaluation["probabilities"])[:, :-6:-1]
    np.testing.assert_allclose(answers["probabilities"], expected, atol=_TOLERANCE)
    of_classes = np.take_along_axis(evaluation["probabilities"], classes, axis=1)
    np.testing.assert_allclose(of_classes, expected, atol=_TOLERANCE)
    # The mean of each map is the logit, but for the bias, which a class has in every image.
    logits = np.take_along_axis(evaluation["logits"], classes, axis=1)
    biases = logits - maps.mean(axis=(2, 3))
    assert np.abs(maps).max() > 0.1
    for label in np.unique(classes):
        assert np.ptp(biases[classes == label]) < _TOLERANCE


def test_saved_model_has_the_labels(tiny_model, saved_model_dir):
    path = os.path.join(saved_model_dir, "assets", "labels.txt")
    with open(path) as file, open(os.path.join(tiny_model.data_dir, "labels.txt")) as expected:
        assert file.read() == expected.read()


def test_warm_up_requests_are_answered(saved_model_dir, saved_model):
    from tensorflow_serving.apis import prediction_log_pb2

    path = os.path.join(saved_model_dir, inference_warmup.WARMUP_FILE)
    sizes = []
    for record in tf.python_io.tf_record_iterator(path):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "tiny"
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        answers = saved_model(request.model_spec.signature_name, **inputs)
        assert answers["logits"].shape == (len(inputs["input"]), 11)
        sizes.append(len(inputs["input"]))
    assert sizes == [1] * 8 + [3] * 8


def test_saved_model_cli(tiny_model, saved_model_dir, evaluation, tmp_path):
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    signature = ["--dir", saved_model_dir, "--tag_set", "serve"]
    shown = subprocess.run(
        [*cli, "show", *signature, "--signature_def", "serving_default"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert "inputs['input']" in shown and "DT_STRING" in shown
    np.save(str(tmp_path / "images.npy"), evaluation["images"][:2])
    subprocess.run(
        [*cli, "run", *signature, "--signature_def", "images", "--outdir", str(tmp_path)]
        + ["--inputs", f"images={tmp_path / 'images.npy'}"],
        check=True,
    )
    got = np.load(str(tmp_path / "probabilities.npy"))
    np.testing.assert_allclose(got, evaluation["probabilities"][:2], atol=_TOLERANCE)
    literal = "".join(f"\\x{byte:02x}" for byte in tiny_model.images[0])
    subprocess.run(
        [*cli, "run", *signature, "--signature_def", "serving_default", "--overwrite"]
        + ["--outdir", str(tmp_path), "--input_exprs", f"input=[b'{literal}']"],
        check=True,
    )
    got = np.load(str(tmp_path / "probabilities.npy"))
    np.testing.assert_allclose(got, evaluation["probabilities"][:1], atol=_TOLERANCE)


def test_frozen_graph_answers_as_evaluation(export_dir, evaluation):
    probabilities = run_frozen(os.path.join(export_dir, serving.FROZEN_GRAPH), evaluation["images"])
    np.testing.assert_allclose(probabilities, evaluation["probabilities"], atol=_TOLERANCE)
    for k in (1, 5):
        assert hits(probabilities, evaluation["labels"], k) == hits(
            evaluation["logits"], evaluation["labels"], k
        )


def test_frozen_graph_has_inference_nodes_only(export_dir):
    graph_def = tf.GraphDef()
    with open(os.path.join(export_dir, serving.FROZEN_GRAPH), "rb") as file:
        graph_def.ParseFromString(file.read())
    kinds = {node.op for node in graph_def.node}
    assert kinds <= {
        *("Placeholder", "Const", "Conv2D", "BiasAdd", "Relu", "MaxPool", "AvgPool", "AddV2"),
        *("Add", "Pad", "StridedSlice", "ConcatV2", "Mean", "MatMul", "Softmax"),
    }


@pytest.mark.parametrize(
    "script, model, framework, input_format, output",
    [
        (serving.ATC_SCRIPT, serving.FROZEN_GRAPH, 3, "NHWC", "amoeba_net"),
        (serving.ONNX_ATC_SCRIPT, serving.ONNX_MODEL, 5, "ND", "amoeba_net_onnx"),
    ],
)
def test_atc_scripts(export_dir, tmp_path, script, model, framework, input_format, output):
    directory = str(tmp_path / 'it\'s the "export" $HOME=*')
    os.symlink(export_dir, directory)
    atc = tmp_path / "atc"
    atc.write_text('#!/bin/sh\nprintf "%s\\n" "$(pwd)" "$@"\n')
    atc.chmod(atc.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    said = subprocess.run(
        ["bash", os.path.join(directory, script), "8"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
    ).stdout
    assert said.splitlines() == [
        directory,
        *(f"--model={model}", f"--framework={framework}", f"--output={output}_bs8"),
        *("--soc_version=Ascend310", f"--input_format={input_format}"),
        *("--input_shape=input:8,40,40,3", "--out_nodes=predictions:0", "--output_type=FP32"),
    ]
    assert os.path.exists(os.path.join(export_dir, model))


def test_folding_of_separable_convolutions(tiny_model, tmp_path):
    hparams = serving.inference_hparams(tiny_model.hparams)
    hparams.cell_name = "amoeba_net_a"
    checkpoint = write_random_checkpoint(hparams, str(tmp_path))
    images = np.random.RandomState(0).uniform(-1, 1, (2, 40, 40, 3))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.get_or_create_global_step()
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, model_dir=None)
        images = images.astype(np.float32)
        spec = model.model_fn(tf.constant(images), None, tf.estimator.ModeKeys.PREDICT)
        spec.scaffold.saver.restore(session, checkpoint)
        expected = session.run(spec.predictions["probabilities"])
    graph_def = serving.freeze(checkpoint, hparams)
    assert not any("BatchNorm" in node.op for node in graph_def.node)
    path = str(tmp_path / "frozen.pb")
    with open(path, "wb") as file:
        file.write(graph_def.SerializeToString())
    np.testing.assert_allclose(run_frozen(path, images), expected, atol=_TOLERANCE)


@pytest.fixture(scope="module")
def onnx_session(export_dir):
    import onnxruntime

    path = os.path.join(export_dir, serving.ONNX_MODEL)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_onnx_answers_as_evaluation(onnx_session, evaluation, batch_size):
    keys = [output.name for output in onnx_session.get_outputs()]
    assert keys == list(serving.ONNX_OUTPUTS)
    for start in range(0, 60, batch_size):
        batch = slice(start, start + batch_size)
        answers = onnx_session.run(None, {"input": evaluation["images"][batch]})
        for key, answer in zip(keys, answers):
            assert answer.dtype == evaluation[key].dtype
            np.testing.assert_allclose(answer, evaluation[key][batch], atol=_TOLERANCE)


def test_onnx_describes_itself(tiny_model, onnx_session, export_dir):
    import onnx

    described = onnx_session.get_modelmeta().custom_metadata_map
    names = class_names(tiny_model.data_dir, 11)
    assert json.loads(described["class_names"]) == names
    assert described["image_size"] == "40" and described["global_step"] == "7"
    assert "0.875" in described["preprocessing"]
    (images,) = onnx_session.get_inputs()
    shapes = [images.shape, *(output.shape for output in onnx_session.get_outputs())]
    assert shapes == [["batch", 40, 40, 3], ["batch", 11], ["batch", 11], ["batch"]]
    nodes = onnx.load(os.path.join(export_dir, serving.ONNX_MODEL)).graph.node
    # What the script for atc names; and images are transposed once, when they come in.
    (probabilities,) = (node for node in nodes if "probabilities" in node.output)
    assert probabilities.name == "predictions"
    assert [node.input[0] for node in nodes if node.op_type == "Transpose"] == ["input"]


def test_failed_onnx_export_leaves_the_old_model(tiny_model, tmp_path, monkeypatch):
    path = tmp_path / serving.ONNX_MODEL
    path.write_bytes(b"old")
    move = os.replace

    def move_or_fail(source, target):
        if target == str(path):
            raise OSError(28, "No space left on device", target)
        move(source, target)

    monkeypatch.setattr(os, "replace", move_or_fail)
    with pytest.raises(OSError, match="No space left"):
        serving.export_onnx(tiny_model.checkpoint, tiny_model.hparams, str(tmp_path), ["a"] * 11)
    assert path.read_bytes() == b"old"
    assert not any(files.is_temporary(name) for name in os.listdir(str(tmp_path)))


def test_another_architecture(tiny_model, tmp_path):
    hparams = serving.inference_hparams(tiny_model.hparams)
    hparams.reduction_size = 16
    with pytest.raises(UserError, match=r"of another network: variable .* should have shape"):
        serving.export_saved_model(tiny_model.checkpoint, hparams, str(tmp_path), ["a"])
    assert os.listdir(str(tmp_path)) == []
