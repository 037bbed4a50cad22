"""The device to run on. Only this file knows that NPUs and GPUs exist.

The NPU is an Ascend 910 driven through Huawei's adapter, the package `npu_bridge`. Importing that
changes TensorFlow's sessions, so it is imported here alone, and only when the NPU was chosen.
"""

import glob
import importlib
import importlib.util
import inspect
import json
import os
import re
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python import pywrap_tensorflow

from common.devices import rank_table
from common.distribution import cluster as clusters
from common.errors import UserError
from common.hooks.saving import LeanCheckpointSaverHook
from common.hooks.summaries import ScalarSummaryHook

NAMES = ("auto", "npu", "gpu", "cpu")

# The adapter's precision modes: what every release knows, what later ones added, and the names
# that go with the keyword `precision_mode_v2`.
_BASIC_MODES = (
    "allow_fp32_to_fp16",
    "force_fp16",
    "force_fp32",
    "must_keep_origin_dtype",
    "allow_mix_precision",
)
_LATER_MODES = (
    "cube_fp16in_fp32out",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "allow_fp32_to_bf16",
)
_V2_MODES = ("fp16", "origin", "mixed_float16", "mixed_bfloat16")
PRECISION_MODES = _BASIC_MODES + _LATER_MODES + _V2_MODES

_MIXLIST_MODES = tuple(mode for mode in PRECISION_MODES if "mix" in mode)
_GPU_MIXED_MODES = (
    "allow_fp32_to_fp16",
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "mixed_float16",
)
_GPU_FLOAT32_MODES = ("force_fp32", "must_keep_origin_dtype", "origin")

DUMP_MODES = ("input", "output", "all")
DUMP_DEBUG_MODES = ("aicore_overflow", "atomic_overflow", "all")
AOE_MODES = ("1", "2", "4", "mdat")
COLLECTIVES = ("auto", "ring", "nccl")

# Dynamic loss scaling as the training runs published for the Ascend 910 had it.
_LOSS_SCALE = {
    "init_loss_scale": 2**32,
    "incr_every_n_steps": 1000,
    "decr_every_n_nan_or_inf": 2,
    "decr_ratio": 0.5,
}

# The adapter replaces it with one whose every session asks for the NPU.
_SESSION_INIT = tf.Session.__init__

# Options for other devices, too.
_NOT_FOR_NPU_ALONE = ("precision_mode", "loss_scale", "collectives", "cluster_timeout")

# The adapter takes its initial weights from there when these are set.
_RESTORING_VARIABLES = ("RESTORE_FROM", "LOCAL_CHECKPOINT_DIR")


class Options(NamedTuple):
    """Settings of a device; each is a flag of the same name in the entry point."""

    precision_mode: str = "allow_fp32_to_fp16"  # One of PRECISION_MODES.
    loss_scale: str = "dynamic"  # Or 'none', or a positive number.
    npu_iterations_per_loop: int = 1  # Steps that run on the NPU without coming back to the host.
    profile_dir: Optional[str] = None
    dump_dir: Optional[str] = None
    dump_mode: str = "all"  # Which tensors of an operator: one of DUMP_MODES.
    dump_step: Optional[str] = None  # Like '0|5-10'; None: every step.
    dump_debug: Optional[str] = None  # One of DUMP_DEBUG_MODES: dump operators that overflow.
    op_compiler_cache_dir: Optional[str] = None
    fusion_switch_file: Optional[str] = None
    modify_mixlist: Optional[str] = None
    deterministic: bool = False
    aoe_mode: Optional[str] = None  # Tuning of operators and graphs: one of AOE_MODES.
    # Several processes, by TF_CONFIG.
    collectives: str = "auto"  # How gradients are summed: one of COLLECTIVES.
    cluster_timeout: int = 600  # Seconds to wait for the other processes.


