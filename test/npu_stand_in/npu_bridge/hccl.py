"""Ranks, and what they exchange.

Sources: hccl/manage/api.py of CANN (hcomm: the world group's unset answer is success with the
untouched default), util/ge_plugin.cc (which variables let HCCL be initialised),
hccl/hccl_ops.py (all-reduce, broadcast).
"""

import os
import time

import numpy as np
import tensorflow.compat.v1 as tf

from . import RELEASE, device
from .util import num_ranks

_UNKNOWN = 0xFFFFFFFF
_WORLD = "hccl_world_group"


def get_rank_size(group=_WORLD):
    _check_group(group)
    return _num_ranks() if _answers() else _UNKNOWN


def get_rank_id(group=_WORLD):
    _check_group(group)
    # Without a rank table the ranks follow the devices.
    return own_rank() if _answers() else _UNKNOWN


def get_local_rank_size(group=_WORLD):
    _check_group(group)
    if not _answers():
        raise ValueError("get local rank size error. ret[1]")
    return min(8, _num_ranks())


def get_local_rank_id(group=_WORLD):
    _check_group(group)
    return own_rank() % 8 if _answers() else _UNKNOWN


def _check_group(group):
    if not isinstance(group, str) or group != _WORLD:
        raise ValueError(f"There is no group {group!r}.")


def _answers() -> bool:
    """Whether HCCL is initialised: by a session, and with variables that tell who is there."""
    have = os.environ.get
    table = have("RANK_TABLE_FILE") and not have("CM_CHIEF_IP") and not have("CM_WORKER_SIZE")
    chief = all(have(f"CM_CHIEF_{name}") for name in ("IP", "PORT", "DEVICE"))
    chief = chief and not have("RANK_SIZE") and RELEASE >= (1, 11)
    return device.is_initialised() and bool(table or chief)


def _num_ranks() -> int:
    return int(os.environ.get("RANK_SIZE") or os.environ.get("CM_WORKER_SIZE") or 1)


def own_rank() -> int:
    return int(os.environ.get("RANK_ID") or os.environ.get("ASCEND_DEVICE_ID") or 0)


# Exchange ----------------------------------------------------------------------------------------


def all_reduce(tensors):
    """The sums over the ranks."""
    if not os.environ.get("NPU_STAND_IN_HCCL"):
        return [tensor * tf.cast(num_ranks(), tensor.dtype) for tensor in tensors]
    return _exchanged(tensors, _sum, "HcomAllReduce")


def broadcast(tensors):
    """The values of rank 0."""
    if not os.environ.get("NPU_STAND_IN_HCCL"):
        return [tf.identity(tensor) for tensor in tensors]
    return _exchanged(tensors, lambda of_ranks: of_ranks[0], "HcomBroadcast")


def _sum(of_ranks):
    return [np.sum(values, axis=0, dtype=values[0].dtype) for values in zip(*of_ranks)]


def _exchanged(tensors, combine, name):
    """All in one operation: if each waited for other ranks, none could run beside them."""
    results = tf.numpy_function(
        lambda *values: combine(_exchange(values)), tensors, [t.dtype for t in tensors], name=name
    )
    for result, tensor in zip(results, tensors):
        result.set_shape(tensor.shape)
    return results


_exchanges = 0  # Of this process; all ranks do the same ones in the same order.


def _exchange(values):
    """The values of all ranks, in their order, through files."""
    global _exchanges
    directory, number, rank = os.environ["NPU_STAND_IN_HCCL"], _exchanges, own_rank()
    _exchanges += 1

    def path(rank, number=number):
        return os.path.join(directory, f"{number}.{rank}.npz")

    np.savez(path(rank) + ".part.npz", *values)
    os.rename(path(rank) + ".part.npz", path(rank))
    limit = time.monotonic() + float(os.environ.get("HCCL_EXEC_TIMEOUT", "1836"))
    of_ranks = []
    for other in range(num_ranks()):
        while not os.path.exists(path(other)):
            if time.monotonic() > limit:
                raise RuntimeError(f"Rank {rank} waited for rank {other} for too long.")
            time.sleep(0.01)
        with np.load(path(other)) as arrays:
            of_ranks.append([arrays[f"arr_{i}"] for i in range(len(values))])
    if number >= 2 and os.path.exists(path(rank, number - 2)):
        os.remove(path(rank, number - 2))  # All have read it: they wrote what came after it.
    return of_ranks
