"""Directories on S3: where TensorFlow has that, a whole training; elsewhere a sentence."""

import csv
import json
import os

import pytest
from helpers import TINY, encode, flags, image_examples, noise, run, write_shards
from s3_stand_in import S3

from common import places


@pytest.fixture(scope="module")
def s3():
    with S3() as server:
        yield server


def _run(s3, program, *arguments, variables=None, **options):
    environment = {**os.environ, **s3.environment, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return run(program, *arguments, env={**environment, **(variables or {})}, **options)


def _arguments(**values):
    directories = {"data_dir": "s3://bucket/data", "model_dir": "s3://bucket/model"}
    sizes = {"train_batch_size": 4, "eval_batch_size": 4, "num_label_classes": 3}
    images = {"num_train_images": 8, "num_eval_images": 4, "save_checkpoints_steps": 1}
    return flags({**TINY, **directories, **sizes, **images, "accelerator": "cpu", **values})


@pytest.mark.slow
def test_training_on_s3(s3, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)  # Before TensorFlow asks anybody else.
    if places.problem("s3://bucket/model"):
        ended = _run(s3, "amoeba_net.py", "--mode=train", *_arguments(), status=1)
        assert "has no file system s3:// here. Mount it, or work" in ended.err.splitlines()[-1]
        assert "Traceback" not in ended.err
        return
    examples = image_examples([encode(noise(i, 24)) for i in range(12)], [1, 2] * 6)
    for split, records in (("train", examples[:8]), ("validation", examples[8:])):
        for path in write_shards(tmp_path, split, [records]):
            with open(path, "rb") as file:
                s3.objects[f"data/{os.path.basename(path)}"] = file.read()

    places_to_write = {"report_dir": "s3://bucket/report", "export_dir": "s3://bucket/export"}
    arguments = _arguments(**places_to_write, num_epochs=1)
    said = _run(s3, "amoeba_net.py", "--mode=train_and_eval", *arguments).err
    assert "s3://bucket/model cannot be locked, since file systems that only TensorFlow" in said
    expected = ["model/best/model.ckpt-2.index", "model/curves.png", "report/report.html"]
    assert not {"model/model.ckpt-2.index", "model/checkpoint", *expected} - set(s3.objects)
    assert any(key.endswith("/saved_model.pb") for key in s3.objects)
    assert not [key for key in s3.objects if ".tmp" in key or "_temp_" in key]

    # The newest checkpoint is damaged: training goes on from the one before.
    data = "model/model.ckpt-2.data-00000-of-00001"
    s3.objects[data] = s3.objects[data][: len(s3.objects[data]) // 2]
    said = _run(s3, "amoeba_net.py", "--mode=train_and_eval", *_arguments(num_epochs=1.5)).err
    assert "Taking the newest whole checkpoint, s3://bucket/model/model.ckpt-1." in said
    records = json.loads(s3.objects["model/results.json"].decode())
    assert [(r["kind"], r["global_step"]) for r in records] == [
        *(("train", 2), ("eval", 2), ("train", 2), ("eval", 2), ("train", 3), ("eval", 3))
    ]

    # Another training starts from these weights, and an evaluator evaluates it.
    other = {"model_dir": "s3://bucket/other", "init_checkpoint": "s3://bucket/model/best"}
    arguments = ["--mode=train", "--train_steps=1", *_arguments(**other)]
    _run(s3, "amoeba_net.py", *arguments)
    cluster = {"worker": ["127.0.0.1:2222"], "evaluator": ["127.0.0.1:2223"]}
    config = json.dumps({"cluster": cluster, "task": {"type": "evaluator", "index": 0}})
    _run(s3, "amoeba_net.py", *arguments, variables={"TF_CONFIG": config})
    records = json.loads(s3.objects["other/results.json"].decode())
    assert [(r["kind"], r["global_step"]) for r in records] == [("train", 1), ("eval", 1)]
    assert "other/best/model.ckpt-1.index" in s3.objects

    table = str(tmp_path / "table.csv")
    _run(s3, "scripts/compare_runs.py", "s3://bucket/model", f"--csv={table}", "--plot=")
    with open(table, newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["run", "model"]
