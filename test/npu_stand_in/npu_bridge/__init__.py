"""A stand-in for Huawei's TensorFlow 1.15 adapter, for tests on machines without an Ascend card.

It has the adapter's public names and signatures, writes down how they are called, and lets
TensorFlow run on the CPU. The environment chooses what it is:

  NPU_STAND_IN          release to be like: older, current (the default) or newer
  NPU_STAND_IN_RECORD   file that every call is appended to, one JSON object a line
"""

import json
import os

RELEASE = os.environ.get("NPU_STAND_IN", "current")
__version__ = {"older": "1.2", "current": "1.10", "newer": "1.13"}[RELEASE]

calls = []  # (name, arguments), oldest first.


def record(callee, **arguments):
    """Writes down one call."""
    calls.append((callee, arguments))
    path = os.environ.get("NPU_STAND_IN_RECORD")
    if path:
        with open(path, "a") as f:
            f.write(json.dumps([callee, arguments], default=str) + "\n")
