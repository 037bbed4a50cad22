"""Training by several processes, on one host or many: who they are, and that all are there.

The processes find each other as TensorFlow's do, by the environment variable TF_CONFIG:

    {"cluster": {"chief": ["host0:2222"], "worker": ["host1:2222"], "evaluator": ["host0:2223"]},
     "task": {"type": "worker", "index": 0}}

The first is the chief, also where it is called worker 0. TensorFlow waits for ever for a process
that does not come, and for one that is lost it opens sessions which wait likewise; here both end
with a sentence. Whoever started the processes may start them again: state is the checkpoint.
"""

import collections
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional

from tensorflow.python.distribute import distribute_coordinator
from tensorflow.python.training import monitored_session

from common.errors import UserError
from common.hooks import interruption
from common.runtime import tf

VARIABLE = "TF_CONFIG"

_JOBS = ("chief", "worker", "evaluator")
_EXAMPLE = (
    'expected something like {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_ADVICE = (
    "This process ends too; start all of them again, and training goes on from the last checkpoint."
)
_PROBE_SECONDS = 2
_LOST_AFTER_SECONDS = 10
_LOG_EVERY_SECONDS = 15
_GOODBYE_SECONDS = 60


class LostPeerError(UserError):
    """Another process of the training has gone."""

    exit_status = interruption.EXIT_STATUS


