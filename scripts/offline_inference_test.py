"""Accuracy through .bin files is evaluation's, image for image."""

import functools
import os
import re

import numpy as np
import pytest
from helpers import run

import amoeba_net_model
import serving
from common.errors import UserError
from common.runtime import tf
from scripts import offline_inference

pytestmark = pytest.mark.xdist_group("tiny_model")

_run = functools.partial(run, "scripts/offline_inference.py")


def evaluate(tiny_model):
    """{k: right answers} of what --mode=eval runs."""
    metrics = tiny_model.evaluate()
    return {k: metrics[f"top_{k}_accuracy"] * len(tiny_model.images) for k in (1, 5)}


def test_write_run_and_score(tiny_model, tiny_export, tmp_path):
    graph = os.path.join(tiny_export, serving.FROZEN_GRAPH)
    batches, outputs = tmp_path / "batches", tmp_path / "outputs"
    # 60 images: another batch size than evaluation's, and a last batch that is not full.
    _run(
        *("write", f"--data_dir={tiny_model.data_dir}", f"--batches_dir={batches}"),
        *("--batch_size=7", f"--image_size={tiny_model.hparams.image_size}"),
    )
    assert (batches / "8.bin").stat().st_size == 7 * 40 * 40 * 3 * 4
    early = _run("score", f"--batches_dir={batches}", f"--outputs_dir={outputs}", status=1)
    assert early.err == f"offline_inference.py: {outputs}/0_output_0.bin is missing.\n"
    _run(
        *("run", f"--frozen_graph={graph}"),
        *(f"--batches_dir={batches}", f"--outputs_dir={outputs}"),
    )
    (batches / "batches.json").write_text(
        (batches / "batches.json").read_text().replace('"image_size": 40', '"image_size": 39')
    )
    with pytest.raises(UserError, match=r"shape \[7, 39, 39, 3\], and .* takes \(\?, 40, 40, 3\)"):
        offline_inference.run_batches(graph, str(batches), str(outputs))
    with pytest.raises(UserError, match="is not a graph that --mode=export wrote"):
        offline_inference.run_batches(__file__, str(batches), str(outputs))
    scored = _run("score", f"--batches_dir={batches}", f"--outputs_dir={outputs}")
    found = re.findall(r"^top_(\d)_accuracy = ([\d.]+) \((\d+) of 60\)$", scored.out, re.M)
    assert {int(k): float(count) for k, _, count in found} == pytest.approx(evaluate(tiny_model))
    assert [float(accuracy) for _, accuracy, _ in found] == pytest.approx(
        [int(count) / 60 for _, _, count in found]
    )


def test_more_images_than_there_are(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"^--num_images=61: .* has 60 validation images\."):
        offline_inference.write_batches(tiny_model.data_dir, str(tmp_path), 7, 40, 61)


def test_wrong_outputs(tmp_path):
    (tmp_path / "batches.json").write_text(
        '{"batch_size": 2, "image_size": 1, "labels": [1, 2, 1]}'
    )
    directory = str(tmp_path)

    def output(i, numbers):
        np.ones(numbers, "<f4").tofile(str(tmp_path / f"{i}_output_0.bin"))

    output(0, 7)
    with pytest.raises(UserError, match=r"0_output_0.bin holds 7 float32 numbers: expected 2 tim"):
        offline_inference.score(directory, directory)
    output(0, 4)
    with pytest.raises(UserError, match=r"number of classes, which is above 2\."):
        offline_inference.score(directory, directory)
    output(0, 6)
    output(1, 8)
    with pytest.raises(UserError, match=r"for 4 classes, 0_output_0.bin for 3\."):
        offline_inference.score(directory, directory)
    output(1, 6)
    assert offline_inference.score(directory, directory)["images"] == 3
    (tmp_path / "batches.json").write_text("{}")
    with pytest.raises(UserError, match=r"batches.json is not a file that `write` made"):
        offline_inference.score(directory, directory)
    with pytest.raises(UserError, match=r"batches.json is missing"):
        offline_inference.score(os.path.join(directory, "other"), directory)


@pytest.mark.parametrize("command", ["write --data_dir=x", "score --batches_dir=x"])
def test_outputs_are_local(command, capsys):
    flag = "--batches_dir" if command.startswith("write") else "--outputs_dir"
    with pytest.raises(SystemExit):
        offline_inference.parse_args([*command.split(), f"{flag}=s3://bucket/x"])
    message = f"argument {flag}: s3://bucket/x must be a local directory."
    assert message in capsys.readouterr().err


def test_top_k_counts_as_evaluation():
    random = np.random.RandomState(0)
    scores = random.randint(0, 6, (200, 9)).astype(np.float32)  # Many ties.
    labels = random.randint(0, 9, 200)
    with tf.Graph().as_default(), tf.Session() as session:
        for k in (1, 5):
            hits = session.run(
                amoeba_net_model.is_in_top_k(tf.constant(scores), tf.constant(labels, tf.int32), k)
            )
            assert offline_inference.count_top_k(scores, labels, k) == hits.sum()