class Accelerator:
    """TensorFlow's own CPU device; the base of the others.

    Attributes:
        name: 'cpu', 'gpu' or 'npu'.
        options: see `Options`.
        cluster: the processes that train together by TF_CONFIG, None for one alone.
        num_devices: devices that train together, on the NPU a process each; called ranks.
        rank: number of this process among those that train together, from 0.
        gate_gradients: how `compute_gradients` orders gradients and updates.
        skips_steps: whether the wrapped optimizer leaves out steps whose gradients overflow.
            `global_step` does not advance then, and nothing else may move.
        replicates: whether several devices do one step as TensorFlow's replicas of it, under a
            `tf.distribute` strategy.
    """

    name = "cpu"
    num_devices = 1
    rank = 0
    # Resource variables need no gate, and without one an update starts as its gradient is there.
    gate_gradients = tf.train.Optimizer.GATE_NONE
    skips_steps = False

    def __init__(
        self, options: Optional[Options] = None, cluster: Optional[clusters.Cluster] = None
    ):
        self.options = options or Options()
        self.is_evaluator = cluster is not None and cluster.rank is None
        self.cluster = None if self.is_evaluator else cluster
        if self.cluster:
            self.rank = self.cluster.rank
            self.num_devices = self.cluster.size * self._local_devices()
            tf.logging.info(
                "Process %d of %d that train together: %s.",
                self.rank,
                self.cluster.size,
                self.cluster.name(self.rank),
            )
        elif not self.is_evaluator:
            self.num_devices = self._local_devices()

    def _local_devices(self) -> int:
        """Devices of this process."""
        return 1

    @property
    def replicates(self) -> bool:
        return self.num_devices > 1

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that evaluates, exports and keeps its checkpoints."""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Whether this process has a model directory to write to: with TF_CONFIG only the chief."""
        return self.is_chief or not self.cluster

    def model_dir(self, directory: str) -> str:
        """The directory of this process: `directory`, or another rank's place inside it.

        With TF_CONFIG all have the same, which all read checkpoints from.
        """
        if self.is_chief or self.cluster:
            return directory
        return os.path.join(directory, f"rank_{self.rank}")

    def sharding(self) -> Tuple[int, int]:
        """(number of shares of the training data, index of this process's)."""
        if self.cluster:
            return self.cluster.size, self.rank
        return 1, 0

    def check_steps(self, steps: Dict[str, int]):
        """Checks numbers of steps, by what they are, against the steps of one loop on the device.

        Raises:
            UserError: one is no multiple.
        """

    def wrap_optimizer(self, optimizer: tf.train.Optimizer) -> tf.train.Optimizer:
        """The optimizer with what the device needs around it: averaging, loss scaling."""
        return optimizer

    def session_config(self, training: bool = False) -> tf.ConfigProto:
        """Settings of a session that trains, or that only computes answers."""
        config = tf.ConfigProto(allow_soft_placement=True)
        config.device_count["GPU"] = 0
        # Of the graph optimisers only fusing makes this network faster on a CPU, and only where it
        # does not train; each costs seconds before the first step.
        rewrites = config.graph_options.rewrite_options
        if training:
            rewrites.disable_meta_optimizer = True
        else:
            rewrites.optimizers.append("remap")
            rewrites.meta_optimizer_iterations = RewriterConfig.ONE
        if pywrap_tensorflow.IsMklEnabled():
            _set_mkl_threads(config)
        return config

    def estimator(
        self,
        model_fn: Callable,
        model_dir: str,
        save_checkpoints_steps: int,
        random_seed: Optional[int] = None,
        log_steps: int = 100,
        training: bool = False,
        keep_checkpoint_max: int = 5,
    ) -> tf.estimator.Estimator:
        """An Estimator for this device.

        Args:
            model_fn: the Estimator's.
            model_dir: checkpoints and logs, as `model_dir` names it for this process.
            save_checkpoints_steps: steps between checkpoints.
            random_seed: seed of the graph's random operations; None for another one each time.
                Processes that train together have their own ones, since they have other images;
                the initial weights are the chief's.
            log_steps: steps between log lines and summaries.
            training: whether it is for training, or for evaluation and prediction.
            keep_checkpoint_max: how many of the newest checkpoints are kept.
        """
        keywords = {
            "model_dir": model_dir,
            "tf_random_seed": random_seed,
            "save_checkpoints_steps": save_checkpoints_steps,
            "save_summary_steps": log_steps,
            "log_step_count_steps": log_steps,
            "keep_checkpoint_max": keep_checkpoint_max,
            "session_config": self.session_config(training),
        }
        if training and self.cluster:
            return self._cluster_estimator(model_fn, keywords)
        if training and self.replicates:
            keywords["train_distribute"] = tf.distribute.MirroredStrategy()
        config = tf.estimator.RunConfig(**keywords)
        return tf.estimator.Estimator(model_fn, config=config, params={})

    def _cluster_estimator(self, model_fn, keywords) -> tf.estimator.Estimator:
        """One of several processes that train together."""
        if keywords["tf_random_seed"] is not None:
            keywords["tf_random_seed"] += self.rank
        keywords["save_checkpoints_steps"] = None  # Otherwise the others would save, too.
        keywords["save_checkpoints_secs"] = None
        if not self.is_chief:
            keywords["save_summary_steps"] = 0
            keywords["log_step_count_steps"] = None
        communication = tf.distribute.experimental.CollectiveCommunication
        with self.cluster.in_environment():
            strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(
                communication[self.options.collectives.upper()]
            )
            config = tf.estimator.RunConfig(train_distribute=strategy, **keywords)
            return tf.estimator.Estimator(model_fn, config=config, params={})

    def train(
        self,
        estimator: tf.estimator.Estimator,
        input_fn: Callable,
        max_steps: int,
        hooks: list,
        saving_listeners: Sequence[tf.train.CheckpointSaverListener] = (),
        check: Callable[[], None] = lambda: None,
    ):
        """`estimator.train`, together with the other processes if there are any.

        Args:
            estimator, input_fn, max_steps, hooks, saving_listeners: as `estimator.train` has them.
            check: is called while this process waits for the others; ends that by an exception.

        Raises:
            UserError: the others did not come, or one was lost.
        """
        if not self.cluster:
            estimator.train(
                input_fn, hooks=hooks, max_steps=max_steps, saving_listeners=saving_listeners
            )
            return
        for hook in hooks:  # What Estimators do, but not under this strategy.
            if isinstance(hook, LeanCheckpointSaverHook):
                hook.add_listeners(saving_listeners)

        def input_when_all_are_there():  # Before the graph is built, but after the server starts.
            clusters.wait_for_others(self.cluster, self.options.cluster_timeout, check)
            return input_fn()

        clusters.check_own_port(self.cluster)
        with clusters.training(self.cluster):
            tf.estimator.train_and_evaluate(
                estimator,
                tf.estimator.TrainSpec(input_when_all_are_there, max_steps, hooks),
                tf.estimator.EvalSpec(input_fn),  # Nobody evaluates by it.
            )

    def training_hooks(self, model_dir: str, save_checkpoints_steps: int, log_steps: int) -> list:
        """Hooks that training needs on this device; the arguments are those of `estimator`."""
        hooks = []
        if self.is_chief or not self.cluster:
            saver = LeanCheckpointSaverHook(model_dir, save_steps=save_checkpoints_steps)
            hooks.append(saver)
        if self.cluster:
            hooks.append(clusters.ClusterHook(self.cluster))
        return hooks


