"""Tests of the input benchmark: its photographs, its pipelines, its table."""

import json
import re

import numpy as np
import pytest
from helpers import run

import inception_preprocessing
from common.data import tfrecords
from common.runtime import tf
from scripts.benchmarks import benchmark_input
from scripts.benchmarks.photos import make_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("photos"))
    make_photos(directory, 64, shards=2)
    return directory


def test_photos_are_of_imagenets_size(photos):
    records = [
        record
        for path in tfrecords.find_shards(photos, "train")
        for record in tf.io.tf_record_iterator(path)
    ]
    assert len(records) == 64 and len(set(records)) == 64
    assert np.mean([len(record) for record in records]) == pytest.approx(110_000, rel=0.1)


def test_naive_evaluation_is_the_projects(photos):
    """Otherwise the benchmark would compare two different things."""
    (path, _) = tfrecords.find_shards(photos, "validation")
    record = next(tf.io.tf_record_iterator(path))
    encoded = tf.train.Example.FromString(record).features.feature["image/encoded"]
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.image.decode_jpeg(encoded.bytes_list.value[0], channels=3)
        naive = benchmark_input.naive_preprocessing(image, 64, is_training=False)
        project = inception_preprocessing.preprocess_image(image, 64, 64)
        np.testing.assert_allclose(*session.run([naive, project]), atol=1e-5)


def test_program(photos, tmp_path):
    result = tmp_path / "result.json"
    done = run(
        *["scripts/benchmarks/benchmark_input.py", f"--data_dir={photos}", "--rounds=1"],
        *["--batches=2", "--batch_size=8", "--image_size=32", f"--result={result}"],
    )
    table = dict(re.findall(r"^\| ([a-z ]+?) \| (\d+) \|", done.out, re.MULTILINE))
    figures = json.loads(result.read_text())
    assert set(table) == set(figures) == set(benchmark_input.PIPELINES)
    for name, row in figures.items():
        assert row["median"] == pytest.approx(float(table[name]), abs=1)
        assert row["median"] > 0 and row["peak_memory_mb"] > 50
    assert figures["training"]["speedup"] > 0


def test_epochs(photos):
    done = run("scripts/benchmarks/benchmark_input.py", f"--data_dir={photos}", "--epochs=2")
    assert re.findall(r"^epoch (\d): \d+ images/s, \d+ MB$", done.out, re.MULTILINE) == [
        "1",
        "2",
    ]
