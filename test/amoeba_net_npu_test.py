"""Training on the NPU with a stand-in for its adapter: graphs, skipped steps, whole runs."""

import io
import json
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl.testing import flagsaver
from npu_stand_in.installed import PATH, installed
from PIL import Image

import amoeba_net
import amoeba_net_model
import model_builder
import network_utils
from common import results
from common.data import tfrecords
from common.devices import choosing, gpu, rank_table
from common.devices.cpu import CpuSession
from common.errors import UserError

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_BATCH = 4
_NETWORK = {
    "num_cells": 2,
    "reduction_size": 8,
    "stem_reduction_size": 4,
    "image_size": 32,
    "num_label_classes": 11,
    "use_aux_head": False,
}


def _hparams(**values):
    hparams = amoeba_net_model.build_hparams()
    for name, value in {**_NETWORK, **values}.items():
        hparams.set_hparam(name, value)
    return hparams


def _write_data(directory, train_files, images):
    """Training images with the labels 1, 2, ..., and 6 validation images."""
    os.makedirs(directory)
    pixels = np.random.RandomState(0).randint(0, 255, (images, 24, 24, 3), np.uint8)

    def example(i):
        buffer = io.BytesIO()
        Image.fromarray(pixels[i]).save(buffer, "JPEG")
        return tfrecords.image_example(buffer.getvalue(), i + 1, height=24, width=24)

    for split, files, count in (("train", train_files, images), ("validation", 2, 6)):
        for shard in range(files):
            path = os.path.join(directory, tfrecords.shard_name(split, shard, files))
            tfrecords.write_shard(path, [example(i) for i in range(shard, count, files)])
    return directory


# Graphs ------------------------------------------------------------------------------------------


def _build(device, mode, hparams, directory):
    """The spec of one mode's graph, as the device's estimator builds it; images, labels."""
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, str(directory), device)
    estimator = device.estimator(model.model_fn, str(directory), save_checkpoints_steps=10)
    tf.train.create_global_step()
    size = hparams.image_size
    images = tf.placeholder(tf.float32, [_BATCH, size, size, 3], "images")
    labels = tf.placeholder(tf.int32, [_BATCH], "labels")
    return estimator.model_fn(images, labels, mode, estimator.config), images, labels


def _needed(fetches):
    """All operations a session runs for these fetches."""
    found, stack = set(), [f.op if isinstance(f, tf.Tensor) else f for f in fetches]
    while stack:
        op = stack.pop()
        if op not in found:
            found.add(op)
            stack.extend([tensor.op for tensor in op.inputs] + op.control_inputs)
    return found


@pytest.fixture(scope="module")
def stepping(tmp_path_factory):
    """Runs steps of one training graph and looks at all variables; rmsprop has the most of them."""
    hparams = _hparams(optimizer="rmsprop", lr=0.01, lr_warmup_epochs=0.0)
    with installed("current") as calls, tf.Graph().as_default(), tf.Session() as session:
        device = choosing.choose("npu")
        yield _Stepping(session, device, hparams, tmp_path_factory.mktemp("model"), calls)


class _Stepping:
    def __init__(self, session, device, hparams, directory, calls):
        self.calls = calls
        self.session = session
        self.spec, self._images, self._labels = _build(device, "train", hparams, directory)
        self.ops = _needed([self.spec.train_op, self.spec.loss])
        session.run(tf.global_variables_initializer())
        size = hparams.image_size
        self._pixels = np.random.RandomState(1).uniform(-1, 1, (_BATCH, size, size, 3))

    def step(self, overflow=False):
        pixels = np.full_like(self._pixels, np.inf) if overflow else self._pixels
        feed = {self._images: pixels, self._labels: [1, 2, 3, 4]}
        self.session.run(self.spec.train_op, feed)

    def variables(self):
        return self.session.run({v.op.name: v for v in tf.global_variables()})


def _moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


_LOSS_SCALE = {"loss_scale", "good_steps", "bad_steps"}


@pytest.mark.xdist_group("npu_graph")
def test_training_graph_is_what_the_npu_takes(stepping):
    assert not _dynamic(stepping.ops)
    graph = tf.get_default_graph()
    types = {op.type for op in graph.get_operations()}
    # What TensorFlow makes of float32 with the older horizon; in float16 it is FusedBatchNormV2.
    assert "FusedBatchNorm" in types and "FusedBatchNormV3" not in types
    assert not [
        op.name for op in graph.get_operations() if any(t.dtype == tf.float64 for t in op.outputs)
    ]
    gates = [arguments for name, arguments in stepping.calls if name == "compute_gradients"]
    assert gates == [{"gate_gradients": tf.train.Optimizer.GATE_OP}]


