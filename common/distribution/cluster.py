"""The processes that train together, on one host or many: who they are, and that all are there.

The processes find each other as TensorFlow's do, by the environment variable TF_CONFIG:

    {"cluster": {"chief": ["host0:2222"], "worker": ["host1:2222"], "evaluator": ["host0:2223"]},
     "task": {"type": "worker", "index": 0}}

The first is the chief, also where it is called worker 0. TensorFlow waits for ever for a process
that does not start; here the wait ends with a sentence. What watches them in training is `peers`.
"""

import collections
import contextlib
import json
import os
import re
import socket
import time
from typing import Callable, Dict, List, NamedTuple, Optional

from common import limits
from common.errors import UserError
from common.runtime import tf

VARIABLE = "TF_CONFIG"
# gRPC's; where there is the first, it does not read the other.
_NO_PROXY = ("no_grpc_proxy", "no_proxy")

_JOBS = ("chief", "worker", "evaluator")
_EXAMPLE = (
    'expected something like {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
PROBE_SECONDS = 2
_LOG_EVERY_SECONDS = 15


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

    def device(self, rank: int) -> str:
        """TensorFlow's name for all devices of a process."""
        return "/job:{}/task:{}".format(*self.tasks[rank])

    @property
    def others(self) -> List[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def watched_by(self, rank: int) -> List[int]:
        """The processes that a process watches.

        The chief watches all; the others watch the chief, which exits if any process is lost.
        """
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
        # TensorFlow's connections would go through a proxy of the environment.
        hosts = [address.rpartition(":")[0].strip("[]") for address in self.addresses]
        name = next((name for name in _NO_PROXY if name in os.environ), _NO_PROXY[-1])
        before = os.environ.get(name)
        known = before or os.environ.get("NO_PROXY", "")
        os.environ[name] = ",".join(filter(None, [known, *hosts]))
        try:
            yield
        finally:
            del os.environ[VARIABLE], os.environ[name]
            if before is not None:
                os.environ[name] = before


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
        config = limits.parse_json(text)
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
    job, index = str(task["type"]), str(task.get("index", 0))
    if job == "evaluator" and "evaluator" not in jobs:
        return job, 0  # It need not be listed: nobody talks to it.
    if job not in jobs:
        raise UserError(
            f'TF_CONFIG: the type of "task" is {job!r}; expected one of {", ".join(jobs)}.'
        )
    if not re.fullmatch("[0-9]{1,9}", index) or int(index) >= len(jobs[job]):
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
                f"process, cannot be used ({error.strerror}): stop the process that has it (see "
                "`ss -ltnp`), or choose another port."
            ) from error


def wait_for_others(cluster: Cluster, timeout: float, check: Callable[[], None] = lambda: None):
    """Waits until all other processes have opened their ports, or `check` raises an exception.

    Raises:
        UserError: some have not after `timeout` seconds.
    """
    missing, start, logged = cluster.others, time.monotonic(), time.monotonic()
    while True:
        check()
        missing = [rank for rank in missing if not answers(cluster.addresses[rank])]
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


def answers(address: str) -> bool:
    """Whether a process accepts connections at an address."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=PROBE_SECONDS):
            return True
    except (OSError, UnicodeError):  # No host has a name like a..b.
        return False


def _host_and_port(address: str):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)