def _set_mkl_threads(config: tf.ConfigProto):
    """Threads for TensorFlow built with MKL (intel-tensorflow): those of OpenMP are as many again.

    Its own default gives a thread a core to each of as many operators at a time.
    """
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))  # Read when the first session starts.
    config.intra_op_parallelism_threads = cores
    config.inter_op_parallelism_threads = 2


class _Gpu(Accelerator):
    """A GPU; mixed precision is TensorFlow's own rewriting of the graph."""

    name = "gpu"

    def __init__(self, options: Options, cluster: Optional[clusters.Cluster] = None):
        super().__init__(options, cluster)
        mode = options.precision_mode
        if mode not in _GPU_MIXED_MODES + _GPU_FLOAT32_MODES:
            raise UserError(
                f"--precision_mode={mode} is for the NPU: a GPU takes "
                f"{', '.join(_GPU_MIXED_MODES + _GPU_FLOAT32_MODES)}."
            )
        self._mixed = mode in _GPU_MIXED_MODES
        self.skips_steps = self._mixed and options.loss_scale == "dynamic"
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
        config = super().session_config(training)
        config.ClearField("device_count")
        config.ClearField("graph_options")
        config.gpu_options.allow_growth = True
        return config


class _Npu(Accelerator):
    """An Ascend 910, or one of several that train together, through the adapter."""

    name = "npu"
    replicates = False
    # The order of updates on the device is the adapter's, and this is the gate it is made for.
    gate_gradients = tf.train.Optimizer.GATE_OP

    def __init__(self, options: Options):
        super().__init__(options)
        if not os.environ.get("JOB_ID"):
            raise UserError(
                "The environment has no JOB_ID, which the Ascend adapter asks for: set it to any "
                "number, as in `export JOB_ID=10087`."
            )
        self.num_devices, rank = rank_table.from_environment()
        _check_files(options)
        self._adapter = _import_adapter()
        self.rank = self._adapter.get_rank_id() if rank is None else rank
        self.skips_steps = options.loss_scale != "none"
        for name in _RESTORING_VARIABLES:
            if os.environ.get(name):
                tf.logging.warning(
                    "%s is set: the adapter starts from weights it finds in %s.",
                    name,
                    os.environ[name],
                )
        tf.logging.info(
            "Rank %d of %d, Ascend adapter %s.", self.rank, self.num_devices, _adapter_version()
        )

    def sharding(self):
        if self.num_devices == 1:
            return 1, 0
        found = self._adapter.get_rank_size(), self._adapter.get_rank_id()
        if found != (self.num_devices, self.rank):
            raise UserError(
                f"The environment says rank {self.rank} of {self.num_devices}, the Ascend adapter "
                f"rank {found[1]} of {found[0]}: start one process a device with its own RANK_ID."
            )
        return found

    def check_steps(self, steps):
        loop = self.options.npu_iterations_per_loop
        for what, number in steps.items():
            if number % loop:
                raise UserError(
                    f"--npu_iterations_per_loop={loop} does not divide the {number} {what}: the "
                    "NPU runs whole loops only."
                )

    def wrap_optimizer(self, optimizer):
        adapter, scale = self._adapter, self.options.loss_scale
        distributed = self.num_devices > 1
        if distributed:
            optimizer = adapter.NPUDistributedOptimizer(optimizer)
        if scale == "none":
            return optimizer
        if scale == "dynamic":
            manager = adapter.ExponentialUpdateLossScaleManager(**_LOSS_SCALE)
        else:
            manager = adapter.FixedLossScaleManager(float(scale), enable_overflow_check=True)
        return adapter.NPULossScaleOptimizer(optimizer, manager, is_distributed=distributed)

    def session_config(self, training=False):
        return tf.ConfigProto(allow_soft_placement=True, log_device_placement=False)

    def training_hooks(self, model_dir, save_checkpoints_steps, log_steps):
        # The adapter's Estimator has its own way of saving between loops.
        return [ScalarSummaryHook(model_dir, log_steps)]

    def estimator(
        self,
        model_fn,
        model_dir,
        save_checkpoints_steps,
        random_seed=None,
        log_steps=100,
        training=False,
        keep_checkpoint_max=5,
    ):
        keywords = {
            "model_dir": model_dir,
            # Others than 0 would write summaries from inside the loop on the device.
            "save_summary_steps": 0,
            "save_checkpoints_steps": save_checkpoints_steps,
            "log_step_count_steps": log_steps,
            "keep_checkpoint_max": keep_checkpoint_max,
            "session_config": self.session_config(),
            "enable_data_pre_proc": True,
            "mix_compile_mode": False,
            "hcom_parallel": self.num_devices > 1,
        }
        if random_seed is not None:
            keywords["tf_random_seed"] = random_seed
        keywords = self._accepted(keywords)
        keywords.update(self._keywords_of_flags())

        def pinned_model_fn(features, labels, mode, params):
            # Newer graphs have FusedBatchNormV3, which the adapter's operators do not include.
            with tf.compat.forward_compatibility_horizon(2019, 5, 1):
                return model_fn(features, labels, mode, params)

        try:
            config = self._adapter.NPURunConfig(**keywords)
            return self._adapter.NPUEstimator(
                model_fn=pinned_model_fn, model_dir=model_dir, config=config, params={}
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"The Ascend adapter {_adapter_version()} does not take these settings: {error}"
            ) from error

    def _accepted(self, keywords: Dict[str, object]) -> Dict[str, object]:
        """Without what this release of the adapter does not know; no flag stands for these."""
        known = self._run_config_keywords()
        missing = sorted(keywords.keys() - known)
        if missing:
            tf.logging.info("The adapter's run config has no %s.", ", ".join(missing))
        return {name: value for name, value in keywords.items() if name in known}

    def _run_config_keywords(self) -> set:
        return set(inspect.signature(self._adapter.NPURunConfig).parameters)

    def _keywords_of_flags(self) -> Dict[str, object]:
        """Keywords of the run config that flags set.

        Raises:
            UserError: a flag that was set has no keyword in this release of the adapter.
        """
        known = self._run_config_keywords()
        keywords = {}
        for flag, keyword, value in self._flags_and_keywords():
            if keyword in known:
                keywords[keyword] = value
            elif getattr(self.options, flag) != Options._field_defaults[flag]:
                raise UserError(
                    f"--{flag}={getattr(self.options, flag)}: the Ascend adapter "
                    f"{_adapter_version()} has no {keyword} in its run config; leave the flag out "
                    "or install an adapter that has."
                )
        mode = self.options.precision_mode
        if mode in _LATER_MODES and "precision_mode_v2" not in known:
            raise UserError(
                f"--precision_mode={mode} is unknown to the Ascend adapter {_adapter_version()}: "
                f"expected one of {', '.join(_BASIC_MODES)}."
            )
        return keywords

    def _flags_and_keywords(self):
        """(flag, keyword, value) of every flag that is to be passed on."""
        options = self.options
        mode = options.precision_mode
        yield "precision_mode", "precision_mode_v2" if mode in _V2_MODES else "precision_mode", mode
        yield "npu_iterations_per_loop", "iterations_per_loop", options.npu_iterations_per_loop
        if options.profile_dir:
            yield "profile_dir", "profiling_config", self._profiling_config()
        if options.dump_dir:
            yield "dump_dir", "dump_config", self._dump_config()
        if options.op_compiler_cache_dir:
            self._make_directory("op_compiler_cache_dir")
            yield "op_compiler_cache_dir", "op_compiler_cache_mode", "enable"
            yield "op_compiler_cache_dir", "op_compiler_cache_dir", options.op_compiler_cache_dir
        for flag in ("fusion_switch_file", "modify_mixlist", "aoe_mode"):
            if getattr(options, flag):
                yield flag, flag, getattr(options, flag)
        if options.deterministic:
            yield "deterministic", "deterministic", 1

    def _make_directory(self, flag: str):
        """Makes a flag's directory: the adapter wants it to be there."""
        path = getattr(self.options, flag)
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise UserError(f"--{flag}={path} cannot be made: {error}.") from error

    def _profiling_config(self):
        self._make_directory("profile_dir")
        settings = {
            "output": self.options.profile_dir,
            "training_trace": "on",
            "task_trace": "on",
            "fp_point": "",
            "bp_point": "",
        }
        return self._adapter.ProfilingConfig(
            enable_profiling=True, profiling_options=json.dumps(settings)
        )

    def _dump_config(self):
        options = self.options
        self._make_directory("dump_dir")
        return self._adapter.DumpConfig(
            enable_dump=options.dump_debug is None,
            dump_path=options.dump_dir,
            dump_step=options.dump_step,
            dump_mode=options.dump_mode,
            enable_dump_debug=options.dump_debug is not None,
            dump_debug_mode=options.dump_debug or "all",
        )


