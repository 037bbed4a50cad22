"""The Ascend 910 NPU, or one of several that train together, through Huawei's adapter.

There are two adapters with nearly the same names, for an older and a newer TensorFlow: `npu_bridge`
and `npu_device.compat.v1`. Importing one changes TensorFlow's sessions, so it is
imported here alone, and only if the NPU was chosen. In what follows, paths are those of the
adapter's repository, github.com/Ascend/tensorflow, at commit 085a7b2.
"""

import importlib
import importlib.util
import os
from typing import NamedTuple, Optional

from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from common.devices import loss_scale, npu_config, rank_table
from common.devices.device import Device
from common.devices.options import Options
from common.errors import UserError
from common.hooks.summaries import ScalarSummaryHook
from common.runtime import tf

# Dynamic loss scaling as the training runs published for the Ascend 910 had it.
_LOSS_SCALE = {
    "init_loss_scale": 2**32,
    "incr_every_n_steps": 1000,
    "decr_every_n_nan_or_inf": 2,
    "decr_ratio": 0.5,
}
# The adapter takes its initial weights from there if these are set.
_RESTORING_VARIABLES = ("RESTORE_FROM", "LOCAL_CHECKPOINT_DIR")
# HCCL's answer for rank and size while no session has initialised it, an unsigned -1.
_NOT_INITIALISED = 0xFFFFFFFF
# Packages of the adapters, and the module of each that has the public names.
_ADAPTERS = {"npu_bridge": "npu_bridge.npu_init", "npu_device": "npu_device.compat.v1.npu_init"}


class Npu(Device):
    """An Ascend 910, or one of several that train together; each has a process, called a rank."""

    name = "npu"
    replicates = False
    forgets_checkpoints = True
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
        npu_config.check_files(options)
        if os.environ.pop("POD_NAME", None):  # A pod of Kubernetes may have it.
            tf.logging.info("POD_NAME is unset here: the adapter would ignore RANK_ID for it.")
        self._adapter = _import_adapter()
        self.rank = self._rank_from_hccl() if rank is None else rank
        self.shares_evaluation = self.num_devices > 1
        self.steps_per_run = options.npu_iterations_per_loop
        self.skips_steps = options.loss_scale != "none"
        self.loss_scale_variable = "loss_scale" if options.loss_scale == "dynamic" else None
        for name in _RESTORING_VARIABLES:
            if os.environ.get(name):
                tf.logging.warning(
                    "%s is set: the adapter starts from weights it finds in %s.",
                    name,
                    os.environ[name],
                )
        tf.logging.info("Rank %d of %d, Ascend %s.", self.rank, self.num_devices, self._adapter)

    def _rank_from_hccl(self) -> int:
        """The rank of this process where a chief collects the devices (the CM_ variables).

        HCCL knows it once a session has initialised the system, and only as long as there is one.
        """
        module = self._adapter.module
        # Up to r1.11.0 its Python sees RANK_SIZE alone, and would not average gradients.
        known = getattr(module.util, "get_ranksize", lambda: "1")
        if int(known()) != self.num_devices:
            raise UserError(
                f"The Ascend {self._adapter} does not know the CM_ variables: use RANK_SIZE, "
                "RANK_ID and RANK_TABLE_FILE, or an adapter from r1.12.0 on."
            )
        with tf.Graph().as_default():
            start, stop = module.npu_ops.initialize_system(), module.npu_ops.shutdown_system()
            with tf.Session(config=_npu_session_config()) as session:
                session.run(start)
                size, rank = module.get_rank_size(), module.get_rank_id()
                session.run(stop)
        if size != self.num_devices or not 0 <= rank < size:
            found = "no rank" if rank == _NOT_INITIALISED else f"rank {rank} of {size}"
            raise UserError(
                f"CM_WORKER_SIZE is {self.num_devices}, but HCCL gave this process {found}: start "
                "one process for each device, with the same CM_ variables."
            )
        return rank

    def sharding(self):
        # By the environment: HCCL does not answer while the input is built.
        return self.num_devices, self.rank

    def check_save_steps(self, save_checkpoints_steps):
        loop = self.options.npu_iterations_per_loop
        if save_checkpoints_steps % loop:
            raise UserError(
                f"--npu_iterations_per_loop={loop} does not divide the {save_checkpoints_steps} "
                "steps between checkpoints: set --save_checkpoints_steps to a multiple of it, like "
                f"{-(-save_checkpoints_steps // loop) * loop}."
            )

    def wrap_optimizer(self, optimizer):
        scale = self.options.loss_scale
        distributed = self.num_devices > 1
        if scale == "none":
            return self._adapter.average_gradients(optimizer) if distributed else optimizer
        if scale == "dynamic":
            manager = self._adapter.dynamic_manager(**_LOSS_SCALE)
        else:
            manager = self._adapter.fixed_manager(float(scale))
        return self._adapter.scale_loss(optimizer, manager, distributed)

    def session_config(self, training=False):
        # The adapter's Estimator adds the NPU itself.
        return tf.ConfigProto(allow_soft_placement=True)

    def training_hooks(self, model_dir, save_checkpoints_steps, log_steps, max_steps, check_end):
        # The adapter's Estimator has its own hook for checkpoints.
        hooks = [ScalarSummaryHook(model_dir, log_steps)]
        if self.options.npu_iterations_per_loop > 1:
            hooks.append(LastLoopHook(self.options.npu_iterations_per_loop, max_steps))
        return hooks

    def _make_estimator(self, model_fn, keywords, training):
        keywords.update(
            # Others than 0 would write summaries from inside the loop on the device.
            save_summary_steps=0,
            enable_data_pre_proc=True,
            mix_compile_mode=False,
            hcom_parallel=self.num_devices > 1,
        )
        if keywords["tf_random_seed"] is None:
            del keywords["tf_random_seed"]

        def pinned_model_fn(features, labels, mode, params):
            # Newer graphs have FusedBatchNormV3, which the adapter's operators do not include.
            with tf.compat.forward_compatibility_horizon(2019, 5, 1):
                return model_fn(features, labels, mode, params)

        module = self._adapter.module
        try:
            config = npu_config.run_config(module, self._adapter.version, self.options, keywords)
            return module.NPUEstimator(
                model_fn=pinned_model_fn,
                model_dir=keywords["model_dir"],
                config=config,
                params={},
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"The Ascend adapter {self._adapter.version} does not take these settings: {error}"
            ) from error


