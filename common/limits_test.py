"""Bounds of what is read from one file."""

import os

import pytest

from common import limits
from common.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 1_000_000, "a number has 1000000 digits"),
        ("{", "not valid JSON"),
    ],
    ids=["lists", "objects", "digits", "cut off"],
)
def test_json_that_pythons_parser_fails_on(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        limits.read_json(str(path))


def test_large_files_are_not_read(tmp_path):
    path = str(tmp_path / "a.json")
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # Sparse: it takes no space.
    for read in (limits.read_json, limits.read_text):
        with pytest.raises(UserError, match=r"a\.json is too large: 1099511627776 bytes"):
            read(path)
    # As any path that only TensorFlow's file systems understand.
    with pytest.raises(UserError, match="too large"):
        limits.read_bytes(f"file://{path}", 5)


def test_pipes_and_devices_are_not_read(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    for name in (path, "/dev/zero", str(tmp_path)):
        with pytest.raises(UserError, match=f"{name} is not a regular file"):
            limits.read_bytes(name, 5)


def test_whole_file_of_any_file_system(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert limits.read_bytes(str(path), 5) == limits.read_bytes(f"file://{path}", 5) == b"12345"
