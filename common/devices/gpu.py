"""GPUs; mixed precision is TensorFlow's own rewriting of the graph."""

import contextlib
from typing import Optional

from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common.devices.device import Device
from common.devices.options import Options
from common.distribution.cluster import Cluster
from common.errors import UserError
from common.runtime import tf

_MIXED_MODES = (
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "mixed_float16",
)
_FLOAT32_MODES = ("force_fp32", "must_keep_origin_dtype", "origin")


def is_there() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.experimental.list_physical_devices("GPU"))


def hide():
    """Makes TensorFlow's strategies leave the GPUs alone."""
    tf.config.experimental.set_visible_devices([], "GPU")


class Gpu(Device):
    """All GPUs that TensorFlow sees, as replicas."""

    name = "gpu"

    def __init__(self, options: Options, cluster: Optional[Cluster] = None):
        if not is_there():
            raise UserError(
                "--accelerator=gpu: TensorFlow sees no GPU; it needs one, its driver, and CUDA's "
                "libraries (GPU=1 bash scripts/setup_env.sh). Use --accelerator=cpu to run on the "
                "CPU."
            )
        super().__init__(options, cluster)
        for gpu in tf.config.experimental.list_physical_devices("GPU"):
            # A strategy takes the GPUs before there is a session with its `allow_growth`.
            with contextlib.suppress(RuntimeError, ValueError):  # Something has taken them already.
                tf.config.experimental.set_memory_growth(gpu, True)
        mode = options.precision_mode
        if mode not in _MIXED_MODES + _FLOAT32_MODES:
            raise UserError(
                f"--precision_mode={mode} is for the NPU: a GPU takes "
                f"{', '.join(_MIXED_MODES + _FLOAT32_MODES)}."
            )
        self._mixed = mode in _MIXED_MODES
        self.skips_steps = self._mixed and options.loss_scale == "dynamic"
        self.loss_scale_variable = "current_loss_scale" if self.skips_steps else None
        tf.logging.info(
            "--precision_mode=%s: the GPU computes in %s.",
            mode,
            f"mixed precision, --loss_scale={options.loss_scale}" if self._mixed else "float32",
        )

    def _local_devices(self):
        return len(tf.config.experimental.list_physical_devices("GPU"))

    def wrap_optimizer(self, optimizer):
        if not self._mixed:
            return optimizer
        scale = self.options.loss_scale
        if scale != "dynamic":
            scale = 1.0 if scale == "none" else float(scale)
        return tf.train.experimental.enable_mixed_precision_graph_rewrite(optimizer, scale)

    def session_config(self, training=False):
        config = tf.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True
        if not training:  # Evaluation after a training is no other than evaluation alone.
            config.graph_options.rewrite_options.auto_mixed_precision = RewriterConfig.OFF
        if self.options.xla:
            config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
        return config
