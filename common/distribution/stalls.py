"""Ends the processes that train together when they complete no more steps.

A process that was stopped, or whose input does not come, keeps its connections: nothing breaks off,
and the others would wait for it for ever. So each process measures the time since its last step.
To name who is behind, each counts, in its TensorFlow server, the steps whose images have come.
"""

import threading
import time
from typing import Dict, Optional

from common.distribution import peers
from common.distribution.cluster import Cluster
from common.runtime import tf

IMAGES = "images_of_this_process"  # Collection of tensors that are there once the images are.
_POLL_SECONDS = 0.5
# The others read this process's count so long, too: they notice a stall at about the same time.
_ASK_SECONDS = 6
_NOT_BEGUN = -1


class StallHook(tf.train.SessionRunHook):
    """Ends this process when no step ends for some time. Belongs behind all other hooks.

    Args:
        cluster: the processes that train together.
        timeout: seconds from the end of one step to the end of the next, between which the chief
            may have saved a checkpoint.
        first_timeout: seconds until the end of the first step, from the end of graph building.
    """

    def __init__(self, cluster: Cluster, timeout: float, first_timeout: float):
        self._cluster = cluster
        self._timeout = timeout
        self._first_timeout = first_timeout
        self._runs = 0
        self._ended = threading.Event()

    def begin(self):
        handle = _count_of(self._cluster, self._cluster.rank)
        self._start = tf.placeholder(tf.int64, [])
        self._set_count = tf.raw_ops.AssignVariableOp(resource=handle, value=self._start)
        with tf.control_dependencies(tf.get_collection(IMAGES)):
            one = tf.constant(1, tf.int64)
            self._add_one = tf.raw_ops.AssignAddVariableOp(resource=handle, value=one)
        threading.Thread(target=self._watch, daemon=True).start()

    def after_create_session(self, session, coord):
        step = session.run(tf.train.get_global_step())
        session.run(self._set_count, {self._start: step})

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._add_one)

    def after_run(self, run_context, run_values):
        self._runs += 1

    def end(self, session):
        self._ended.set()

    def _watch(self):
        waited, runs = 0.0, 0
        while not self._ended.wait(_POLL_SECONDS):
            if runs != self._runs:
                waited, runs = 0.0, self._runs
            # Not by a clock: time for which this process was stopped itself does not count.
            waited += _POLL_SECONDS
            timeout = self._timeout if runs else self._first_timeout
            if waited > timeout:
                with peers.ENDING:  # From now on others end as well, which is not the reason.
                    steps = begun_steps(self._cluster)
                    peers.end_process(peers.LostPeerError(message(self._cluster, steps, timeout)))


def message(cluster: Cluster, steps: Dict[int, Optional[int]], timeout: float) -> str:
    """Says which processes the others wait for; `steps` is what `begun_steps` returns."""
    silent = [cluster.name(rank) for rank, step in steps.items() if step is None]
    newest = max([step for step in steps.values() if step is not None], default=_NOT_BEGUN)
    behind = [cluster.name(rank) for rank, step in steps.items() if step not in (None, newest)]
    reasons = []
    if silent:
        reasons.append(f"no answer from {', '.join(silent)}")
    if behind:
        reasons.append(f"step {newest} was not begun by {', '.join(behind)}")
    if not reasons:
        where = "before the first step" if newest == _NOT_BEGUN else f"in step {newest}"
        reasons.append(f"all processes answer, and all are {where}; check the network between them")
    return (
        f"No step has ended for {timeout:g} s (--stall_timeout): {'; '.join(reasons)}. "
        f"{peers.ADVICE}"
    )


def begun_steps(cluster: Cluster) -> Dict[int, Optional[int]]:
    """The last step whose images each process has; None for a process that does not answer."""
    steps = dict.fromkeys(range(cluster.size))

    def ask(rank):
        with tf.Graph().as_default(), peers.session(cluster, rank) as session:
            handle = _count_of(cluster, rank)
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64)
            try:
                steps[rank] = int(session.run(value))
            except tf.errors.FailedPreconditionError:
                steps[rank] = _NOT_BEGUN
            except tf.errors.OpError as error:
                tf.logging.warning("%s: %s", cluster.name(rank), error)

    for rank in range(cluster.size):
        threading.Thread(target=ask, args=(rank,), daemon=True).start()
    time.sleep(_ASK_SECONDS)
    return dict(steps)


def _count_of(cluster: Cluster, rank: int) -> tf.Tensor:
    """The handle of the count in a process's server."""
    with tf.device(f"{cluster.device(rank)}/cpu:0"):
        return tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[], shared_name=f"begun_step_{rank}")