class CpuSession(tf.Session):
    """A session on the CPU, whatever the process trains on; exports need no other.

    Args:
        graph: the session's; None for the default graph.
    """

    def __init__(self, graph: Optional[tf.Graph] = None):
        config = Accelerator().session_config()
        # Another session's input function may run this one: on one core it would wait for itself.
        config.use_per_session_threads = True
        _SESSION_INIT(self, "", graph, config)


def choose(
    name: str, options: Optional[Options] = None, cluster: Optional[clusters.Cluster] = None
) -> Accelerator:
    """The accelerator of this name; 'auto' takes the best that is there and logs which and why.

    Args:
        name: one of NAMES.
        options: see there.
        cluster: the processes of TF_CONFIG; not for the NPU, whose processes are ranks.

    Raises:
        UserError: the one asked for is not there, or does not take the options.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown accelerator {name!r}: expected one of {', '.join(NAMES)}.")
    options = options or Options()
    _check_options(options)
    if name == "auto":
        name, reason = _best()
        tf.logging.info("Running on the %s: %s.", name.upper(), reason)
    else:
        tf.logging.info("Running on the %s, as asked.", name.upper())
    if name == "npu":
        if cluster:
            tf.logging.info("TF_CONFIG is not for the NPU: it has no effect.")
        return _Npu(options)
    if name == "gpu" and not _has_gpu():
        raise UserError(
            "--accelerator=gpu: TensorFlow sees no GPU; it needs one, its driver and the "
            "tensorflow-gpu package. Use --accelerator=cpu to run on the CPU."
        )
    _check_without_npu(name, options)
    if name == "gpu":
        return _Gpu(options, cluster)
    if cluster and _has_gpu():  # The strategy would take them.
        tf.config.experimental.set_visible_devices([], "GPU")
    return Accelerator(options, cluster)


def _best() -> Tuple[str, str]:
    """(name, reason) of the best device there is."""
    # Looks for the package without importing it.
    has_adapter = importlib.util.find_spec("npu_bridge") is not None
    if has_adapter and glob.glob("/dev/davinci[0-9]*"):
        return "npu", "there are an NPU and its adapter"
    npu = "its adapter is installed but there is no NPU" if has_adapter else "there is no NPU"
    if _has_gpu():
        return "gpu", f"{npu}, and TensorFlow sees a GPU"
    return "cpu", f"{npu} and no GPU that TensorFlow sees"


def _has_gpu() -> bool:
    return bool(tf.config.experimental.list_physical_devices("GPU"))


# Checks ------------------------------------------------------------------------------------------


def _check_options(options: Options):
    """Checks what does not depend on the device."""
    scale = options.loss_scale
    if scale not in ("dynamic", "none") and not _is_positive(scale):
        raise UserError(f"--loss_scale={scale}: expected dynamic, none or a number above 0.")
    if options.precision_mode not in PRECISION_MODES:
        raise UserError(
            f"--precision_mode={options.precision_mode}: expected one of "
            f"{', '.join(PRECISION_MODES)}."
        )
    if options.modify_mixlist and options.precision_mode not in _MIXLIST_MODES:
        raise UserError(
            f"--modify_mixlist goes with mixed precision, not with --precision_mode="
            f"{options.precision_mode}: use one of {', '.join(_MIXLIST_MODES)}."
        )
    for flag in ("dump_step", "dump_debug"):
        if getattr(options, flag) and not options.dump_dir:
            raise UserError(f"--{flag} needs --dump_dir: where to write what is dumped.")
    steps = r"\d+(-\d+)?"
    if options.dump_step and not re.fullmatch(rf"{steps}(\|{steps})*", options.dump_step):
        raise UserError(
            f"--dump_step={options.dump_step}: expected steps and ranges between bars, like 0|5-10."
        )


def _is_positive(text: str) -> bool:
    try:
        return 0.0 < float(text) < float("inf")
    except ValueError:
        return False


def _check_files(options: Options):
    """Checks that the files the NPU is to read are there and JSON."""
    for flag in ("fusion_switch_file", "modify_mixlist"):
        path = getattr(options, flag)
        if not path:
            continue
        try:
            with open(path) as f:
                json.load(f)
        except (OSError, ValueError) as error:
            raise UserError(f"--{flag}={path} cannot be read as JSON: {error}.") from error


def _check_without_npu(name: str, options: Options):
    """Refuses what would mislead away from the NPU; says once which flags have no effect."""
    size = os.environ.get("RANK_SIZE", "1")
    if size != "1":
        raise UserError(
            f"RANK_SIZE={size} in the environment, but several devices need --accelerator=npu, and "
            f"this is the {name.upper()}: unset it or set it to 1."
        )
    if options.deterministic:
        raise UserError(
            f"--deterministic is for the NPU: on the {name.upper()} the order of sums is not fixed."
        )
    if name == "cpu":
        tf.logging.info(
            "The CPU computes in float32: --precision_mode=%s and --loss_scale=%s have no effect.",
            options.precision_mode,
            options.loss_scale,
        )
    ignored = [
        f"--{flag}={value}"
        for flag, value in options._asdict().items()
        if value != Options._field_defaults[flag] and flag not in _NOT_FOR_NPU_ALONE
    ]
    if ignored:
        tf.logging.info("Without effect, since they are for the NPU: %s", " ".join(ignored))


# The adapter -------------------------------------------------------------------------------------


def _import_adapter():
    """The adapter's module of public names."""
    try:
        return importlib.import_module("npu_bridge.npu_init")
    except (ImportError, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--accelerator=npu: the Ascend adapter npu_bridge cannot be imported ({error}): "
            "install the adapter of your CANN release and source its set_env.sh."
        ) from error


def _adapter_version() -> str:
    version = getattr(importlib.import_module("npu_bridge"), "__version__", None)
    if version:
        return version
    import pkg_resources  # Slow to import, and needed here only.

    try:
        return pkg_resources.get_distribution("npu_bridge").version
    except pkg_resources.DistributionNotFound:
        return "(version unknown)"
