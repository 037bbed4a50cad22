"""The device to run on. Only this file knows that NPUs and GPUs exist."""

from typing import Callable, Optional

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common.errors import UserError

NAMES = ("auto", "npu", "gpu", "cpu")


class Accelerator:
    """TensorFlow's own devices: the CPU, or a GPU."""

    def __init__(self, name: str):
        self.name = name

    def session_config(self) -> tf.ConfigProto:
        config = tf.ConfigProto(allow_soft_placement=True)
        if self.name == "cpu":
            config.device_count["GPU"] = 0
        else:
            config.gpu_options.allow_growth = True
        # One pass of the graph optimisers finds what two find, in half of the time.
        config.graph_options.rewrite_options.meta_optimizer_iterations = RewriterConfig.ONE
        return config

    def estimator(
        self,
        model_fn: Callable,
        model_dir: str,
        save_checkpoints_steps: int,
        random_seed: Optional[int] = None,
        log_steps: int = 100,
    ) -> tf.estimator.Estimator:
        """An Estimator for this device.

        Args:
            model_fn: the Estimator's.
            model_dir: checkpoints and logs.
            save_checkpoints_steps: steps between checkpoints.
            random_seed: seed of the graph's random operations; None for another one each time.
            log_steps: steps between log lines and summaries.
        """
        config = tf.estimator.RunConfig(
            model_dir=model_dir,
            tf_random_seed=random_seed,
            save_checkpoints_steps=save_checkpoints_steps,
            save_summary_steps=log_steps,
            log_step_count_steps=log_steps,
            session_config=self.session_config(),
        )
        return tf.estimator.Estimator(model_fn, config=config, params={})


def choose(name: str) -> Accelerator:
    """The accelerator of this name; 'auto' takes the best that is there and logs which and why.

    Raises:
        UserError: the one asked for is not there.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown accelerator {name!r}: expected one of {', '.join(NAMES)}.")
    if name == "npu":
        raise UserError(
            "--accelerator=npu: this version does not drive Ascend NPUs; use auto, gpu or cpu."
        )
    has_gpu = bool(tf.config.experimental.list_physical_devices("GPU"))
    if name == "gpu" and not has_gpu:
        raise UserError(
            "--accelerator=gpu: TensorFlow sees no GPU; it needs one, its driver and the "
            "tensorflow-gpu package. Use --accelerator=cpu to run on the CPU."
        )
    if name == "auto":
        name = "gpu" if has_gpu else "cpu"
        reason = "TensorFlow sees one" if has_gpu else "there is no GPU that TensorFlow sees"
        tf.logging.info("Running on the %s: %s.", name.upper(), reason)
    else:
        tf.logging.info("Running on the %s, as asked.", name.upper())
    return Accelerator(name)