class LastLoopHook(tf.train.SessionRunHook):
    """Shortens the last loop on the device, so that training ends at the planned step.

    The device repeats the step as often as a variable of the adapter says (`SetIterationsVarHook`
    of npu_hook.py); steps that loss scaling skipped leave a rest that is no whole loop.
    """

    _VARIABLE = "npu_runconfig/iterations_per_loop"

    def __init__(self, steps_per_loop: int, max_steps: int):
        self._steps_per_loop = steps_per_loop
        self._max_steps = max_steps

    def begin(self):
        self._global_step = tf.train.get_global_step()

    def after_create_session(self, session, coord):
        # The adapter's hook made it: all hooks begin before the first session is created.
        variables = {variable.op.name: variable for variable in tf.local_variables()}
        self._repeats = variables[self._VARIABLE]
        self._loaded = self._steps_per_loop

    def before_run(self, run_context):
        left = self._max_steps - int(run_context.session.run(self._global_step))
        steps = max(1, min(self._steps_per_loop, left))
        if steps != self._loaded:
            # As IterationPerLoop.load_iteration_per_loop_var of util.py does between runs.
            self._repeats.load(steps - 1, session=run_context.session)
            self._loaded = steps


# The adapter -------------------------------------------------------------------------------------


class _Adapter(NamedTuple):
    """One of the two adapters: what differs between them.

    Attributes:
        package: its name.
        version: of the installed release, as text.
        module: what has the public names.
    """

    package: str
    version: str
    module: object

    def __str__(self):
        return f"adapter {self.version} ({self.package})"

    def average_gradients(self, optimizer):
        return self.module.NPUDistributedOptimizer(optimizer)

    def dynamic_manager(self, **settings):
        if self.package == "npu_bridge":
            return self.module.ExponentialUpdateLossScaleManager(**settings)
        return loss_scale.DynamicLossScale(**settings)

    def fixed_manager(self, scale: float):
        if self.package == "npu_bridge":
            return self.module.FixedLossScaleManager(scale)  # It looks for overflows.
        return loss_scale.FixedLossScale(scale)

    def scale_loss(self, optimizer, manager, is_distributed: bool):
        if self.package == "npu_bridge":
            if is_distributed:
                optimizer = self.average_gradients(optimizer)
            return self.module.NPULossScaleOptimizer(
                optimizer, manager, is_distributed=is_distributed
            )
        # The newer adapter has one optimizer that does both.
        return self.module.NPUOptimizer(
            optimizer,
            loss_scale_manager=manager,
            is_distributed=is_distributed,
            is_loss_scale=True,
        )


def find_adapter() -> Optional[str]:
    """The package of the installed adapter; does not import it."""
    return next((name for name in _ADAPTERS if importlib.util.find_spec(name)), None)


def _import_adapter() -> _Adapter:
    package = find_adapter() or "npu_bridge"
    try:
        if package == "npu_device":
            # As an attribute: the module of this name is another one, without the function.
            importlib.import_module("npu_device").compat.enable_v1()
        module = importlib.import_module(_ADAPTERS[package])
    except (ImportError, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--accelerator=npu: the Ascend adapter {package} cannot be imported ({error}): "
            "install the adapter of your CANN release and source its set_env.sh."
        ) from error
    return _Adapter(package, _version(package), module)


def _version(package: str) -> str:
    import pkg_resources  # Slow to import, and needed here only.

    try:
        return pkg_resources.get_distribution(package).version
    except pkg_resources.DistributionNotFound:
        # That of TensorFlow, in all releases that were looked at.
        module = importlib.import_module(_ADAPTERS[package].rpartition(".")[0])
        return getattr(module, "__version__", "(version unknown)")


def _npu_session_config() -> tf.ConfigProto:
    """Settings of a session on the NPU without an Estimator."""
    config = tf.ConfigProto(allow_soft_placement=True)
    rewrites = config.graph_options.rewrite_options
    optimizer = rewrites.custom_optimizers.add()
    optimizer.name = "NpuOptimizer"
    optimizer.parameter_map["use_off_line"].b = True
    rewrites.remapping = rewrites.memory_optimization = RewriterConfig.OFF
    return config
