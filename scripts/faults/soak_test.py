"""The long training under watch: its damaged record, what it counts, and when it complains."""

import argparse
import os

import pytest

from common import results
from common.data import tfrecords
from common.runtime import tf
from scripts import make_digits
from scripts.faults import soak


def test_one_record_is_damaged(tmp_path):
    make_digits.make_digits(str(tmp_path), train_images=3)
    before = _records(str(tmp_path))
    soak.damage_one_record(str(tmp_path))
    after = _records(str(tmp_path))
    assert len(after) == len(before) == 30
    assert [i for i, pair in enumerate(zip(before, after)) if pair[0] != pair[1]] == [0]
    assert b"no image" in after[0]


def _records(directory):
    shards = tfrecords.find_shards(directory, "train")
    return [record for shard in shards for record in tf.io.tf_record_iterator(shard)]


@pytest.fixture
def training(tmp_path):
    """One of 1,000 steps, with a look every fifty."""
    arguments = argparse.Namespace(output=str(tmp_path), steps=1000, flags=[])
    training = soak.Training(arguments, "data")
    os.mkdir(training.model_dir)
    for step in range(50, 1001, 50):
        training.usages.append(soak.Usage(step, 100.0, 12, 8, 1.5, step / 1000))
        record = {"global_step": step, "seconds_per_step": 0.01}
        results.append_result(training.model_dir, "train", record)
    return training


def test_what_is_flat(training, capsys):
    trend = training.trend()
    assert trend["memory"] == [100.0, 100.0] and trend["ms a step"] == [10.0, 10.0]
    assert not soak.growing(trend, tolerance=0.02)
    soak.print_trend(training, trend, tolerance=0.02)
    assert "Other files take 1.00 MB at step 1000." in capsys.readouterr().out


@pytest.mark.parametrize("what, index", [("memory", 1), ("files", 2), ("threads", 3)])
def test_what_grows(training, what, index):
    for i, usage in enumerate(training.usages):
        if usage.step > 900:
            larger = list(usage)
            larger[index] *= 1.1
            training.usages[i] = soak.Usage(*larger)
    assert soak.growing(training.trend(), tolerance=0.02) == [what]


def test_usage_of_this_process(tmp_path):
    (tmp_path / "model.ckpt-1.index").write_bytes(bytes(2**20))
    (tmp_path / "results.json").write_bytes(bytes(2**19))
    usage = soak.usage(7, os.getpid(), str(tmp_path))
    assert usage.step == 7 and usage.checkpoints == 1.0 and usage.other_files == 0.5
    assert usage.memory > 10 and usage.files > 2 and usage.threads >= 1
