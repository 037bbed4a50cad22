"""The adapter's names, as `from npu_bridge.npu_init import ...` gives them (npu_init.py).

From r1.9.0 on the import makes every tf.Session that is opened later one of the NPU.
"""

from tensorflow.python.client import session

from . import RELEASE, npu_ops, util  # noqa: F401
from .hccl import (  # noqa: F401
    get_local_rank_id,
    get_local_rank_size,
    get_rank_id,
    get_rank_size,
)
from .npu_config import DumpConfig, NPURunConfig, ProfilingConfig, on_the_npu  # noqa: F401
from .npu_estimator import NPUEstimator  # noqa: F401
from .npu_hook import (  # noqa: F401
    NPUBroadcastGlobalVariablesHook,
    NPUCheckpointSaverHook,
    SetIterationsVarHook,
)
from .npu_optimizer import NPUDistributedOptimizer, NPUOptimizer  # noqa: F401
from .recording import record

if __package__ == "npu_bridge":  # Not in the adapter for TensorFlow 2.6.
    from .npu_loss_scale import (  # noqa: F401
        ExponentialUpdateLossScaleManager,
        FixedLossScaleManager,
        NPULossScaleOptimizer,
    )

record("import", adapter=__package__, release=".".join(map(str, RELEASE)))
if RELEASE >= (1, 9):
    session.Session.__init__ = on_the_npu(session.Session.__init__)
    session.InteractiveSession.__init__ = on_the_npu(session.InteractiveSession.__init__)