class Cluster(NamedTuple):
    """The processes of a training, and which of them this one is.

    Attributes:
        tasks: (job, index in the job) of those that train; the chief first.
        addresses: of each of them, 'host:port'.
        rank: index of this process in `tasks`; None for the evaluator, which does not train.
        has_evaluator: whether TF_CONFIG lists a process that evaluates.
    """

    tasks: List[tuple]
    addresses: List[str]
    rank: Optional[int]
    has_evaluator: bool

    @property
    def size(self) -> int:
        return len(self.tasks)

    def name(self, rank: int) -> str:
        job, index = self.tasks[rank]
        title = job if job == "chief" else f"{job} {index}"
        return f"{title} ({self.addresses[rank]})"

    @property
    def others(self) -> List[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def watched_by(self, rank: int) -> List[int]:
        """Whom a process watches: the chief all, the others him, who ends with whoever is lost."""
        return list(range(1, self.size)) if rank == 0 else [0]

    def specification(self) -> Dict[str, List[str]]:
        """The addresses of each job that trains."""
        jobs = collections.defaultdict(list)
        for (job, _), address in zip(self.tasks, self.addresses):
            jobs[job].append(address)
        return dict(jobs)

    @contextlib.contextmanager
    def in_environment(self):
        """Shows TensorFlow the cluster, which TF_CONFIG does not do otherwise.

        Estimators that evaluate would take their part in it too.
        """
        job, index = self.tasks[self.rank]
        config = {"cluster": self.specification(), "task": {"type": job, "index": index}}
        os.environ[VARIABLE] = json.dumps(config)
        try:
            yield
        finally:
            del os.environ[VARIABLE]


# TF_CONFIG ---------------------------------------------------------------------------------------


def from_environment() -> Optional[Cluster]:
    """The cluster of TF_CONFIG, which is taken out of the environment; None without one."""
    text = os.environ.pop(VARIABLE, "")
    return parse(text) if text.strip() else None


def parse(text: str) -> Optional[Cluster]:
    """The cluster that a TF_CONFIG describes; None where it names no processes.

    Raises:
        UserError: says what is wrong with it.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"TF_CONFIG is not JSON ({error}): {_EXAMPLE}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster", {}), dict):
        raise UserError(f"TF_CONFIG has no JSON object of jobs: {_EXAMPLE}.")
    jobs = config.get("cluster", {})
    if not jobs:
        return None
    _check_jobs(jobs)
    job, index = _task(config, jobs)
    tasks = [(name, i) for name in ("chief", "worker") for i in range(len(jobs.get(name, [])))]
    return Cluster(
        tasks=tasks,
        addresses=[jobs[name][i] for name, i in tasks],
        rank=None if job == "evaluator" else tasks.index((job, index)),
        has_evaluator=bool(jobs.get("evaluator")) or job == "evaluator",
    )


def _check_jobs(jobs: Dict[str, List[str]]):
    users = {}
    for job, addresses in jobs.items():
        if job not in _JOBS:
            raise UserError(f"TF_CONFIG: unknown job {job!r}; expected {', '.join(_JOBS)}.")
        if not isinstance(addresses, list):
            raise UserError(f"TF_CONFIG: expected a list of addresses of {job}, got {addresses!r}.")
        for i, address in enumerate(addresses):
            _check_address(address, f"{job} {i}")
            if address in users:
                raise UserError(
                    f"TF_CONFIG: {users[address]} and {job} {i} have the same address, {address}; "
                    "each process needs its own port."
                )
            users[address] = f"{job} {i}"
    if not jobs.get("chief") and not jobs.get("worker"):
        raise UserError(f"TF_CONFIG lists no process that trains: {_EXAMPLE}.")
    for job in ("chief", "evaluator"):
        if len(jobs.get(job, [])) > 1:
            raise UserError(f"TF_CONFIG lists {len(jobs[job])} of {job}; there can be one only.")


def _check_address(address: str, user: str):
    match = re.fullmatch(r"(\S+):(\d{1,5})", address) if isinstance(address, str) else None
    if not match or not 0 < int(match.group(2)) < 1 << 16:
        raise UserError(
            f"TF_CONFIG: the address of {user} is {address!r}; expected host:port, with a port of "
            "1 to 65535."
        )


def _task(config: dict, jobs: Dict[str, List[str]]) -> tuple:
    """(job, index) of this process."""
    task = config.get("task")
    if not isinstance(task, dict) or "type" not in task:
        raise UserError(f'TF_CONFIG does not say which "task" this process is: {_EXAMPLE}.')
    job, index = task["type"], str(task.get("index", 0))
    if job == "evaluator" and "evaluator" not in jobs:
        return job, 0  # It need not be listed: nobody talks to it.
    if job not in jobs:
        raise UserError(
            f'TF_CONFIG: the type of "task" is {job!r}; expected one of {", ".join(jobs)}.'
        )
    if not index.isdigit() or int(index) >= len(jobs[job]):
        raise UserError(
            f'TF_CONFIG: the index of "task" is {index}, and {job} has {len(jobs[job])} addresses; '
            f"expected 0 to {len(jobs[job]) - 1}."
        )
    return job, int(index)


# Ports -------------------------------------------------------------------------------------------


def check_own_port(cluster: Cluster):
    """Checks that nobody else has the port of this process.

    Raises:
        UserError: somebody has, or it is not allowed to have it.
    """
    port = _host_and_port(cluster.addresses[cluster.rank])[1]
    with socket.socket() as probe:
        # Connections of a process that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"Port {port}, which TF_CONFIG gives to {cluster.name(cluster.rank)}, this "
                f"process, cannot be had ({error.strerror}): end whoever has it (see `ss -ltnp`), "
                "or take another port."
            ) from error


def wait_for_others(cluster: Cluster, timeout: float, check: Callable[[], None] = lambda: None):
    """Waits until all other processes have opened their ports, or `check` raises an exception.

    Raises:
        UserError: some have not after `timeout` seconds.
    """
    missing, start, logged = cluster.others, time.monotonic(), time.monotonic()
    while True:
        check()
        missing = [rank for rank in missing if not _answers(cluster.addresses[rank])]
        if not missing:
            tf.logging.info("All %d processes are there.", cluster.size)
            return
        names = ", ".join(cluster.name(rank) for rank in missing)
        now = time.monotonic()
        if now - start > timeout:
            raise UserError(
                f"{names} did not come within {timeout:g} s (--cluster_timeout): start all "
                "processes of TF_CONFIG, and check that their ports can be reached from here."
            )
        if now - logged > _LOG_EVERY_SECONDS or logged == start:
            tf.logging.info("Waiting up to %d s for %s.", timeout - (now - start), names)
            logged = now
        time.sleep(0.5)


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(_host_and_port(address), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def _host_and_port(address: str):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


# Training ----------------------------------------------------------------------------------------


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
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise LostPeerError(_lost_message(cluster, error)) from error
    finally:
        monitored_session._PREEMPTION_ERRORS = errors
        # At the interpreter's end it could not be destroyed without an error message.
        vars(distribute_coordinator._thread_local).pop("server", None)


def _lost_message(cluster: Cluster, error: tf.errors.OpError) -> str:
    time.sleep(1.0)  # A process that ends closes its connections one after another.
    gone = [cluster.name(rank) for rank in cluster.others if not _answers(cluster.addresses[rank])]
    reason = _first_words(error.message)
    return f"Lost {', '.join(gone) or 'another process'} ({reason}). {_ADVICE}"


class ClusterHook(tf.train.SessionRunHook):
    """Watches the other processes, and ends when all have ended.

    Belongs behind the hooks that save: the others wait for what those do in the end.
    """

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._watchers = [_Watcher(cluster, rank) for rank in cluster.watched_by(cluster.rank)]

    def begin(self):
        for watcher in self._watchers:
            watcher.start()
        strategy = tf.distribute.get_strategy()
        step = tf.train.get_global_step()
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
        tf.logging.info("Training has ended here; waiting for the others.")
        for watcher in self._watchers:
            watcher.expect_end()
        if self._cluster.rank == 0:  # First all come to their end, then the chief lets them go.
            _join(self._watchers)
        _say_goodbye(self._cluster)
        _join(self._watchers)


class _Watcher:
    """Ends this process as soon as another one is lost, until that says goodbye.

    TensorFlow's collective operations wait for a lost process for ever. A session in a thread tells
    when that ends, also where it is started again at once: it waits for an item from a queue there,
    which breaks off. When a host is lost nothing breaks off, but connections cannot be made any
    more.
    """

    def __init__(self, cluster: Cluster, rank: int):
        self._cluster = cluster
        self._rank = rank
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._wait, self._probe)
        ]

    def start(self):
        for thread in self._threads:
            thread.start()

    def expect_end(self):
        self._ended.set()

    def join(self, timeout: float):
        self._threads[0].join(timeout)

    def _wait(self):
        with tf.Graph().as_default():
            item = _goodbye_queue(self._cluster, self._rank, self._cluster.rank).dequeue()
            try:
                with _session(self._cluster, self._rank) as session:
                    session.run(item)
            except tf.errors.OpError:
                self._lost("has ended, or has been started again")

    def _probe(self):
        answered = time.monotonic()
        while not self._ended.wait(_PROBE_SECONDS):
            now = time.monotonic()
            if _answers(self._cluster.addresses[self._rank]):
                answered = now
            elif now - answered > _LOST_AFTER_SECONDS:
                self._lost("does not answer any more")

    def _lost(self, reason: str):
        if not self._ended.is_set():
            end_process(LostPeerError(f"{self._cluster.name(self._rank)} {reason}. {_ADVICE}"))


def _join(watchers):
    deadline = time.monotonic() + _GOODBYE_SECONDS
    for watcher in watchers:
        watcher.join(max(0.0, deadline - time.monotonic()))


def _say_goodbye(cluster: Cluster):
    """Lets those who watch this process know that it ends well, and waits until they do."""
    if cluster.size == 1:
        return
    with tf.Graph().as_default():
        queues = [
            _goodbye_queue(cluster, cluster.rank, rank)
            for rank in cluster.others
            if cluster.rank in cluster.watched_by(rank)
        ]
        items, left = [queue.enqueue(0) for queue in queues], [queue.size() for queue in queues]
        with _session(cluster, cluster.rank) as session:
            session.run(items)
            deadline = time.monotonic() + _GOODBYE_SECONDS
            while any(session.run(left)) and time.monotonic() < deadline:
                time.sleep(0.1)


def _goodbye_queue(cluster: Cluster, of: int, reader: int) -> tf.FIFOQueue:
    """A queue in process `of`, into which it puts an item for `reader` when it ends."""
    with tf.device("/job:{}/task:{}".format(*cluster.tasks[of])):
        return tf.FIFOQueue(1, tf.int32, shapes=[()], shared_name=f"goodbye_{of}_{reader}")


def _session(cluster: Cluster, other: int) -> tf.Session:
    """A session of this process's server, for which there are only itself and another one."""
    config = tf.ConfigProto()
    for rank in {cluster.rank, other}:
        config.device_filters.append("/job:{}/task:{}".format(*cluster.tasks[rank]))
    return tf.Session(f"grpc://{cluster.addresses[cluster.rank]}", config=config)


def end_process(error: LostPeerError):
    """Ends this process at once: threads may wait for the lost one, and cannot be stopped."""
    print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.exit_status)


def _first_words(message: str) -> str:
    return " ".join(message.split())[:100]