def _dynamic(ops):
    """Names of operations with an output of unknown shape.

    The axes of a gradient's sum are left out: with static shapes they are constants.
    """
    return [
        op.name
        for op in ops
        if op.type != "BroadcastGradientArgs"
        and not all(tensor.shape.is_fully_defined() for tensor in op.outputs)
    ]


@pytest.mark.xdist_group("npu_graph")
def test_overflow_moves_nothing_but_the_loss_scale(stepping):
    stepping.step()
    before = stepping.variables()
    assert before["global_step"] == 1 and before["loss_scale"] == 2.0**32
    stepping.step(overflow=True)
    assert _moved(before, stepping.variables()) <= _LOSS_SCALE
    stepping.step(overflow=True)
    after = stepping.variables()
    assert _moved(before, after) <= _LOSS_SCALE and after["loss_scale"] == 2.0**31
    stepping.step()
    trained = stepping.variables()
    assert trained["global_step"] == 2
    assert all(np.all(np.isfinite(value)) for value in trained.values())
    still = {name.split("/", 1)[-1] for name in set(before) - _moved(after, trained)}
    # Whatever follows a ReLU that is never negative may have no gradient; statistics always move.
    assert not [name for name in still if "moving_" in name]
    assert "final_layer/FC/weights" in _moved(after, trained)


@pytest.mark.xdist_group("npu_graph")
def test_a_good_step_updates_statistics_and_averages(stepping):
    """As without skipping: averages follow the variables after the step."""
    before = stepping.variables()
    stepping.step()
    after = stepping.variables()
    step = after["global_step"]
    weight = 1 - min(0.9999, (1 + step) / (10 + step))
    suffix = "/ExponentialMovingAverage"
    averages = [name for name in after if name.endswith(suffix)]
    assert len(averages) > 100
    for name in averages:
        variable = after[name[: -len(suffix)]]
        expected = before[name] - weight * (before[name] - variable)
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.xdist_group("npu_graph")
def test_evaluation_graph_is_what_the_npu_takes(tmp_path):
    with installed(), tf.Graph().as_default() as graph:
        spec = _build(choosing.choose("npu"), "eval", _hparams(), tmp_path)[0]
        fetches = [spec.loss, *(update for _, update in spec.eval_metric_ops.values())]
        ops = _needed(fetches + list(spec.predictions.values()))
        assert not _dynamic(ops)
        assert not [
            op for op in graph.get_operations() if any(t.dtype == tf.float64 for t in op.outputs)
        ]


@pytest.mark.xdist_group("npu_graph")
def test_training_the_classifier_and_one_layer_moves_only_them(tmp_path):
    """Statistics of the layer that is trained move with it, those of the others do not."""
    layer = "cell_1/beginning_bn"
    hparams = _hparams(
        trainable_variables=f"^final_layer/|^{layer}", optimizer="momentum", lr_warmup_epochs=0.0
    )
    with installed(), tf.Graph().as_default(), tf.Session() as session:
        device = choosing.choose("npu")
        stepping = _Stepping(session, device, hparams, tmp_path, [])
        before = stepping.variables()
        stepping.step(overflow=True)
        assert _moved(before, stepping.variables()) <= _LOSS_SCALE
        stepping.step()
        moved = _moved(before, stepping.variables()) - _LOSS_SCALE - {"global_step"}
    trained = {"final_layer/FC/weights", "final_layer/FC/biases"}
    trained |= {f"{layer}/{name}" for name in ("beta", "gamma")}
    followers = {f"{name}/Momentum" for name in trained}
    trained |= {f"{layer}/{name}" for name in ("moving_mean", "moving_variance")}
    followers |= {amoeba_net_model.average_name(name) for name in trained}
    assert moved == trained | followers


@pytest.mark.xdist_group("npu_gpu")
def test_overflow_with_tensorflows_mixed_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "is_there", lambda: True)
    monkeypatch.delenv("RANK_SIZE", raising=False)
    device = choosing.choose("gpu")
    try:
        with tf.Graph().as_default(), tf.Session() as session:
            stepping = _Stepping(session, device, _hparams(lr_warmup_epochs=0.0), tmp_path, [])
            before = stepping.variables()
            stepping.step(overflow=True)
            assert _moved(before, stepping.variables()) <= {"current_loss_scale", "good_steps"}
            stepping.step()
            after = stepping.variables()
            assert after["global_step"] == 1 and "stem/conv0_bn/moving_mean" in _moved(
                before, after
            )
    finally:
        tf.train.experimental.disable_mixed_precision_graph_rewrite()


