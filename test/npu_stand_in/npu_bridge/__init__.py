"""A stand-in for Huawei's TensorFlow adapter `npu_bridge`, for machines without an Ascend card.

It does what the project can notice of the real one, as strictly, and runs the graph on the CPU.
It was written from reading and running the adapter's Python, github.com/Ascend/tensorflow at
commit 085a7b2 (15 December 2023), and from reading its C++; the head of each module names the
source files of what it does. Paths are below tf_adapter/python/npu_bridge/ if they end in .py, and
below tf_adapter/ if they end in .cc. What has not been seen of the real one is strict here.

Left out: eager execution, parameter servers, Keras, Horovod, tailing optimization and weight
update sharding, `NPUEstimatorSpec` with its host calls, what GE compiles or refuses.

The environment says what it is like:

  NPU_STAND_IN           release: older (r1.2.0), current (r1.10.0, the default), r1.11 (r1.11.0),
                         newer (r1.15.0)
  NPU_STAND_IN_RECORD    file that every call is appended to, one JSON object a line
  NPU_STAND_IN_OVERFLOW  the steps of the process, counted from 0 and skipped ones too, after which
                         the float status tells of an overflow: like 1 or 0,3-5 or 7- or 0-
  NPU_STAND_IN_HCCL      an empty directory through which the ranks exchange gradients, status and
                         initial weights; without it each takes the others' for its own
"""

import os

# helper/helper.py: the same in every release.
__version__ = "v1.15.0"
RELEASE = {"older": (1, 2), "current": (1, 10), "r1.11": (1, 11), "newer": (1, 15)}[
    os.environ.get("NPU_STAND_IN", "current")
]

from . import device  # noqa: E402 (needs the release)

device.load()  # helper/helper.py loads the library when the package is imported.
