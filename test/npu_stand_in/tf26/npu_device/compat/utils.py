"""The config of a session on the NPU (python/npu_device/compat/utils.py)."""

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig


class SessionConfigBuilder:
    def __init__(self, config=None):
        self.session_config = config or tf.ConfigProto(allow_soft_placement=True)
        rewrites = self.session_config.graph_options.rewrite_options
        rewrites.remapping = RewriterConfig.OFF
        optimizer = rewrites.custom_optimizers.add()
        optimizer.name = "NpuOptimizer"
        self.parameter_map = optimizer.parameter_map
