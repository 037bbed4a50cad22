"""Tests of common.tfrecords."""

import json
import os

import pytest
from helpers import claim_length

from common import files, limits
from common.data import tfrecords
from common.errors import UserError
from common.runtime import tf


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def _write(path, records):
    return tfrecords.write_shard(str(path), records)


class TestFindShards:
    def test_flat(self, tmp_path):
        for i in (2, 0, 1):
            _touch(tmp_path / tfrecords.shard_name("train", i, 3))
        _touch(tmp_path / "validation-00000-of-00001")
        found = tfrecords.find_shards(str(tmp_path), "train")
        assert [os.path.basename(p) for p in found] == [
            "train-00000-of-00003",
            "train-00001-of-00003",
            "train-00002-of-00003",
        ]

    def test_nested(self, tmp_path):
        _touch(tmp_path / "validation" / "validation-00000-of-00128")
        assert tfrecords.find_shards(str(tmp_path), "validation") == [
            str(tmp_path / "validation" / "validation-00000-of-00128")
        ]

    def test_unfinished_and_other_files_are_no_shards(self, tmp_path):
        path = tmp_path / "train-00000-of-00001"
        _touch(path)
        _touch(tmp_path / "train-00000-of-00001.bak")
        _touch(tmp_path / os.path.basename(files.temporary_path(str(path))))
        assert tfrecords.find_shards(str(tmp_path), "train") == [str(path)]

    def test_no_directory(self, tmp_path):
        with pytest.raises(ValueError, match="/nowhere does not exist"):
            tfrecords.find_shards(str(tmp_path / "nowhere"), "train")

    def test_no_shards_names_both_patterns(self, tmp_path):
        with pytest.raises(ValueError, match=r"neither .*/train-\*.* nor .*/train/train-\*"):
            tfrecords.find_shards(str(tmp_path), "train")

    def test_both_layouts_are_an_error(self, tmp_path):
        _touch(tmp_path / "train-00000-of-00001")
        _touch(tmp_path / "train" / "train-00000-of-00001")
        with pytest.raises(ValueError, match="twice"):
            tfrecords.find_shards(str(tmp_path), "train")


class TestMissingShards:
    def test_complete(self):
        names = [tfrecords.shard_name("train", i, 4) for i in range(4)]
        assert tfrecords.missing_shards(names) == []

    def test_lists_what_is_missing(self):
        names = ["/d/" + tfrecords.shard_name("train", i, 4) for i in (0, 2)]
        assert tfrecords.missing_shards(names) == ["train-00001-of-00004", "train-00003-of-00004"]

    def test_total_that_is_too_large_to_list(self):
        with pytest.raises(UserError, match="a set has 100000 shards at most"):
            tfrecords.missing_shards(["/d/train-00000-of-99999999999"])

    def test_mixed_totals(self):
        with pytest.raises(ValueError, match=r"1 of train-\*-of-00001, 1 of train-\*-of-00002"):
            tfrecords.missing_shards(["/d/train-00000-of-00001", "/d/train-00000-of-00002"])


class TestCountRecords:
    def test_counts_what_tensorflow_wrote(self, tmp_path):
        paths = []
        for index, count in enumerate((1, 5)):
            paths.append(str(tmp_path / tfrecords.shard_name("train", index, 2)))
            with tf.io.TFRecordWriter(paths[-1]) as writer:
                for i in range(count):
                    writer.write(b"x" * i)
        assert tfrecords.count_records(paths) == 6
        # As any path that only TensorFlow's file systems understand.
        assert tfrecords.count_records([f"file://{path}" for path in paths]) == 6

    def test_truncated(self, tmp_path):
        path = tmp_path / "train-00000-of-00001"
        _write(path, [b"first", b"second"])
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert tfrecords.scan_shard(str(path))[0] == 1
        with pytest.raises(ValueError, match=r"train-00000.*record 1 at byte 21 of 42.*truncated"):
            tfrecords.count_records([str(path)])
        path.write_bytes(whole[:25])
        with pytest.raises(ValueError, match="record 1 at byte 21 of 25 is truncated"):
            tfrecords.count_records([str(path)])

    def test_flipped_length(self, tmp_path):
        path = tmp_path / "train-00000-of-00001"
        _write(path, [b"first", b"second"])
        data = bytearray(path.read_bytes())
        data[21] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(ValueError, match="record 1 at byte 21 of 43 is corrupt"):
            tfrecords.count_records([str(path)])

    @pytest.mark.parametrize("length", [1 << 40, 1 << 60, (1 << 64) - 20])
    def test_claimed_length(self, tmp_path, length):
        path = str(tmp_path / "train-00000-of-00001")
        _write(path, [b"first", b"second"])
        claim_length(path, length, position=21)
        records, problem = tfrecords.scan_shard(path)
        assert records == 1 and f"should end at byte {length + 21 + 16}" in problem

    def test_record_that_is_too_large(self, tmp_path):
        path = str(tmp_path / "train-00000-of-00001")
        _write(path, [b"first"])
        claim_length(path, limits.RECORD_BYTES + 1)
        os.truncate(path, 1 << 40)  # Sparse: it takes no space.
        records, problem = tfrecords.scan_shard(path)
        assert records == 0 and "has 536870913 bytes; up to 536870912 are read" in problem

    def test_text_and_empty_files(self, tmp_path):
        path = tmp_path / "train-00000-of-00001"
        path.write_text("I am not a TFRecord file.\n" * 10)
        with pytest.raises(ValueError, match=r"record 0 at byte 0 .* no TFRecord file"):
            tfrecords.count_records([str(path)])
        path.write_text("")
        with pytest.raises(ValueError, match="is empty"):
            tfrecords.count_records([str(path)])


