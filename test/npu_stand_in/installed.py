"""Puts a stand-in for an Ascend adapter in the place of the real one, for a while."""

import contextlib
import importlib
import os
import sys
from unittest import mock

import tensorflow.compat.v1 as tf
from tensorflow.python.client import session as tf_session

# Directories to import from: the adapter for TensorFlow 1.15, and the one for 2.6.
PATH = os.path.dirname(os.path.abspath(__file__))
TF26_PATH = os.path.join(PATH, "tf26")

_PACKAGES = ("npu_bridge", "npu_device")
# What an adapter replaces in TensorFlow: (class, method).
_REPLACED = [
    *((tf_session.BaseSession, name) for name in ("__init__", "_do_run", "close", "__del__")),
    (tf.Session, "__init__"),
    (tf.InteractiveSession, "__init__"),
]
_ORIGINALS = [vars(owner)[name] for owner, name in _REPLACED]
_VARIABLES = (
    *("RANK_", "CM_", "POD_", "JOB_", "NPU_STAND_IN"),
    *("TF_CONFIG", "RESTORE_FROM", "LOCAL_CHECK"),
)


@contextlib.contextmanager
def installed(release="current", **environment):
    """Inside, the stand-in can be imported, which is like a release of an adapter.

    Args:
        release: older, current, r1.11 or newer of `npu_bridge`; or tf26: `npu_device`.
        environment: variables to set, beside a JOB_ID; no other of the adapter's is.

    Yields:
        The list the stand-in writes calls to: (name, arguments).
    """
    path, recording = PATH, "npu_bridge.recording"
    if release == "tf26":
        path, recording = TF26_PATH, "npu_device.compat.v1.recording"
    else:
        environment["NPU_STAND_IN"] = release
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_VARIABLES)}
    kept.update({"JOB_ID": "10087", **environment})
    around = [vars(owner)[name] for owner, name in _REPLACED]  # Another one's, or the originals.
    with mock.patch.dict(os.environ, kept, clear=True), mock.patch.object(
        sys, "path", [path, *sys.path]
    ):
        _forget()
        _put(_ORIGINALS)
        try:
            yield importlib.import_module(recording).calls
        finally:
            _put(around)
            _forget()


def _put(methods):
    for (owner, name), method in zip(_REPLACED, methods):
        setattr(owner, name, method)


def _forget():
    for name in [n for n in sys.modules if n.split(".")[0] in _PACKAGES]:
        del sys.modules[name]