# Input -------------------------------------------------------------------------------------------

# Prints a line of labels for each epoch of each data set.
_READ_TWO_EPOCHS = """
import sys
import tensorflow.compat.v1 as tf
import amoeba_net_model
from common.devices import choosing
from common.devices.cpu import CpuSession

device = choosing.choose("npu")
hparams = amoeba_net_model.build_hparams()
hparams.image_size, hparams.train_batch_size = 8, 40
for data in sys.argv[1:]:
    pipeline = amoeba_net_model.InputPipeline(True, data, hparams, sharding=device.sharding)
    iterator = tf.data.make_initializable_iterator(pipeline.input_fn())
    images, labels = iterator.get_next()
    assert images.shape == [5, 8, 8, 3]
    with CpuSession() as session:
        session.run(iterator.initializer)
        for _ in range(2):
            print(*session.run(labels))
"""


@pytest.mark.xdist_group("npu_ranks")
def test_eight_processes_read_disjoint_shares(tmp_path):
    """Of 8 files, one each; of 5 files, each its own records."""
    data = [_write_data(str(tmp_path / str(n)), train_files=n, images=40) for n in (8, 5)]
    table = tmp_path / "table.json"
    table.write_text(json.dumps(rank_table.make("127.0.0.1", range(8), ["192.168.1.1"] * 8)))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _READ_TWO_EPOCHS, *data],
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env=_environment(RANK_SIZE="8", RANK_ID=str(rank), RANK_TABLE_FILE=str(table)),
        )
        for rank in range(8)
    ]
    shares = [process.communicate()[0].decode().splitlines() for process in ranks]
    assert [process.returncode for process in ranks] == [0] * 8
    for epoch in range(4):
        labels = [int(label) for share in shares for label in share[epoch].split()]
        assert sorted(labels) == list(range(1, 41))


