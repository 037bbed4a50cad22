"""The run config and its parts, and the config of every other session.

Source: estimator/npu/npu_config.py, of the branches r1.2.0 to r1.15.0 for what each takes.
"""

import copy
import functools
import inspect
import json
import os

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from . import RELEASE
from .recording import record

# Those of tf.estimator.RunConfig, with the adapter's defaults.
ESTIMATORS_OWN = {
    "model_dir": None,
    "tf_random_seed": None,
    "save_summary_steps": 0,
    "save_checkpoints_steps": None,
    "save_checkpoints_secs": None,
    "session_config": None,
    "keep_checkpoint_max": 5,
    "keep_checkpoint_every_n_hours": 10000,
    "log_step_count_steps": 100,
}
_R1_2 = {
    **ESTIMATORS_OWN,
    "iterations_per_loop": 1,
    "profiling_config": None,
    "distribute": None,
    "enable_data_pre_proc": True,
    "precision_mode": None,
    "enable_reduce_precision": False,
    "variable_format_optimize": True,
    "mix_compile_mode": False,
    "hcom_parallel": False,
    "graph_memory_max_size": None,
    "variable_memory_max_size": None,
    "auto_tune_mode": None,
    "dump_config": None,
    "stream_max_parallel_num": None,
    "is_tailing_optimization": False,
    "horovod_mode": False,
    "graph_run_mode": 1,
    "op_debug_level": 0,
    "enable_scope_fusion_passes": None,
    "enable_exception_dump": 0,
    "op_select_implmode": None,
    "optypelist_for_implmode": None,
    "dynamic_input_config": None,
    "mstune_mode": None,
    "work_path": None,
    "buffer_optimize": "l2_optimize",
    "enable_small_channel": 0,
    "fusion_switch_file": None,
    "enable_compress_weight": False,
    "compress_weight_conf": None,
    "op_compiler_cache_mode": None,
    "op_compiler_cache_dir": None,
    "debug_dir": None,
}
# What came, or got another default, after a release and until the next.
_UNTIL_R1_10 = {
    "hcom_multi_mode": False,
    "dynamic_input": False,
    "dynamic_graph_execute_mode": "dynamic_execute",
    "device_type": "default_device_type",
    "hcom_parallel": True,
    "jit_compile": True,
    **dict.fromkeys(
        [
            *("dynamic_inputs_shape_range", "train_distribute", "eval_distribute"),
            *("local_rank_id", "local_device_list", "session_device_id", "distribute_config"),
            *("aoe_mode", "modify_mixlist", "op_precision_mode"),
            *("hccl_timeout", "op_wait_timeout", "op_execute_timeout"),
            *("soc_config", "HCCL_algorithm", "customize_dtypes", "op_debug_config"),
            *("memory_config", "experimental_config", "topo_sorting_mode"),
        ]
    ),
}
_GONE_BY_R1_10 = ("mstune_mode",)
_UNTIL_R1_15 = {
    "variable_format_optimize": None,
    "op_debug_level": None,
    "dynamic_input": None,
    "aoe_config_file": None,
    "insert_op_file": None,
    "external_weight": False,
    "stream_sync_timeout": -1,
    "event_sync_timeout": -1,
    "deterministic": 0,
    "frozen_variable": False,
    "variable_placement": "Device",
    "es_cluster_config": None,
    "jit_compile": "auto",
    "precision_mode_v2": None,
    "enable_exception_dump": 2,
    "ac_parallel_enable": None,
}
_GONE_BY_R1_15 = ("auto_tune_mode",)


def _keywords():
    """The release's keywords and their defaults."""
    keywords, gone = dict(_R1_2), ()
    if RELEASE >= (1, 10):
        keywords.update(_UNTIL_R1_10)
        gone += _GONE_BY_R1_10
    if RELEASE >= (1, 15):
        keywords.update(_UNTIL_R1_15)
        gone += _GONE_BY_R1_15
    return {name: default for name, default in keywords.items() if name not in gone}


