"""Records that cannot be decoded, of files with a number in each record."""

import os

import numpy as np
import pytest

from common.data import tfrecords
from common.data.bad_records import NO_RECORD, BadRecords
from common.errors import UserError
from common.runtime import tf


def _write(directory, records):
    """Two files with every second record each; returns their paths."""
    paths = [os.path.join(directory, tfrecords.shard_name("train", i, 2)) for i in range(2)]
    for i, path in enumerate(paths):
        tfrecords.write_shard(path, records[i::2])
    return paths


def _bad_records(files, **options):
    def find_problem(record):
        return None if record.isdigit() else f"is {record.decode()}"

    values = {"capacity": 8, "on_bad_record": "skip", "max_bad_fraction": 0.5, "num_images": 20}
    return BadRecords(files, find_problem, **{**values, **options})


def _read(bad_records, batch_size=4, padding=0):
    """The numbers in the batches of one pass over both files, and -1 for padding."""
    with tf.Graph().as_default(), tf.Session() as session:
        records = tf.data.Dataset.range(2).flat_map(bad_records.read)
        records = bad_records.before_decode(records)
        examples = records.map(lambda number, data: (number, tf.string_to_number(data, tf.int64)))
        examples = examples.apply(tf.data.experimental.ignore_errors())
        padded = tf.data.Dataset.from_tensors((NO_RECORD, np.int64(-1))).repeat(padding)
        examples = examples.concatenate(padded)
        batches = bad_records.after_decode(examples.batch(batch_size, drop_remainder=True))
        batch = tf.data.make_one_shot_iterator(batches).get_next()
        found = []
        try:
            while True:
                found += session.run(batch).tolist()
        except tf.errors.OutOfRangeError:
            return found


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(tf.logging, "warning", lambda message, *args: lines.append(message % args))
    return lines


def test_bad_records_are_left_out_named_and_counted(tmp_path, warnings):
    records = [str(i).encode() for i in range(20)]
    records[3], records[8] = b"three", b"eight"
    first, second = _write(str(tmp_path), records)
    bad_records = _bad_records([first, second])
    # Eighteen are good, and two of these make no whole batch.
    assert _read(bad_records) == [0, 2, 4, 6, 10, 12, 14, 16, 18, 1, 5, 7, 9, 11, 13, 15]
    assert bad_records.num_decoded == 16
    bad_records.check()
    assert warnings == [
        f"Left out: {first}: record 4 is eight. Bad records so far: 1.",
        f"Left out: {second}: record 1 is three. Bad records so far: 2.",
    ]


def test_first_bad_record_ends_the_data_or_is_an_error(tmp_path):
    first, second = _write(str(tmp_path), [b"0", b"1", b"2", b"three", b"4", b"5", b"6", b"7"])
    message = f"{second}: record 1 is three. scripts/check_data.py lists all damage; --on_bad_"
    bad_records = _bad_records([first, second], on_bad_record="fail")
    assert _read(bad_records, batch_size=2) == [0, 2, 4, 6]
    with pytest.raises(UserError, match=message):
        bad_records.check()
    bad_records = _bad_records([first, second], on_bad_record="fail", raise_errors=True)
    with pytest.raises(tf.errors.OpError, match="record 1 is three"):
        _read(bad_records, batch_size=2)


def test_nothing_but_bad_records(tmp_path, warnings):
    files = _write(str(tmp_path), [b"0", b"1", *[b"x"] * 1000])
    bad_records = _bad_records(files, max_bad_fraction=0.25)
    assert _read(bad_records) == []
    with pytest.raises(UserError, match=r"6 bad records are more than --max_bad_fraction=0\.25"):
        bad_records.check()
    assert len(warnings) == 6


def test_damaged_and_missing_files_cost_what_they_hold(tmp_path, warnings):
    first, second = _write(str(tmp_path), [str(i).encode() for i in range(20)])
    os.truncate(first, os.path.getsize(first) - 3)
    os.remove(second)
    bad_records = _bad_records([first, second], known_counts={second: 2})
    assert _read(bad_records, padding=3) == [*range(0, 18, 2), -1, -1, -1]
    assert bad_records.num_decoded == 9
    reasons = [f"{first}: record 9 is not there: ", *(f"{second}: record {i} " for i in range(2))]
    assert all(reason in line for reason, line in zip(reasons, warnings)) and len(warnings) == 3


def test_an_empty_file_costs_what_it_should_have_held(tmp_path, warnings):
    first, second = _write(str(tmp_path), [str(i).encode() for i in range(20)])
    os.truncate(second, 0)
    bad_records = _bad_records([first, second], max_bad_fraction=0.25, images_per_file=10)
    assert _read(bad_records, padding=2) == [0, 2, 4, 6, 8, 10, 12, 14]
    with pytest.raises(UserError, match=r"10 bad records are more than.* 20 images allows, 5"):
        bad_records.check()
