"""What the adapter's library does in a session: options, the loop on the device, float status.

Sources: kernels/geop_npu.cc (a session's first run, the line on stderr, the end of GE with its
last session, the loop where a target is named IterationOp), kernels/npu_sys_ctl_ops.cc (NPUInit,
NPUShutdown), util/ge_plugin.cc (when HCCL is initialised), ops/aicore/npu_aicore_ops.cc (float
status), optimizers/om_partition_subgraphs_pass.cc (no OneShotIterator in a loop).
"""

import functools
import os
import sys
import weakref

import tensorflow.compat.v1 as tf
from tensorflow.python.client import session as tf_session

from . import RELEASE, device_options
from .recording import caller, record

# Graph collections of the operations that start and stop the system.
_STARTS, _STOPS = "npu_stand_in_starts", "npu_stand_in_stops"
_LOOP_VARIABLES = "npu_runconfig_iterations_per_loop"


class _Engine:
    """What this process has of the device; GE is one a process, too."""

    def __init__(self):
        self.is_loaded = False
        self.compiled = weakref.WeakSet()  # Sessions that ran something on the NPU.
        self.started_by = None  # Reference to the session that initialised the system.
        self.status_reads = 0


_engine = _Engine()


def is_loaded() -> bool:
    """Whether TensorFlow has the adapter's graph passes."""
    return _engine.is_loaded


def is_initialised() -> bool:
    """Whether a session initialised the system, and neither stopped it nor was closed.

    In the real one any session that runs on the NPU initialises GE, and the last one to be closed
    ends it. Whether HCCL answers before `initialize_system` is not known.
    """
    return _engine.started_by is not None and _engine.started_by() is not None


def load():
    """Makes sessions whose config has NpuOptimizer those of the NPU."""
    base = tf_session.BaseSession
    base.__init__ = _opening(base.__init__)
    base._do_run = _running(base._do_run)
    base.close = _closing(base.close)
    base.__del__ = _closing(base.__del__)
    _engine.is_loaded = True


def _npu_optimizer(config):
    optimizers = config.graph_options.rewrite_options.custom_optimizers if config else ()
    return next((o for o in optimizers if o.name == "NpuOptimizer"), None)


def _opening(original):
    @functools.wraps(original)
    def init(self, target="", graph=None, config=None):
        if _npu_optimizer(config):
            record("Session", opened_by=caller())
            # GE compiles the graph, not TensorFlow.
            own = tf.ConfigProto()
            own.CopyFrom(config)
            own.graph_options.rewrite_options.disable_meta_optimizer = True
            config = own
        original(self, target, graph, config)

    return init


def _running(original):
    @functools.wraps(original)
    def do_run(self, handle, targets, fetches, feeds, options, metadata):
        optimizer = _npu_optimizer(self._config)
        if optimizer is None:
            return original(self, handle, targets, fetches, feeds, options, metadata)
        if self not in _engine.compiled:
            _compile(self, optimizer)
        for _ in range(_steps(self, optimizer, targets) - 1):
            original(self, handle, targets, fetches, feeds, None, None)
        values = original(self, handle, targets, fetches, feeds, options, metadata)
        _start_or_stop(self, targets)
        return values

    return do_run


def _closing(original):
    @functools.wraps(original)
    def close(self):
        if _engine.started_by is not None and _engine.started_by() is self:
            _engine.started_by = None
        original(self)

    return close


def _compile(session, optimizer):
    device_options.check(optimizer.parameter_map)
    _engine.compiled.add(session)
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0":
        number = len(_engine.compiled)
        print(
            "The model has been compiled on the Ascend AI processor, current graph id is:",
            number,
            file=sys.stderr,
        )


def _steps(session, optimizer, targets) -> int:
    """How often the device does what a session is to run."""
    parameters = optimizer.parameter_map
    if "iterations_per_loop" not in parameters or parameters["iterations_per_loop"].i == 1:
        return 1
    operations = session.graph.get_operations()
    if any(op.type == "OneShotIterator" for op in operations):
        raise device_options.AbortError("iterator_per_loop only supports 1 with OneShotIterator")
    if not any(target.name == "IterationOp" for target in targets):
        return 1
    (variable,) = session.graph.get_collection(_LOOP_VARIABLES)
    return int(session.run(variable)) + 1


def _start_or_stop(session, targets):
    targets = set(targets)
    if targets & set(session.graph.get_collection(_STARTS)):
        _engine.started_by = weakref.ref(session)
    if targets & set(session.graph.get_collection(_STOPS)):
        _engine.started_by = None


def system_operation(name: str, starts: bool) -> tf.Operation:
    """The operation that a session runs, as a target, to start or stop the system."""
    operation = tf.no_op(name=name)
    tf.add_to_collection(_STARTS if starts else _STOPS, operation)
    return operation


# Float status ------------------------------------------------------------------------------------


def float_status(gradients) -> tf.Tensor:
    """The device's status, all zeros unless something overflowed since it was cleared.

    Here that is a gradient that is not finite, or whatever the environment says.
    """
    tensors = [getattr(gradient, "values", gradient) for gradient in gradients]
    finite = tf.reduce_all([tf.reduce_all(tf.is_finite(tensor)) for tensor in tensors])
    # From r1.10.0 on the second version.
    name, dtype, size = "NpuGetFloatStatusV2", tf.int32, 8
    if RELEASE < (1, 10):
        name, dtype, size = "NpuGetFloatStatus", tf.float32, 1

    def read(all_finite):
        number = _engine.status_reads
        _engine.status_reads += 1
        overflowed = not all_finite or _overflows(number)
        return [int(overflowed)] + [0] * (size - 1)

    status = tf.numpy_function(
        lambda all_finite: dtype.as_numpy_dtype(read(all_finite)), [finite], dtype, name=name
    )
    status.set_shape([size])
    return status


def _overflows(number: int) -> bool:
    """Whether the environment says that this step of the process overflows."""
    for part in filter(None, os.environ.get("NPU_STAND_IN_OVERFLOW", "").split(",")):
        first, dash, last = part.partition("-")
        if int(first) <= number and ((dash and not last) or number <= int(last or first)):
            return True
    return False