def _environment(**variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANK_", "CM_"))}
    return {**kept, "PYTHONPATH": PATH, "JOB_ID": "10087", **variables}


# Whole runs --------------------------------------------------------------------------------------


def _flags(directory, mode, **flags):
    values = {
        **_NETWORK,
        "accelerator": "npu",
        "mode": mode,
        "data_dir": os.path.join(directory, "data"),
        "model_dir": os.path.join(directory, "model"),
        "num_train_images": 8,
        "num_eval_images": 6,
        "train_batch_size": _BATCH,
        "eval_batch_size": _BATCH,
        **flags,
    }
    return [f"--{name}={value}" for name, value in values.items()]


def _run(directory, mode, release, **flags):
    """Runs the program in its own process; returns the calls the stand-in wrote down."""
    record = os.path.join(directory, f"{mode}_{release}.json")
    environment = _environment(NPU_STAND_IN=release, NPU_STAND_IN_RECORD=record)
    command = [sys.executable, os.path.join(_ROOT, "amoeba_net.py")]
    command += _flags(directory, mode, **flags)
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    with open(record) as f:
        return [json.loads(line) for line in f]


@pytest.mark.xdist_group("npu_runs")
def test_program_trains_evaluates_predicts_exports_and_resumes(tmp_path):
    """Each mode with another release of the adapter; graphs are big, so no mode with all."""
    directory = str(tmp_path)
    _write_data(os.path.join(directory, "data"), train_files=2, images=8)
    export = os.path.join(directory, "export")
    calls = _run(directory, "train_and_eval", "newer", num_epochs=1, export_dir=export)
    assert [c[1]["mode"] for c in calls if c[0] == "model_fn"] == ["train", "eval"]
    version = os.listdir(export)[0]
    assert os.path.exists(os.path.join(export, version, "saved_model.pb"))
    calls = _run(directory, "predict", "current")
    assert [c[1]["mode"] for c in calls if c[0] == "model_fn"] == ["infer"]
    _run(directory, "train", "older", train_steps=3)
    records = results.read_results(os.path.join(directory, "model"))
    assert [(r["kind"], r["global_step"]) for r in records] == [
        ("train", 2),
        ("eval", 2),
        ("predict", 2),
        ("train", 3),
    ]
    assert {(r["accelerator"], r["num_devices"]) for r in records} == {("npu", 1)}
    curves = _curves(os.path.join(directory, "model"))
    assert {"loss", "learning_rate", "regularization_loss"} <= set(curves)
    assert curves["loss"][3] == pytest.approx(records[-1]["metrics"]["loss"], rel=1e-6)


def _curves(model_dir):
    """Scalars that training wrote for TensorBoard: {tag: {step: value}}."""
    curves = {}
    for path in sorted(os.listdir(model_dir)):
        if path.startswith("events."):
            for event in tf.train.summary_iterator(os.path.join(model_dir, path)):
                for value in event.summary.value:
                    curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves


# What is wrong is said before a graph is built ---------------------------------------------------


@pytest.mark.parametrize(
    "flags, environment, message",
    [
        ({}, {"JOB_ID": ""}, "no JOB_ID"),
        ({}, {"RANK_SIZE": "2", "CM_WORKER_SIZE": "2"}, "RANK_SIZE and CM_WORKER_SIZE"),
        ({}, {"RANK_TABLE_FILE": __file__}, "cannot be read as JSON"),
        ({"precision_mode": "allow_fp32_to_bf16"}, {}, "--precision_mode=allow_fp32_to_bf16"),
        ({"npu_iterations_per_loop": 2}, {}, "the 1251 steps between checkpoints"),
        (
            {"train_steps": 8, "npu_iterations_per_loop": 2, "save_checkpoints_steps": 5},
            {},
            "the 5 steps between checkpoints",
        ),
        ({"loss_scale": "0"}, {}, "--loss_scale=0"),
    ],
)
def test_errors_are_one_sentence_before_the_graph(flags, environment, message, tmp_path, capsys):
    flags = {"synthetic_data": True, **flags}
    with installed(), mock.patch.dict(os.environ, environment), flagsaver.flagsaver():
        amoeba_net.FLAGS(["amoeba_net.py", *_flags(str(tmp_path), "train", **flags)])
        with mock.patch.object(model_builder, "build_network", side_effect=AssertionError):
            with pytest.raises(SystemExit) as error:
                amoeba_net.main(["amoeba_net.py"])
    text = str(error.value)
    assert message in text and "\n" not in text


def _small_network(inputs, num_classes, is_training, hparams):
    logits = network_utils.fully_connected(tf.reduce_mean(inputs, [1, 2]), num_classes)
    return logits, {"predictions": tf.nn.softmax(logits)}


def test_checkpoint_without_a_loss_scale(tmp_path):
    """As when a training that began on a CPU goes on on an NPU."""
    hparams = _hparams()
    with mock.patch.object(model_builder, "build_network", _small_network):
        with tf.Graph().as_default(), CpuSession() as session:
            _build(choosing.choose("cpu"), "train", hparams, tmp_path)
            session.run(tf.global_variables_initializer())
            tf.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=0)
        with installed(), tf.Graph().as_default():
            with pytest.raises(UserError, match="variable loss_scale"):
                _build(choosing.choose("npu"), "train", hparams, tmp_path)


def test_ranks_must_start_from_the_same_step(tmp_path):
    model, table = tmp_path / "model", tmp_path / "table.json"
    with tf.Graph().as_default(), CpuSession() as session:
        session.run(tf.train.create_global_step().assign(12).op)
        tf.train.Saver().save(session, str(model / "model.ckpt"), global_step=12)
    table.write_text(json.dumps(rank_table.make("127.0.0.1", [0, 1], ["192.168.1.1"] * 2)))
    ranks = {"RANK_SIZE": "2", "RANK_ID": "1", "RANK_TABLE_FILE": str(table)}
    with installed(**ranks), flagsaver.flagsaver():
        amoeba_net.FLAGS(["amoeba_net.py", *_flags(str(tmp_path), "train", synthetic_data=True)])
        with pytest.raises(SystemExit, match=r"differ: step 12 in .*, 0 in "):
            amoeba_net.main(["amoeba_net.py"])


def test_batches_divide_by_the_devices(tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(rank_table.make("127.0.0.1", [0, 1], ["192.168.1.1"] * 2)))
    ranks = {"RANK_SIZE": "2", "RANK_ID": "0", "RANK_TABLE_FILE": str(table)}
    with installed(**ranks), flagsaver.flagsaver():
        flags = _flags(str(tmp_path), "train", synthetic_data=True, train_batch_size=5)
        amoeba_net.FLAGS(["amoeba_net.py", *flags])
        with pytest.raises(SystemExit, match="--train_batch_size=5 is not a multiple of the 2"):
            amoeba_net.main(["amoeba_net.py"])
