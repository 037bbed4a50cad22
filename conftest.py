"""Fixtures that tests of several files use; what else they share is in test/helpers.py."""

import os
import sys

import pytest

from common.runtime import tf

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "test"))
import helpers

_PREPARED = ("RANK_", "CM_", "ASCEND_", "DEVICE_ID", "HCCL_", "LC_")


def pytest_addoption(parser):
    parser.addoption(
        "--gpu", action="store_true", help="Let the tests see the GPUs, see test/gpu_test.py."
    )


def pytest_configure(config):
    """Before TensorFlow looks for devices: one test would take all of a GPU's memory.

    Nor do requests to this host go to a proxy, nor does what a shell is prepared for reach tests:
    a cluster, cards, or a language that is not installed.
    """
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1"
    for name in list(os.environ):
        if name in ("TF_CONFIG", "JOB_ID", "POD_NAME") or name.startswith(_PREPARED):
            del os.environ[name]
    if config.getoption("--gpu"):
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Slow ones before all others that stand alone: short ones fill both processes at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def log(monkeypatch, caplog):
    """What is logged, as pytest's `caplog`; TensorFlow's logger keeps it from that."""
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    with caplog.at_level("INFO", logger="tensorflow"):
        yield caplog


@pytest.fixture
def graph():
    """A graph with a seed, which is the default one during the test."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(1)
        yield graph


@pytest.fixture
def model_dir(tmp_path):
    """A directory with checkpoints of the steps 10, 20 and 30."""
    return helpers.save_checkpoints(str(tmp_path / "model"), (10, 20, 30))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return helpers.TinyModel(str(tmp_path_factory.mktemp("tiny_model")))


@pytest.fixture(scope="session")
def tiny_export(tiny_model, tmp_path_factory):
    """A directory with the tiny model's exports in all formats."""
    directory = str(tmp_path_factory.mktemp("tiny_export"))
    tiny_model.export(directory)
    return directory
