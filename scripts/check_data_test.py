"""Tests of check_data.py, run as people run it."""

import json
import os
import pathlib
import re
import shutil

import pytest
from helpers import claim_length, encode, flip, noise, run, write_shards

from common.data import tfrecords
from scripts import check_data


def _image(image_format="JPEG", mode="RGB"):
    return encode(noise(0, mode=mode), image_format)


def _example(label=1, encoded=None):
    encoded = _image() if encoded is None else encoded
    return tfrecords.image_example(encoded, label, height=16, width=16, filename=f"{label}.jpg")


def _without(*keys):
    example = _example()
    for key in keys:
        del example.features.feature[key]
    return example


def _check(data_dir, *flags, status):
    """Runs the program; returns what it prints and the JSON report."""
    result = data_dir.parent / "result.json"
    paths = f"--data_dir={data_dir}", f"--result={result}"
    log = run("scripts/check_data.py", *paths, "--workers=2", *flags, status=status).log
    assert "Traceback" not in log
    return log, json.loads(result.read_text()) if result.exists() else None


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_sound(data_dir):
    shard = [_example(1), _example(1000), _example(7, _image(mode="L"))]
    write_shards(data_dir, "train", [shard, shard])
    (data_dir / "validation").mkdir()
    write_shards(data_dir / "validation", "validation", [[_example(5, _image("PNG"))]])
    output, result = _check(data_dir, status=0)
    assert result["ok"]
    assert result["splits"]["train"]["records"] == 6
    assert result["splits"]["train"]["classes_seen"] == 3
    assert result["splits"]["validation"]["notes"] == {
        "PNG in a JPEG's place": 1,
        "classes without images": 999,
    }
    assert "1 PNG in a JPEG's place" in output
    assert "Legal labels are 1..1000 (ImageNet" in output
    assert "sound" in output


def test_every_damage_is_located(data_dir):
    good = _example()
    cases = {
        "truncated record": [good, good],
        "cut to its header": [good, good],
        "flipped byte of an image": [good, good, good],
        "flipped byte of a length": [good, good],
        "empty": [good],
        "text": [good],
        "no image": [good, _without("image/encoded")],
        "empty image": [_example(encoded=b"")],
        "truncated JPEG": [good, good, _example(encoded=_image()[:-40])],
        "text for an image": [_example(encoded=b"not an image")],
        "label 0": [_example(0)],
        "label -1": [good, _example(-1)],
        "label 5000": [_example(5000)],
        "no label": [_without("image/class/label")],
        "no Example": [good, b"\xff\xff\xff"],
        "removed": [good],
        "sound": [good],
    }
    paths = write_shards(data_dir, "train", list(cases.values()))
    path = dict(zip(cases, map(pathlib.Path, paths)))
    size = len(path["truncated record"].read_bytes()) // 2
    for name, keep in (("truncated record", 2 * size - 30), ("cut to its header", size + 5)):
        path[name].write_bytes(path[name].read_bytes()[:keep])
    flip(path["flipped byte of an image"], size + 300)
    flip(path["flipped byte of a length"], size)
    path["empty"].write_bytes(b"")
    path["text"].write_text("I am not a TFRecord file.\n" * 20)
    path["removed"].unlink()

    output, result = _check(data_dir, status=1)
    expected = {
        "truncated record": (1, "truncated"),
        "cut to its header": (1, "truncated"),
        "flipped byte of an image": (1, "corrupted record .* 1 records after it were not read"),
        "flipped byte of a length": (1, "corrupt"),
        "empty": (None, "is empty"),
        "text": (0, "no TFRecord file"),
        "no image": (1, "has no image"),
        "empty image": (0, "has no image"),
        "truncated JPEG": (2, r"\(JPEG\) that cannot be decoded: .*Invalid JPEG"),
        "text for an image": (0, r"\(unknown format\) that cannot be decoded"),
        "label 0": (0, r"has label 0; 1\.\.1000 are legal"),
        "label -1": (1, "has label -1"),
        "label 5000": (0, "has label 5000"),
        "no label": (0, "has 0 integers as image/class/label"),
        "no Example": (1, "is not a tf.train.Example"),
        "removed": (None, "is missing"),
    }
    found = {d["file"]: d for d in result["splits"]["train"]["damage"]}
    assert len(result["splits"]["train"]["damage"]) == len(found) == len(expected)
    for name, (record, reason) in expected.items():
        damage = found[path[name].name]
        assert damage["record"] == record, name
        assert re.search(reason, damage["reason"]), damage
        where = path[name].name + (f", record {record}" if record is not None else "")
        assert f"DAMAGED  {where}: " in output
    assert result["splits"]["train"]["missing"] == [path["removed"].name]
    assert not result["ok"]


