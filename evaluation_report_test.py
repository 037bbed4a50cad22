"""Reports of real evaluations: they count as evaluation does, and name the right images."""

import itertools
import json
import os

import numpy as np
import pytest
from helpers import (
    flags,
    image_examples,
    run,
    tiny_hparams,
    truncate,
    write_shards,
)

import amoeba_net_model
import evaluation_report
from common import files
from common.data import tfrecords
from common.devices.cpu import Cpu
from common.hparams import HParams
from common.runtime import tf
from scripts.benchmarks import benchmark_report

pytestmark = pytest.mark.xdist_group("tiny_model")
_NAMES = ["background", *(f"digit {i}" for i in range(10))]


@pytest.fixture(scope="module")
def data_dir(tiny_model, tmp_path_factory):
    """The images of the tiny model, with file names, in shards of different size."""
    directory = str(tmp_path_factory.mktemp("named"))
    examples = image_examples(tiny_model.images, tiny_model.labels)
    for i, example in enumerate(examples):
        name = f"image_{i}.jpg".encode() if i else b"caf\xe9.jpg"  # Not UTF-8.
        example.features.feature["image/filename"].bytes_list.value[:] = [name]
    write_shards(directory, "validation", [examples[:23], examples[23:]])
    files.write_text(os.path.join(directory, tfrecords.LABELS), "\n".join(_NAMES) + "\n")
    return directory


def _evaluate(tiny_model, data_dir, hparams, size=1, rank=0):
    """(metrics, report) of an evaluation."""
    report = evaluation_report.EvaluationReport("unused", data_dir, hparams, _NAMES)
    pipeline = amoeba_net_model.InputPipeline(
        False, data_dir, hparams, sharding=lambda: (size, rank)
    )
    report.start(pipeline)
    model = amoeba_net_model.AmoebaNetEstimatorModel(
        hparams, tiny_model.model_dir, watch_evaluation=report.watch
    )
    estimator = Cpu().estimator(model.model_fn, tiny_model.model_dir, 1)
    with pipeline.naming_bad_records():
        metrics = estimator.evaluate(
            pipeline.input_fn,
            steps=amoeba_net_model.num_eval_batches(hparams),
            checkpoint_path=tiny_model.checkpoint,
        )
    return metrics, report


def _assert_counts(found, metrics, num_images):
    assert found.num_images == num_images
    assert np.float32(found.num_right / num_images) == metrics["top_1_accuracy"]
    assert np.float32(found.in_top_5.sum() / num_images) == metrics["top_5_accuracy"]


def _examples(found):
    return [*found.mistakes, *found.least_certain, *found.suspects]


def _assert_named(found):
    """All examples are of the images that they name."""
    assert len(_examples(found)) > 20
    for example in _examples(found):
        records = tf.io.tf_record_iterator(example.source.file)
        record = next(itertools.islice(records, example.source.record, None))
        feature = tf.train.Example.FromString(record).features.feature
        name = feature["image/filename"].bytes_list.value[0].decode("utf-8", "backslashreplace")
        assert feature["image/class/label"].int64_list.value[0] == example.label
        assert name == example.source.name
        assert example.top[0][0] == example.given
        assert example.confidence == example.top[0][1] == max(p for _, p in example.top)


def test_report_counts_as_evaluation(tiny_model, data_dir):
    """Of 60 images in batches of 16, so that the last one is padded."""
    metrics, report = _evaluate(tiny_model, data_dir, tiny_model.hparams)
    _assert_counts(report.found, metrics, 60)
    _assert_named(report.found)
    assert metrics["top_1_accuracy"] < 1  # There are mistakes.
    assert report.found.confusion.sum(axis=1).tolist() == [
        tiny_model.labels.count(label) for label in range(11)
    ]
    kinds = {len(e.pictures) for e in report.found.mistakes}
    assert kinds == {3} and {len(e.pictures) for e in report.found.least_certain} == {2}


def test_bad_records_are_left_out(tiny_model, data_dir, tmp_path):
    """One in the middle, and a file that is cut off."""
    examples = image_examples(tiny_model.images, tiny_model.labels)
    for i, example in enumerate(examples):
        example.features.feature["image/filename"].bytes_list.value[:] = [b"%d" % i]
    examples[5].features.feature["image/class/label"].int64_list.value[:] = [99]
    paths = write_shards(str(tmp_path), "validation", [examples[:30], examples[30:50]])
    truncate(paths[1], 0.97)
    hparams = HParams(**tiny_model.hparams.values())
    hparams.on_bad_record, hparams.num_eval_images = "skip", 50
    metrics, report = _evaluate(tiny_model, str(tmp_path), hparams)
    num_images = report.found.num_images
    assert 45 <= num_images <= 48
    _assert_counts(report.found, metrics, num_images)
    _assert_named(report.found)


def test_shares_are_one_report(tiny_model, data_dir):
    hparams = HParams(**tiny_model.hparams.values())
    hparams.num_eval_images = 57
    metrics, whole = _evaluate(tiny_model, data_dir, hparams)
    shares = [
        _evaluate(
            tiny_model,
            data_dir,
            amoeba_net_model.share_of_evaluation(hparams, 2, rank),
            size=2,
            rank=rank,
        )[1].found
        for rank in range(2)
    ]
    shares[0].merge(json.loads(json.dumps(shares[1].to_json())))
    _assert_counts(shares[0], metrics, 57)
    np.testing.assert_array_equal(shares[0].confusion, whole.found.confusion)
    for name in ("mistakes", "least_certain"):
        sources = [[e.source for e in getattr(f, name)] for f in (shares[0], whole.found)]
        assert sources[0] == sources[1]


