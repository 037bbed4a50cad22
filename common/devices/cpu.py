"""The CPU, which computes in float32."""

import os
from typing import Optional

from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common import runtime
from common.devices.device import Device
from common.runtime import tf

# The NPU's adapter replaces it with one whose every session asks for the NPU.
_SESSION_INIT = tf.Session.__init__


class Cpu(Device):
    """TensorFlow's own CPU device."""

    name = "cpu"
    data_formats = ("NHWC",)

    @property
    def trains_pointwise_as_matmul(self):
        return not runtime.uses_openmp()  # MKL's convolutions are faster than its products.

    def session_config(self, training=False):
        config = tf.ConfigProto(allow_soft_placement=True)
        config.device_count["GPU"] = 0
        # Of the graph optimizers only fusing makes this network faster on a CPU, and only where it
        # does not train; each costs seconds before the first step.
        rewrites = config.graph_options.rewrite_options
        if training:
            rewrites.disable_meta_optimizer = True
        else:
            rewrites.optimizers.append("remap")
            rewrites.meta_optimizer_iterations = RewriterConfig.ONE
        if runtime.uses_openmp():
            _set_mkl_threads(config)
        return config


def _set_mkl_threads(config: tf.ConfigProto):
    """Sets the threads of TensorFlow built with MKL (intel-tensorflow).

    Two operators at a time have half of the cores each. A training step on 2 cores takes 1.3 times
    as long if each has both, which is all that TensorFlow itself would do.
    """
    cores = len(os.sched_getaffinity(0))
    # Read when the first session starts.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // 2)))
    config.intra_op_parallelism_threads = cores
    config.inter_op_parallelism_threads = min(2, cores)


class CpuSession(tf.Session):
    """A session on the CPU, whatever the process trains on; exports need no other.

    Args:
        graph: the session's; None for the default graph.
    """

    def __init__(self, graph: Optional[tf.Graph] = None):
        config = Cpu().session_config()
        # Another session's input function may run this one: on one core it would wait for itself.
        config.use_per_session_threads = True
        _SESSION_INIT(self, "", graph, config)
