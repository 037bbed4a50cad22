"""Watches the processes that train together, and ends all of them if one is lost.

TensorFlow opens sessions that wait for a lost process for ever; here training ends with a sentence.
Whoever started the processes may start them again: state is the checkpoint.
"""

import contextlib
import os
import sys
import threading
import time
from typing import Callable, Dict

from tensorflow.python.distribute import distribute_coordinator
from tensorflow.python.training import monitored_session

from common import runtime
from common.distribution.cluster import PROBE_SECONDS, Cluster, answers
from common.errors import UserError
from common.hooks import interruption
from common.runtime import tf

ADVICE = (
    "This process ends too; start all of them again, and training goes on from the last checkpoint."
)
_LOST_AFTER_SECONDS = 10
_GOODBYE_SECONDS = 60
_GOODBYE_MISSES = 5  # Probes in a row that none of the readers answers.

# Whoever has this ends the process; the other threads' reasons to do so are consequences.
ENDING = threading.RLock()


class LostPeerError(UserError):
    """Another process of the training has gone."""

    exit_status = interruption.EXIT_STATUS


@contextlib.contextmanager
def training(cluster: Cluster):
    """Around a training: it ends when another process is lost.

    Raises:
        LostPeerError: one was.
    """
    # TensorFlow would open another session, which waits for the lost process for ever.
    errors, monitored_session._PREEMPTION_ERRORS = monitored_session._PREEMPTION_ERRORS, ()
    try:
        with cluster.in_environment():
            yield
    except tf.errors.OpError as error:
        if not _is_of_a_peer(error):
            raise
        raise LostPeerError(_lost_message(cluster, error)) from error
    except UserError as error:
        if not isinstance(error, LostPeerError):
            ENDING.acquire()  # For ever: when the others end now, that is a consequence.
        raise
    finally:
        monitored_session._PREEMPTION_ERRORS = errors
        # At the interpreter's end it could not be destroyed without an error message.
        vars(distribute_coordinator._thread_local).pop("server", None)


def _is_of_a_peer(error: tf.errors.OpError) -> bool:
    """Whether an operation failed since another process ended, of whatever kind the error is."""
    if isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
        return True
    return "Collective ops is aborted by" in str(error) or "received from peer" in str(error)


def _lost_message(cluster: Cluster, error: tf.errors.OpError) -> str:
    time.sleep(1.0)  # A process that ends closes its connections one after another.
    gone = [cluster.name(rank) for rank in cluster.others if not answers(cluster.addresses[rank])]
    reason = " ".join(runtime.error_message(error).split())[:100]
    return f"Lost {', '.join(gone) or 'another process'} ({reason}). {ADVICE}"


def check_present(cluster: Cluster, heard: Dict[int, float]):
    """Looks whether the other processes are there, if some time has passed since the last look.

    Args:
        cluster: the processes.
        heard: when each of the others accepted a connection, in monotonic seconds; is updated.

    Raises:
        LostPeerError: one has not accepted any for some time.
    """
    for rank, time_heard in heard.items():
        silence = time.monotonic() - time_heard
        if silence >= PROBE_SECONDS and answers(cluster.addresses[rank]):
            heard[rank] = time.monotonic()
        elif silence > _LOST_AFTER_SECONDS:
            raise LostPeerError(f"{cluster.name(rank)} does not answer any more. {ADVICE}")


def early_end(step: int, max_steps: int) -> LostPeerError:
    """The error where the training ended before its last step, and not by a signal."""
    return LostPeerError(
        f"Training ended at step {step} of {max_steps}, since another process had no more images: "
        f"its log says why. {ADVICE}"
    )


class ClusterHook(tf.train.SessionRunHook):
    """Watches the other processes, and ends when all have ended.

    Belongs behind the hooks that save: the others wait for what those do in the end.

    Args:
        cluster: the processes that train together.
        check_end: is called with the global step at which this process ends, and whether the
            others have ended; raises an error if that is too early: at once if it is by reason of
            this process, for which the others may wait.
    """

    def __init__(self, cluster: Cluster, check_end: Callable[[int, bool], None]):
        self._cluster = cluster
        self._check_end = check_end
        self._watchers = [_Watcher(cluster, rank) for rank in cluster.watched_by(cluster.rank)]

    def begin(self):
        for watcher in self._watchers:
            watcher.start()
        strategy = tf.distribute.get_strategy()
        self._step = step = tf.train.get_global_step()
        steps = strategy.extended.call_for_each_replica(lambda: tf.identity(step.read_value()))
        self._sum_of_steps = strategy.reduce(tf.distribute.ReduceOp.SUM, steps, axis=None)
        self._replicas = strategy.num_replicas_in_sync

    def after_create_session(self, session, coord):
        """Checks that all go on from the same checkpoint; this is where they meet."""
        total, step = session.run([self._sum_of_steps, tf.train.get_global_step()])
        if total != self._replicas * step:
            raise UserError(
                f"This process goes on from step {step}, but the others, on average, from step "
                f"{total / self._replicas:g}: --model_dir must be the same directory, on a file "
                "system that all hosts share."
            )

    def end(self, session):
        """Waits for the others: who ended before would break off what they have yet to fetch."""
        step = int(session.run(self._step))
        self._check_end(step, False)
        tf.logging.info("Training has ended here; waiting for the others.")
        for watcher in self._watchers:
            watcher.ended.set()
        if self._cluster.rank == 0:  # First all come to their end, then the chief lets them go.
            _join(self._watchers)
        _say_goodbye(self._cluster)
        _join(self._watchers)
        self._check_end(step, True)