def test_equal_logits_count_as_in_evaluation(graph):
    """A network that cannot tell classes apart answers the first, and any is in its top 5."""
    hparams = tiny_hparams(num_label_classes=4)
    report = evaluation_report.EvaluationReport("unused", None, hparams, list("abcd"))
    report.start(amoeba_net_model.InputPipeline(False, None, hparams))
    labels = tf.constant([3, 0, -1])
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None, watch_evaluation=report.watch)
    tf.train.get_or_create_global_step()
    spec = model.model_fn(tf.zeros([3, 19, 19, 3]), labels, tf.estimator.ModeKeys.EVAL)
    (hook,) = spec.evaluation_hooks
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(tf.local_variables_initializer())
        with tf.variable_scope("final_layer/FC", reuse=True):
            session.run(tf.get_variable("weights").assign(tf.zeros([64, 4])))
        updates = {name: update for name, (_, update) in spec.eval_metric_ops.items()}
        metrics, values = session.run([updates, hook.before_run(None).fetches])
    report._add(values)
    _assert_counts(report.found, metrics, 2)
    assert metrics == {"top_1_accuracy": 0.5, "top_5_accuracy": 1.0}


def test_evaluation_without_a_report_has_nothing_more(tiny_model):
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        model = amoeba_net_model.AmoebaNetEstimatorModel(tiny_model.hparams, None)
        labels = tf.zeros([2], tf.int32)
        spec = model.model_fn(tf.zeros([2, 40, 40, 3]), labels, tf.estimator.ModeKeys.EVAL)
        assert not spec.evaluation_hooks
        operations = {op.type for op in tf.get_default_graph().get_operations()}
    assert "TopKV2" not in operations and not [name for name in operations if "BatchMatMul" in name]


def _flags(tiny_model, **values):
    hparams = tiny_model.hparams
    names = (*amoeba_net_model.ARCHITECTURE, "image_size", "use_aux_head", "num_label_classes")
    names += ("eval_batch_size", "num_eval_images", "batch_norm_epsilon")
    return flags({**{name: hparams.get(name) for name in names}, "accelerator": "cpu", **values})


def test_program_writes_the_report(tiny_model, data_dir, tmp_path):
    model_dir, report_dir = str(tmp_path / "model"), str(tmp_path / "a" / "report")
    arguments = {
        "mode": "eval",
        "data_dir": data_dir,
        "model_dir": model_dir,
        "checkpoint_path": tiny_model.checkpoint,
        "report_dir": report_dir,
    }
    ended = run("amoeba_net.py", *_flags(tiny_model, **arguments))
    assert f"Report of the evaluation: {report_dir}/report.html" in ended.err
    with open(os.path.join(model_dir, "results.json")) as file:
        (record,) = json.load(file)
    with open(os.path.join(report_dir, "report.json"), encoding="utf-8") as file:
        figures = json.load(file)
    assert {name: figures[name] for name in record} == record
    assert sum(row["right"] for row in figures["classes"]) == round(
        60 * record["metrics"]["top_1_accuracy"]
    )
    assert sum(row["images"] for row in figures["classes"]) == record["metrics"]["images"] == 60
    assert figures["mistakes"][0]["given_name"] in _NAMES and "amoeba_net.py" in figures["command"]
    with open(os.path.join(report_dir, "report.html"), encoding="utf-8") as file:
        html = file.read()
    for text in (
        f"{record['metrics']['top_1_accuracy']:.2%}",
        f"{record['metrics']['top_5_accuracy']:.2%}",
        "model.ckpt-7, step 7",
        "digit 9",
        record["versions"]["tensorflow"],
        "batch_norm_epsilon",
        "--mode=eval",
        data_dir,
    ):
        assert text in html, text


def test_train_and_eval_replaces_the_report(tiny_model, data_dir, tmp_path):
    """Two evaluations; the report is that of the second one, and shows the curves."""
    directory = str(tmp_path / "data")
    examples = image_examples(tiny_model.images, tiny_model.labels)
    for split in tfrecords.SPLITS:
        write_shards(directory, split, [examples])
    arguments = {
        "mode": "train_and_eval",
        "data_dir": directory,
        "report_dir": f"{tmp_path}/report",
    }
    arguments.update(model_dir=f"{tmp_path}/model", num_train_images=60, train_batch_size=20)
    arguments.update(num_epochs=2, lr=0.01, augment=False, log_steps=1, random_seed=1)
    run("amoeba_net.py", *_flags(tiny_model, **arguments))
    with open(f"{tmp_path}/report/report.json", encoding="utf-8") as file:
        assert json.load(file)["global_step"] == 6
    with open(f"{tmp_path}/report/report.html", encoding="utf-8") as file:
        html = file.read()
    assert 'aria-label="loss of the training"' in html
    assert 'aria-label="accuracy of the training"' in html


def test_report_of_imagenet_is_small(tmp_path):
    """Fewer images than scripts/benchmarks/benchmark_report.py takes, with as many examples."""
    report = benchmark_report.write(str(tmp_path), num_classes=1001, num_images=10_000)
    assert report.found.num_images == 10_000
    path = str(tmp_path / evaluation_report.PAGE)
    assert os.path.getsize(path) < 5e6
    with open(path, encoding="utf-8") as file:
        html = file.read()
    assert html.count('<img src="data:image/jpeg;base64,') == 24 * 3 + 12 * 2
    assert "Newfoundland" in html
