"""The adapter's names, as `from npu_bridge.npu_init import ...` gives them."""

import inspect
import json
import os
import sys

import tensorflow.compat.v1 as tf

from npu_bridge import RELEASE, record

record("import", release=RELEASE)

# The run config's keywords and defaults, by release.
_KEYWORDS = {
    "iterations_per_loop": 1,
    "profiling_config": None,
    "model_dir": None,
    "tf_random_seed": None,
    "save_summary_steps": 0,
    "save_checkpoints_steps": None,
    "save_checkpoints_secs": None,
    "session_config": None,
    "keep_checkpoint_max": 5,
    "keep_checkpoint_every_n_hours": 10000,
    "log_step_count_steps": 100,
    "enable_data_pre_proc": True,
    "precision_mode": "allow_fp32_to_fp16",
    "variable_format_optimize": True,
    "mix_compile_mode": False,
    "hcom_parallel": False,
    "auto_tune_mode": None,
    "dump_config": None,
}
if RELEASE != "older":
    _KEYWORDS.update(
        op_select_implmode=None,
        fusion_switch_file=None,
        op_compiler_cache_mode=None,
        op_compiler_cache_dir=None,
        modify_mixlist=None,
    )
if RELEASE == "newer":
    del _KEYWORDS["auto_tune_mode"]
    _KEYWORDS.update(precision_mode=None, precision_mode_v2=None, aoe_mode=None, deterministic=0)

# Those of tf.estimator.RunConfig.
_ESTIMATORS_OWN = (
    "model_dir",
    "tf_random_seed",
    "save_summary_steps",
    "save_checkpoints_steps",
    "save_checkpoints_secs",
    "session_config",
    "keep_checkpoint_max",
    "keep_checkpoint_every_n_hours",
    "log_step_count_steps",
)


class NPURunConfig(tf.estimator.RunConfig):
    """Takes the release's keywords and no other."""

    __signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for name, default in _KEYWORDS.items()
        ]
    )

    def __init__(self, *args, **kwargs):
        bound = self.__signature__.bind(*args, **kwargs)
        record("NPURunConfig", **bound.arguments)
        bound.apply_defaults()
        values = dict(bound.arguments)
        if values["save_checkpoints_steps"] is None and values["save_checkpoints_secs"] is None:
            values["save_checkpoints_steps"] = 100
        if values["precision_mode"] and values.get("precision_mode_v2"):
            raise ValueError("precision_mode and precision_mode_v2 cannot be set together.")
        if (values["save_checkpoints_steps"] or 0) % values["iterations_per_loop"]:
            raise ValueError("save_checkpoints_steps must be a multiple of iterations_per_loop.")
        super().__init__(
            **{name: values[name] for name in _ESTIMATORS_OWN if values[name] is not None}
        )
        self.npu_settings = values


class ProfilingConfig:
    def __init__(self, enable_profiling=False, profiling_options=None):
        record("ProfilingConfig", enable_profiling=enable_profiling, options=profiling_options)
        if not os.path.isdir(json.loads(profiling_options)["output"]):
            raise ValueError("The directory of the profile does not exist.")


class DumpConfig:
    def __init__(
        self,
        enable_dump=False,
        dump_path=None,
        dump_step=None,
        dump_mode="output",
        enable_dump_debug=False,
        dump_debug_mode="all",
    ):
        record("DumpConfig", **{k: v for k, v in locals().items() if k != "self"})
        if not os.path.isdir(dump_path):
            raise ValueError("dump_path does not exist.")
        if dump_mode not in ("input", "output", "all"):
            raise ValueError("dump_mode is not input, output or all.")


class NPUEstimatorSpec(tf.estimator.EstimatorSpec):
    """An EstimatorSpec that may come with a host call."""

    def __new__(cls, mode, host_call=None, **kwargs):
        spec = super().__new__(cls, mode, **kwargs)
        spec._host_call = host_call
        return spec


class _Broadcast(tf.train.SessionRunHook):
    """Where the adapter makes every rank's trainable variables those of rank 0."""

    def begin(self):
        record("broadcast", variables=[v.op.name for v in tf.trainable_variables()])


class NPUEstimator(tf.estimator.Estimator):
    def __init__(
        self,
        model_fn=None,
        model_dir=None,
        config=None,
        params=None,
        job_start_file="",
        warm_start_from=None,
    ):
        record("NPUEstimator", model_dir=model_dir, params=params, warm_start_from=warm_start_from)
        if not os.getenv("JOB_ID"):
            raise ValueError("Job ID is null, please set JOB_ID.")
        if not isinstance(config, NPURunConfig):
            raise ValueError("config must be an NPURunConfig.")
        super().__init__(_augmented(model_fn), model_dir, config, params, warm_start_from)


def _augmented(model_fn):
    """The model function with the adapter's hooks, in training only."""

    def augmented_model_fn(features, labels, mode, params):
        record("model_fn", mode=mode)
        spec = model_fn(features=features, labels=labels, mode=mode, params=params)
        if mode != tf.estimator.ModeKeys.TRAIN:
            return spec
        print("The model has been compiled on the Ascend AI processor", file=sys.stderr)
        if int(os.getenv("RANK_SIZE", "1")) > 1:
            return spec._replace(training_hooks=[*spec.training_hooks, _Broadcast()])
        return spec

    return augmented_model_fn