class TestWriteShard:
    def test_round_trip(self, tmp_path):
        path = str(tmp_path / "train-00000-of-00001")
        example = tfrecords.image_example(
            b"jpeg", 7, height=3, width=4, text="a cat", filename="c.jpg", synset="n1"
        )
        records, size, digest = tfrecords.write_shard(path, [example])
        assert (records, size) == (1, os.path.getsize(path))
        assert tfrecords.file_checksum(path) == (size, digest)
        (record,) = tf.io.tf_record_iterator(path)
        feature = tf.train.Example.FromString(record).features.feature
        assert feature["image/encoded"].bytes_list.value == [b"jpeg"]
        assert feature["image/format"].bytes_list.value == [b"JPEG"]
        assert feature["image/class/label"].int64_list.value == [7]
        assert feature["image/class/text"].bytes_list.value == [b"a cat"]
        assert feature["image/height"].int64_list.value == [3]
        assert os.listdir(str(tmp_path)) == ["train-00000-of-00001"]

    def test_same_examples_same_bytes(self, tmp_path):
        def examples():
            return (
                tfrecords.image_example(b"%d" % i, i, height=1, width=1, text=f"t{i}")
                for i in range(20)
            )

        assert _write(tmp_path / "a", examples()) == _write(tmp_path / "b", examples())

    def test_failure_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "train-00000-of-00001"
        path.write_bytes(b"old")

        def failing():
            yield b"one"
            raise OSError("source went away")

        with pytest.raises(OSError, match="went away"):
            _write(path, failing())
        assert os.listdir(str(tmp_path)) == [path.name]
        assert path.read_bytes() == b"old"


class TestDatasetInfo:
    info = {
        "format_version": 1,
        "source": "folders",
        "seed": 0,
        "num_classes": 2,
        "num_label_classes": 3,
        "splits": {"train": {"images": 5, "bytes": 9, "num_shards": 1, "shards": []}},
    }

    def test_round_trip(self, tmp_path):
        assert tfrecords.read_dataset_info(str(tmp_path)) is None
        tfrecords.write_dataset_info(str(tmp_path), self.info)
        assert tfrecords.read_dataset_info(str(tmp_path)) == self.info
        assert os.listdir(str(tmp_path)) == ["dataset.json"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "not valid JSON"),
            ("[]", "JSON object"),
            ('{"format_version": 2}', "format_version is 2"),
            ('{"format_version": 1, "num_classes": "2"}', "num_classes is '2'"),
            ('{"format_version": 1, "num_classes": 99999999}', "num_classes is 99999999, and 1 to"),
            ("[" * 100_000, "nested too deeply"),
            (b"\xff\xfe", "not UTF-8"),
        ],
    )
    def test_errors_name_the_file(self, tmp_path, text, reason):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "dataset.json").write_bytes(data)
        with pytest.raises(ValueError, match=r"dataset\.json .*" + reason):
            tfrecords.read_dataset_info(str(tmp_path))

    @pytest.mark.parametrize(
        ("shard", "reason"),
        [
            ("a", "an object with a name is expected"),
            ({"name": ["a"]}, "an object with a name is expected"),
            ({"name": "../train-00000-of-00001"}, "is not a shard's name"),
            ({"name": "\ud800"}, "is not a shard's name"),
            ({"name": "train-0-of-" + "9" * 5000}, "is not a shard's name"),
            ({"sha256": 5}, "sha256 of train-00000-of-00001 is 5"),
            ({"images": "5"}, "images of train-00000-of-00001 is '5'"),
            ({"converted": {"PNG": "2"}}, "converted of .* is not an object of numbers"),
            ({"fingerprint": "f"}, "images of train-00000-of-00001 is None"),
        ],
    )
    def test_shards(self, tmp_path, shard, reason):
        if isinstance(shard, dict):
            shard = {"name": "train-00000-of-00001", **shard}
        splits = {"train": {"images": 5, "shards": [shard]}}
        (tmp_path / "dataset.json").write_text(json.dumps({**self.info, "splits": splits}))
        with pytest.raises(UserError, match=f"splits.train.shards: .*{reason}"):
            tfrecords.read_dataset_info(str(tmp_path))

    def test_writing_checks(self, tmp_path):
        with pytest.raises(ValueError, match="num_classes"):
            tfrecords.write_dataset_info(str(tmp_path), {"format_version": 1})


def test_labels(tmp_path):
    assert tfrecords.read_labels(str(tmp_path)) is None
    files.write_text(str(tmp_path / "labels.txt"), "background\ncat\nd\u00f6g\n")
    assert tfrecords.read_labels(str(tmp_path)) == ["background", "cat", "d\u00f6g"]
    (tmp_path / "labels.txt").write_text("background\n\ndog\n")
    with pytest.raises(ValueError, match=r"labels\.txt has no class name in line 1"):
        tfrecords.read_labels(str(tmp_path))
