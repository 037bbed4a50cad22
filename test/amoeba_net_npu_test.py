"""The program on the NPU's stand-in: shares of the data, whole runs, what is wrong."""

import json
import os
from unittest import mock

import helpers
import pytest
from npu_programs import (
    environment,
    flags,
    hparams,
    run,
    write_data,
    write_rank_table,
)
from npu_stand_in.installed import PATH, TF26_PATH, installed

import amoeba_net_model
from common import curves, results
from common.devices import choosing
from common.devices.cpu import CpuSession
from common.runtime import tf

# Input -------------------------------------------------------------------------------------------


def _labels_of_two_epochs(device, data):
    """The labels in two batches, which each have all images of the device's share."""
    settings = hparams(image_size=8, train_batch_size=40, num_label_classes=41)
    with tf.Graph().as_default(), CpuSession() as session:
        pipeline = amoeba_net_model.InputPipeline(True, data, settings, sharding=device.sharding)
        iterator = tf.data.make_initializable_iterator(pipeline.input_fn())
        labels = iterator.get_next()[1]
        assert labels.shape == [5]
        session.run(iterator.initializer)
        return [list(session.run(labels)) for _ in range(2)]


def test_eight_ranks_read_disjoint_shares(tmp_path):
    """Of 8 files, one each; of 5 files, each its own records."""
    data = [write_data(str(tmp_path / str(n)), train_files=n, images=40) for n in (8, 5)]
    table = write_rank_table(tmp_path / "table.json", 8)
    shares = []
    for rank in range(8):
        with installed(RANK_SIZE="8", RANK_ID=str(rank), RANK_TABLE_FILE=table):
            device = choosing.choose("npu")
            shares.append([batch for d in data for batch in _labels_of_two_epochs(device, d)])
    for epoch in zip(*shares):
        assert sorted(label for batch in epoch for label in batch) == list(range(1, 41))


# Whole runs --------------------------------------------------------------------------------------


def _run(directory, mode, release, path=PATH, **values):
    """Runs the program in its own process; returns the calls the stand-in wrote down."""
    record = os.path.join(directory, f"{mode}_{release}.json")
    variables = environment(path, NPU_STAND_IN_RECORD=record)
    if path == PATH:
        variables["NPU_STAND_IN"] = release
    printed = helpers.run("amoeba_net.py", *flags(directory, mode, **values), env=variables).log
    version = "v1.15.0 (npu_bridge)" if path == PATH else "v2.6.2 (npu_device)"
    assert f"Rank 0 of 1, Ascend adapter {version}." in printed
    with open(record) as f:
        calls = [json.loads(line) for line in f]
    openers = {arguments["opened_by"] for name, arguments in calls if name == "Session"}
    assert openers == {"Estimator"}
    return [arguments["mode"] for name, arguments in calls if name == "model_fn"]


@pytest.mark.slow
def test_program_trains_evaluates_predicts_exports_and_resumes(tmp_path):
    """Each mode with another release of the adapter; graphs are big, so no mode with all."""
    directory = str(tmp_path)
    write_data(os.path.join(directory, "data"), train_files=2, images=8)
    export = os.path.join(directory, "export")
    modes = _run(directory, "train_and_eval", "newer", num_epochs=1, export_dir=export)
    assert modes == ["train", "eval"]
    version = os.listdir(export)[0]
    assert os.path.exists(os.path.join(export, version, "saved_model.pb"))
    assert _run(directory, "predict", "tf26", TF26_PATH) == ["infer"]
    assert _run(directory, "train", "older", train_steps=3) == ["train"]
    records = results.read_results(os.path.join(directory, "model"))
    assert [(r["kind"], r["global_step"]) for r in records] == [
        ("train", 2),
        ("eval", 2),
        ("predict", 2),
        ("train", 3),
    ]
    assert {(r["accelerator"], r["num_devices"]) for r in records} == {("npu", 1)}
    scalars = curves.read_scalars(os.path.join(directory, "model"))
    assert {"loss", "learning_rate", "regularization_loss"} <= set(scalars)
    assert dict(scalars["loss"])[3] == pytest.approx(records[-1]["metrics"]["loss"], rel=1e-6)


# What is wrong is said before a graph is built ---------------------------------------------------


@pytest.mark.parametrize(
    "values, variables, message",
    [
        ({}, {"JOB_ID": ""}, "no JOB_ID"),
        ({}, {"RANK_SIZE": "2", "CM_WORKER_SIZE": "2"}, "RANK_SIZE and CM_WORKER_SIZE"),
        ({}, {"RANK_TABLE_FILE": __file__}, "is not valid JSON"),
        ({"precision_mode": "allow_fp32_to_bf16"}, {}, "--precision_mode=allow_fp32_to_bf16"),
        (
            {"train_steps": 8, "npu_iterations_per_loop": 2, "save_checkpoints_steps": 5},
            {},
            "the 5 steps between checkpoints",
        ),
        ({"loss_scale": "0"}, {}, "--loss_scale=0"),
        (
            {"loss_scale": "0.5"},
            {},
            "--loss_scale=0.5: expected dynamic, none or a number of at least 1",
        ),
        ({"dump_dir": "/tmp", "dump_step": "7-5"}, {}, "--dump_step=7-5"),
    ],
)
def test_errors_are_one_sentence_before_the_graph(values, variables, message, tmp_path):
    no_graph = mock.patch.object(tf.estimator.Estimator, "train", side_effect=AssertionError)
    with no_graph:
        text = run(tmp_path, variables=variables, synthetic_data=True, **values).message
    assert message in text and "\n" not in text


def test_batches_divide_by_the_devices(tmp_path):
    ranks = _ranks(tmp_path, rank="0")
    message = run(tmp_path, variables=ranks, synthetic_data=True, train_batch_size=5).message
    assert "--train_batch_size=5 is not a multiple of the 2" in message


def _ranks(directory, rank):
    """The environment of one of two ranks."""
    table = write_rank_table(directory / "table.json", 2)
    return {"RANK_SIZE": "2", "RANK_ID": rank, "RANK_TABLE_FILE": table}