@pytest.mark.parametrize("together", [1, 2, 4, 100])
def test_records_before_damage_are_checked(data_dir, monkeypatch, together):
    """However many are checked together."""
    monkeypatch.setattr(check_data, "_CHECKED_TOGETHER", together)
    records = [_example(1), _example(2), _example(0), _example(4), _example(5), _example(6)]
    (path,) = write_shards(data_dir, "train", [records])
    size = os.path.getsize(path) // len(records)
    flip(path, 4 * size + 300)
    report = check_data.check_shard(path, 1001)
    assert report.records == 4 and sorted(report.labels) == [1, 2, 4]
    assert [damage.record for damage in report.damage] == [2, 4]


@pytest.mark.xdist_group("dataset_info")
class TestWithDatasetInfo:
    @pytest.fixture(scope="class")
    def built(self, tmp_path_factory):
        """A data set that build_tfrecords.py made: 3 classes, 3 training shards, 2 others."""
        tmp_path = tmp_path_factory.mktemp("built")
        for c in ("ant", "bee", "cat"):
            (tmp_path / "photos" / c).mkdir(parents=True)
            for i in range(8):
                (tmp_path / "photos" / c / f"{i}.jpg").write_bytes(_image())
        flags = "--num_train_shards=3", "--num_validation_shards=2", "--validation_fraction=0.25"
        paths = f"--source_dir={tmp_path / 'photos'}", f"--output_dir={tmp_path / 'data'}"
        run("scripts/build_tfrecords.py", *paths, *flags)
        return tmp_path / "data"

    @pytest.fixture
    def data_dir(self, built, tmp_path):
        """A copy of it."""
        shutil.copytree(str(built), str(tmp_path / "data"))
        return tmp_path / "data"

    def test_sound(self, data_dir):
        output, result = _check(data_dir, status=0)
        assert "Legal labels are 1..3 (dataset.json)" in output
        assert [result["splits"][split]["records"] for split in tfrecords.SPLITS] == [18, 6]

    def test_damage(self, data_dir):
        # A sound file of the wrong contents, all of a split gone, and labels out of range.
        os.replace(str(data_dir / "train-00000-of-00003"), str(data_dir / "train-00001-of-00003"))
        tfrecords.write_shard(str(data_dir / "train-00002-of-00003"), [_example(4)] * 6)
        for path in data_dir.glob("validation-*"):
            path.unlink()
        output, result = _check(data_dir, status=1)
        damage = {
            (d["file"], d["record"]): d["reason"] for d in result["splits"]["train"]["damage"]
        }
        assert damage.pop(("train-00000-of-00003", None)) == "is missing"
        assert damage.pop(("train-00001-of-00003", None)).startswith("has SHA-256 ")
        # The damaged labels are all of this shard's, and say more than its checksum would.
        assert set(damage) == {("train-00002-of-00003", record) for record in range(6)}
        assert result["splits"]["validation"]["missing"] == [
            "validation-00000-of-00002",
            "validation-00001-of-00002",
        ]
        assert "10 problems." in output

    def test_flag_goes_before_dataset_info(self, data_dir):
        output, _ = _check(data_dir, "--num_label_classes=3", status=1)
        assert "Legal labels are 1..2 (--num_label_classes)" in output
        assert "has label 3; 1..2 are legal" in output

    def test_damaged_dataset_info(self, data_dir):
        (data_dir / "dataset.json").write_text("{")
        output, _ = _check(data_dir, status=1)
        assert "dataset.json is not valid JSON" in output


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d.rmdir(), "does not exist"),
        (lambda d: None, "has no train shards: neither"),
    ],
)
def test_no_data(data_dir, make, message):
    make(data_dir)
    output, _ = _check(data_dir, status=1)
    assert message in output


def test_claimed_lengths_end_no_process(data_dir):
    """TensorFlow would reserve that much memory, and end the process."""
    paths = write_shards(data_dir, "train", [[_example(1)], [_example(2)] * 2])
    for path, length in zip(paths, (1 << 40, 1 << 60)):
        claim_length(path, length)
    _, result = _check(data_dir, status=1)
    damage = result["splits"]["train"]["damage"]
    assert [(d["record"], "is truncated" in d["reason"]) for d in damage] == [(0, True)] * 2