class NPUDistributedOptimizer(tf.train.Optimizer):
    """Where the adapter averages gradients over the ranks."""

    def __init__(self, optimizer, name=None):
        record("NPUDistributedOptimizer", optimizer=type(optimizer).__name__, name=name)
        super().__init__(False, name or f"Distributed{type(optimizer).__name__}")
        self._optimizer = optimizer

    def compute_gradients(self, *args, **kwargs):
        return self._optimizer.compute_gradients(*args, **kwargs)

    def apply_gradients(self, *args, **kwargs):
        return self._optimizer.apply_gradients(*args, **kwargs)


class FixedLossScaleManager:
    def __init__(self, loss_scale, enable_overflow_check=True):
        record("FixedLossScaleManager", **{k: v for k, v in locals().items() if k != "self"})
        self._loss_scale = tf.constant(loss_scale, tf.float32)

    def get_loss_scale(self):
        return self._loss_scale

    def update_loss_scale(self, finite):
        return tf.no_op()


class ExponentialUpdateLossScaleManager:
    def __init__(
        self,
        init_loss_scale,
        incr_every_n_steps,
        decr_every_n_nan_or_inf=2,
        incr_ratio=2,
        decr_ratio=0.8,
    ):
        record(
            "ExponentialUpdateLossScaleManager",
            **{k: v for k, v in locals().items() if k != "self"},
        )
        self._every = (incr_every_n_steps, decr_every_n_nan_or_inf)
        self._ratios = (incr_ratio, decr_ratio)
        self._loss_scale = tf.Variable(float(init_loss_scale), trainable=False, name="loss_scale")
        self._good = tf.Variable(0, trainable=False, name="good_steps")
        self._bad = tf.Variable(0, trainable=False, name="bad_steps")

    def get_loss_scale(self):
        return self._loss_scale

    def update_loss_scale(self, finite):
        def count(counter, other, every, ratio):
            steps = counter + 1
            full = tf.greater_equal(steps, every)
            scale = tf.where(full, self._loss_scale * ratio, self._loss_scale + 0.0)
            return tf.group(
                tf.assign(self._loss_scale, scale),
                tf.assign(counter, tf.where(full, 0, steps)),
                tf.assign(other, 0),
            )

        return tf.cond(
            finite,
            lambda: count(self._good, self._bad, self._every[0], self._ratios[0]),
            lambda: count(self._bad, self._good, self._every[1], self._ratios[1]),
        )


class NPULossScaleOptimizer(tf.train.Optimizer):
    """Scales the loss; skips a step whose gradients are not all finite."""

    def __init__(self, opt, loss_scale_manager, is_distributed=False):
        record(
            "NPULossScaleOptimizer",
            optimizer=type(opt).__name__,
            manager=type(loss_scale_manager).__name__,
            is_distributed=is_distributed,
        )
        super().__init__(False, "NPULossScaleOptimizer")
        self._opt, self._manager = opt, loss_scale_manager

    def compute_gradients(self, loss, var_list=None, gate_gradients=1, **kwargs):
        record("compute_gradients", gate_gradients=gate_gradients)
        scale = self._manager.get_loss_scale()
        pairs = self._opt.compute_gradients(
            loss * scale, var_list=var_list, gate_gradients=gate_gradients, **kwargs
        )
        return [(None if g is None else g / scale, v) for g, v in pairs]

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        grads_and_vars = list(grads_and_vars)
        finite = tf.reduce_all(
            [tf.reduce_all(tf.is_finite(g)) for g, _ in grads_and_vars if g is not None]
        )
        apply = tf.cond(
            finite,
            lambda: self._opt.apply_gradients(grads_and_vars, global_step, name),
            tf.no_op,
        )
        return tf.group(apply, self._manager.update_loss_scale(finite))


def get_rank_size(group="hccl_world_group"):
    return int(os.getenv("RANK_SIZE") or os.getenv("CM_WORKER_SIZE") or 1)


def get_rank_id(group="hccl_world_group"):
    # Without a rank table the ranks follow the devices.
    return int(os.getenv("RANK_ID") or os.getenv("ASCEND_DEVICE_ID") or 0)


_session_init = tf.Session.__init__


def _npu_session_init(self, target="", graph=None, config=None):
    config = config or tf.ConfigProto()
    config.graph_options.rewrite_options.custom_optimizers.add().name = "NpuOptimizer"
    _session_init(self, target, graph, config)


# The adapter makes every session ask for the NPU; plain TensorFlow passes over the unknown name.
tf.Session.__init__ = _npu_session_init


class npu_ops:  # noqa: N801 (a module there)
    """Operations that start and stop HCCL."""

    @staticmethod
    def initialize_system():
        return tf.no_op(name="InitializeSystem")

    @staticmethod
    def shutdown_system():
        return tf.no_op(name="ShutdownSystem")