class NPURunConfig(tf.estimator.RunConfig):
    """Takes the release's keywords and no other; never by position, which the releases change.

    Attributes:
        npu_settings: all keywords and their values.
    """

    __signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in _keywords().items()
        ]
    )

    def __init__(self, *args, **kwargs):
        bound = self.__signature__.bind(*args, **kwargs)
        record("NPURunConfig", **copy.deepcopy(bound.arguments))
        bound.apply_defaults()
        settings = dict(bound.arguments)
        _check(settings)
        if settings["save_checkpoints_steps"] is None and settings["save_checkpoints_secs"] is None:
            settings["save_checkpoints_steps"] = 100
        super().__init__(**{name: settings[name] for name in ESTIMATORS_OWN})
        self.npu_settings = settings


def _check(settings):
    """What the constructor refuses; the rest is checked in the first run, see device_options.py."""
    _check_integer(settings, "iterations_per_loop", 1)
    if not isinstance(settings["mix_compile_mode"], bool):
        error = ValueError if RELEASE < (1, 13) else TypeError
        raise error("mix_compile_mode must be a bool.")
    if settings["mix_compile_mode"] and settings["iterations_per_loop"] != 1:
        raise ValueError("mix_compile_mode goes with iterations_per_loop of 1 only.")
    if RELEASE >= (1, 13) and not isinstance(settings["jit_compile"], str):
        raise TypeError("jit_compile must be a str.")
    # Parameter servers, whose strategy is left out here.
    if json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster") or settings["distribute"]:
        raise ValueError('"cluster" and "distribute" are for parameter servers, and go together.')
    for name, kind in {"dump_config": DumpConfig, "dynamic_input_config": ()}.items():
        if settings[name] is not None and not isinstance(settings[name], kind):
            raise ValueError(f"{name} has the wrong type.")
    if not isinstance(settings["horovod_mode"], bool):
        raise ValueError("horovod_mode must be a bool.")
    _check_integer(settings, "graph_run_mode", 0)
    if settings["graph_run_mode"] > 1:
        raise ValueError("graph_run_mode must be 0 or 1.")
    _check_integer(settings, "enable_exception_dump", 0)


def _check_integer(settings, name, low):
    if not isinstance(settings[name], int):
        raise TypeError(f"{name} must be an int.")
    if settings[name] < low:
        raise ValueError(f"{name} must be at least {low}.")


class ProfilingConfig:
    """Nothing is checked here."""

    def __init__(self, enable_profiling=False, profiling_options=None):
        record("ProfilingConfig", enable_profiling=enable_profiling, options=profiling_options)


class DumpConfig:
    """Nothing is checked here; from r1.10.0 on there are two keywords more."""

    _KEYWORDS = {
        "enable_dump": False,
        "dump_path": None,
        "dump_step": None,
        "dump_mode": "output",
        "enable_dump_debug": False,
        "dump_debug_mode": "all",
        **({"dump_data": "tensor", "dump_layer": None} if RELEASE >= (1, 10) else {}),
    }

    def __init__(self, **kwargs):
        unknown = kwargs.keys() - self._KEYWORDS.keys()
        if unknown:
            raise TypeError(f"DumpConfig has no {', '.join(unknown)}.")
        record("DumpConfig", **kwargs)
        self.parameters = {**self._KEYWORDS, **kwargs}


# Sessions without the Estimator ------------------------------------------------------------------


def on_the_npu(init):
    """A session's constructor that asks for the NPU, in the caller's own ConfigProto."""

    @functools.wraps(init)
    def npu_init(self, *args, **kwargs):
        bound = inspect.signature(init).bind(self, *args, **kwargs)
        config = bound.arguments.get("config") or tf.ConfigProto()
        rewrites = config.graph_options.rewrite_options
        if all(optimizer.name != "NpuOptimizer" for optimizer in rewrites.custom_optimizers):
            rewrites.custom_optimizers.add().name = "NpuOptimizer"
            rewrites.memory_optimization = RewriterConfig.OFF
        rewrites.remapping = RewriterConfig.OFF
        config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
        config.allow_soft_placement = True
        config.log_device_placement = False
        bound.arguments["config"] = config
        init(*bound.args, **bound.kwargs)

    return npu_init
