"""The adapter's Estimator.

Sources: estimator/npu/npu_estimator.py (checks, the session's config, hooks and their order,
IterationOp), estimator/npu/npu_common.py (what one process has of its job).
"""

import functools
import os

import tensorflow.compat.v1 as tf
from tensorflow.python.util import function_utils
from tensorflow_estimator.python.estimator.estimator import _verify_model_fn_args

from . import RELEASE, device
from .npu_config import ESTIMATORS_OWN, NPURunConfig
from .npu_hook import (
    NPUBroadcastGlobalVariablesHook,
    NPUCheckpointSaverHook,
    SetIterationsVarHook,
)
from .recording import record
from .util import num_ranks

_PASSES = (
    *("pruning", "function", "constfold", "shape", "arithmetic", "loop", "dependency", "layout"),
    "GradFusionOptimizer",
)


@functools.lru_cache(maxsize=None)
def _job() -> dict:
    """What the environment of the process's first Estimator said; kept for all others."""
    return {name: os.environ.get(name) for name in ("JOB_ID", "LOCAL_CHECKPOINT_DIR")}


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
        if not device.is_loaded():
            raise RuntimeError("TensorFlow has not loaded the adapter's library.")
        if not isinstance(config, NPURunConfig):
            raise ValueError("config must be an NPURunConfig.")
        _verify_model_fn_args(model_fn, params)
        if config.session_config is None:
            config = config.replace(session_config=tf.ConfigProto())
        _add_npu(config.session_config, config.npu_settings)
        if not _job()["JOB_ID"] and RELEASE >= (1, 3):
            raise ValueError("There is no JOB_ID in the environment.")
        if model_dir and config.model_dir and model_dir != config.model_dir:
            raise ValueError(f"model_dir is {model_dir} and, in the config, {config.model_dir}.")
        model_dir = model_dir or config.model_dir
        if model_dir is None:
            raise NotImplementedError("The adapter would make a directory in the current one.")
        restore_from = _job()["LOCAL_CHECKPOINT_DIR"] or os.environ.get("RESTORE_FROM")
        super().__init__(
            _with_hooks(model_fn, model_dir, config),
            model_dir,
            config,
            params or {},
            warm_start_from or restore_from,
        )


def _add_npu(session_config, settings):
    """Asks for the NPU in a session's config, with what `device_options` checks."""
    rewrites = session_config.graph_options.rewrite_options
    rewrites.optimizers.extend(_PASSES)
    optimizer = rewrites.custom_optimizers.add()
    optimizer.name = "NpuOptimizer"
    options = {name: value for name, value in settings.items() if name not in ESTIMATORS_OWN}
    options["use_off_line"] = True
    if settings["dump_config"] is not None:
        options.update(settings["dump_config"].parameters)
    for name, value in options.items():
        if isinstance(value, bool):
            optimizer.parameter_map[name].b = value
        elif isinstance(value, int):
            optimizer.parameter_map[name].i = value
        elif isinstance(value, str):
            optimizer.parameter_map[name].s = value.encode()


def _with_hooks(model_fn, model_dir, config):
    """The model function with the adapter's hooks, in training only."""
    arguments = function_utils.fn_args(model_fn)

    def npu_model_fn(features, labels, mode, params):
        record("model_fn", mode=mode)
        given = {"labels": labels, "mode": mode, "params": params, "config": config}
        given = {name: value for name, value in given.items() if name in arguments}
        spec = model_fn(features=features, **given)
        if not isinstance(spec, tf.estimator.EstimatorSpec):
            raise RuntimeError(f"The model function returned a {type(spec)}.")
        if mode == tf.estimator.ModeKeys.TRAIN:
            return _training_spec(spec, model_dir, config)
        return spec

    return npu_model_fn


def _training_spec(spec, model_dir, config):
    hooks, settings = [], config.npu_settings
    if num_ranks() > 1 and not settings["horovod_mode"]:
        hooks.append(NPUBroadcastGlobalVariablesHook())
    if config.save_checkpoints_steps or config.save_checkpoints_secs:
        # Up to r1.13.0 the number of checkpoints to keep is the saver's own.
        keep = config.keep_checkpoint_max if RELEASE >= (1, 14) else 5
        hooks.append(
            NPUCheckpointSaverHook(
                model_dir,
                save_secs=config.save_checkpoints_secs,
                save_steps=config.save_checkpoints_steps,
                saver=tf.train.Saver(max_to_keep=keep),
            )
        )
    if settings["iterations_per_loop"] > 1:
        hooks.append(SetIterationsVarHook(settings["iterations_per_loop"]))
        spec = spec._replace(train_op=tf.group(spec.train_op, name="IterationOp"))
    return spec._replace(training_hooks=(*hooks, *spec.training_hooks))