class _Watcher:
    """Ends this process as soon as another one is lost, until that says goodbye.

    TensorFlow's collective operations wait for a lost process for ever. A session in a thread tells
    when that ends, also where it is started again at once: it waits for an item from a queue there,
    which breaks off. When a host is lost nothing breaks off, but connections cannot be made any
    more.

    Attributes:
        ended: set where that may end, since training has ended.
    """

    def __init__(self, cluster: Cluster, rank: int):
        self._cluster = cluster
        self._rank = rank
        self.ended = threading.Event()
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._wait, self._probe)
        ]

    def start(self):
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float):
        """Waits for its goodbye, while it is there: a session with one that is gone never ends."""
        deadline, misses = time.monotonic() + timeout, 0
        while time.monotonic() < deadline and misses < _GOODBYE_MISSES:
            self._threads[0].join(0.5)
            if not self._threads[0].is_alive():
                return
            misses = 0 if answers(self._cluster.addresses[self._rank]) else misses + 1

    def _wait(self):
        with tf.Graph().as_default():
            item = _goodbye_queue(self._cluster, self._rank, self._cluster.rank).dequeue()
            try:
                with session(self._cluster, self._rank) as peer:
                    peer.run(item)
                self.ended.set()  # It said goodbye; the last checkpoint may still be saved here.
            except tf.errors.OpError:
                name = self._cluster.name(self._rank)
                self._lost(LostPeerError(f"{name} has ended, or has been started again. {ADVICE}"))

    def _probe(self):
        heard = {self._rank: time.monotonic()}
        while not self.ended.wait(PROBE_SECONDS):
            try:
                check_present(self._cluster, heard)
            except LostPeerError as error:
                self._lost(error)

    def _lost(self, error: LostPeerError):
        if not self.ended.is_set():
            end_process(error)


def _join(watchers):
    deadline = time.monotonic() + _GOODBYE_SECONDS
    for watcher in watchers:
        watcher.join(max(0.0, deadline - time.monotonic()))


def _say_goodbye(cluster: Cluster):
    """Lets those who watch this process know that it ends well, and waits until they do."""
    if cluster.size == 1:
        return
    readers = [rank for rank in cluster.others if cluster.rank in cluster.watched_by(rank)]
    with tf.Graph().as_default():
        queues = [_goodbye_queue(cluster, cluster.rank, rank) for rank in readers]
        items, left = [queue.enqueue(0) for queue in queues], [queue.size() for queue in queues]
        with session(cluster, cluster.rank) as own:
            own.run(items)
            deadline, misses = time.monotonic() + _GOODBYE_SECONDS, 0
            while time.monotonic() < deadline and misses < _GOODBYE_MISSES:
                waiting = [rank for rank, size in zip(readers, own.run(left)) if size]
                if not waiting:
                    return
                are_there = any(answers(cluster.addresses[rank]) for rank in waiting)
                misses = 0 if are_there else misses + 1
                time.sleep(0.1)


def _goodbye_queue(cluster: Cluster, of: int, reader: int) -> tf.FIFOQueue:
    """A queue in process `of`, into which it puts an item for `reader` when it ends."""
    with tf.device(cluster.device(of)):
        return tf.FIFOQueue(1, tf.int32, shapes=[()], shared_name=f"goodbye_{of}_{reader}")


def session(cluster: Cluster, other: int) -> tf.Session:
    """A session of this process's server, for which there are only itself and another one."""
    config = tf.ConfigProto()
    for rank in {cluster.rank, other}:
        config.device_filters.append(cluster.device(rank))
    return tf.Session(f"grpc://{cluster.addresses[cluster.rank]}", config=config)


def end_process(error: LostPeerError):
    """Ends this process at once: threads may wait for the lost one, and cannot be stopped."""
    with ENDING:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(error.exit_status)
