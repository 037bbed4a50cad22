"""Paths that TensorFlow cannot open are told from those that it can, in a sentence."""

import sys
import threading

import pytest

from common import places
from common.runtime import tf


@pytest.fixture
def stat(monkeypatch):
    """What TensorFlow answers about a URL: calls a function, and raises the error it returns."""

    def replace(answer):
        def stat_of(path):
            error = answer()
            if error:
                raise error

        monkeypatch.setattr(tf.io.gfile, "stat", stat_of)

    return replace


@pytest.mark.parametrize(
    "path", ["", "a b", "中文/\n'\"$*?[\\", "a:/b", "s3:/b", "file:///none/at/all"]
)
def test_good_path(path, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "utf-8")
    assert not places.problem(path)


def test_locale_that_is_not_of_utf_8(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "latin-1")
    assert not places.problem("/a")
    for path in ("/\xfc", "/\u732b"):
        assert "set LC_ALL=C.UTF-8" in places.problem(path)


def test_file_system_that_this_tensorflow_has_not(stat):
    expected = f"TensorFlow {tf.__version__} has no file system nonesuch:// here. Mount it, or work"
    assert places.problem("nonesuch://bucket/name").startswith(expected)
    stat(lambda: tf.errors.NotFoundError(None, None, "libhdfs.so: cannot open shared object file"))
    assert "has no file system hdfs:// here" in places.problem("hdfs://host/name")


def test_bucket_without_a_directory():
    assert "name a directory, s3://bucket/name." in places.problem("s3://bucket/")


def test_file_system_that_does_not_answer(stat, monkeypatch):
    monkeypatch.setattr(places, "_PATIENCE", 0.1)
    released = threading.Event()
    stat(lambda: released.wait(60) and None)
    assert places.problem("gs://bucket/name").startswith(
        "it did not answer within 0.1 s. Check the"
    )
    released.set()


def test_file_system_that_refuses(stat):
    stat(lambda: tf.errors.PermissionDeniedError(None, None, "Access denied.\nAnd more"))
    assert places.problem("s3://bucket/name").startswith(
        "TensorFlow cannot open it: Access denied. Check the address, the network, and the"
    )
    stat(lambda: tf.errors.NotFoundError(None, None, "s3://bucket/name does not exist"))
    assert not places.problem("s3://bucket/name")
