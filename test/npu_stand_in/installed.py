"""Puts the stand-in for the Ascend adapter in the place of the real one, for a while."""

import contextlib
import importlib
import os
import sys
from unittest import mock

import tensorflow.compat.v1 as tf

PATH = os.path.dirname(os.path.abspath(__file__))


@contextlib.contextmanager
def installed(release="current", **environment):
    """Inside, `import npu_bridge` finds the stand-in, which is like a release of the adapter.

    Args:
        release: older, current or newer.
        environment: variables to set, beside a JOB_ID; no other of the adapter's is.

    Yields:
        The list the stand-in writes calls to: (name, arguments).
    """
    session_init = tf.Session.__init__
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANK_", "CM_", "JOB_"))}
    kept.update(JOB_ID="10087", NPU_STAND_IN=release, **environment)
    with mock.patch.dict(os.environ, kept, clear=True), mock.patch.object(
        sys, "path", [PATH, *sys.path]
    ):
        _forget()
        try:
            yield importlib.import_module("npu_bridge").calls
        finally:
            tf.Session.__init__ = session_init
            _forget()


def _forget():
    for name in [n for n in sys.modules if n.split(".")[0] == "npu_bridge"]:
        del sys.modules[name]
