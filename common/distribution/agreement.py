"""Checks that the processes that train together have the same settings, code, and data.

Otherwise they would wait for each other in operations that do not match, or train a mixture. They
meet before the graph is built; the chief compares, and all end with the same sentence.
"""

import glob
import hashlib
import json
import os
import threading
import time
from typing import Callable, Dict, List

from common.distribution import peers
from common.distribution.cluster import Cluster
from common.errors import UserError
from common.runtime import tf

_POLL_SECONDS = 0.1
_READ_SECONDS = 10
_MOST_DIFFERENCES = 5


def check(
    cluster: Cluster,
    values: Dict[str, object],
    timeout: float,
    interrupted: Callable[[], None] = lambda: None,
):
    """Checks that all processes call this with the same values.

    Args:
        cluster: the processes, whose servers run.
        values: what must be the same, by a name for the user; JSON.
        timeout: seconds to wait for the others.
        interrupted: is called while this process waits; ends that by an exception.

    Raises:
        UserError: some values differ, or a process does not take part, or was lost.
        tf.errors.OpError: a process has ended.
    """
    if cluster.size == 1:
        return
    found: List[object] = []

    def meet():
        try:
            found.append((_compare if cluster.rank == 0 else _send)(cluster, values))
        except Exception as error:
            found.append(error)

    # In a thread: what it waits for may never come.
    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout
    heard = dict.fromkeys(cluster.watched_by(cluster.rank), time.monotonic())
    while thread.is_alive():
        interrupted()
        peers.check_present(cluster, heard)
        if time.monotonic() > deadline:
            raise UserError(
                f"The processes could not compare their settings within {timeout:g} s "
                "(--cluster_timeout): at least one of them accepts connections but does not "
                "answer. Check that all are running, and that no other program has their ports."
            )
        thread.join(_POLL_SECONDS)
    if isinstance(found[0], Exception):
        raise found[0]
    if found[0]:
        raise UserError(found[0])


def _compare(cluster: Cluster, values: Dict[str, object]) -> str:
    """The chief's part; returns what differs, after the others have read it."""
    with tf.Graph().as_default(), peers.session(cluster, 0) as own:
        text = tf.placeholder(tf.string, [])
        item, left, answers = _settings_queue(cluster).dequeue(), [], []
        for rank in cluster.others:
            queue = _verdict_queue(cluster, rank)
            answers.append(queue.enqueue(text))
            left.append(queue.size())
        theirs = {}
        while len(theirs) < cluster.size - 1:
            rank, found = json.loads(own.run(item).decode())
            theirs[rank] = found
        verdict = differences(cluster, {0: json.loads(json.dumps(values)), **theirs})
        own.run(answers, {text: verdict})
        deadline = time.monotonic() + _READ_SECONDS
        while verdict and any(own.run(left)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return verdict


def _send(cluster: Cluster, values: Dict[str, object]) -> str:
    """Another process's part; returns what the chief found."""
    with tf.Graph().as_default(), peers.session(cluster, 0) as chief:
        chief.run(_settings_queue(cluster).enqueue(json.dumps([cluster.rank, values])))
        return chief.run(_verdict_queue(cluster, cluster.rank).dequeue()).decode()


def differences(cluster: Cluster, values: Dict[int, Dict[str, object]]) -> str:
    """A sentence about the values that differ from the chief's; '' if none do."""
    found = []
    for rank in cluster.others:
        for name in sorted({*values[0], *values[rank]}):
            chiefs, other = values[0].get(name, "missing"), values[rank].get(name, "missing")
            if chiefs != other:
                found.append(
                    f"{name} is {chiefs} for {cluster.name(0)}, {other} for {cluster.name(rank)}"
                )
    if not found:
        return ""
    more = len(found) - _MOST_DIFFERENCES
    listed = found[:_MOST_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
    return (
        f"The processes differ: {'; '.join(listed)}. Start all of them with the same flags, code, "
        "and data."
    )


def digest_of_code(root: str) -> str:
    """The beginning of a checksum of the program's modules, without tests and scripts."""
    checksum = hashlib.sha256()
    patterns = ("*.py", "common/**/*.py")
    paths = {
        path
        for pattern in patterns
        for path in glob.glob(os.path.join(glob.escape(root), pattern), recursive=True)
    }
    for path in sorted(paths):
        if not path.endswith("_test.py"):
            checksum.update(os.path.relpath(path, root).encode())
            with open(path, "rb") as file:
                checksum.update(file.read())
    return checksum.hexdigest()[:12]


def _settings_queue(cluster: Cluster) -> tf.FIFOQueue:
    """A queue in the chief's process, into which all others put their settings."""
    with tf.device(cluster.device(0)):
        return tf.FIFOQueue(cluster.size, tf.string, shapes=[()], shared_name="settings")


def _verdict_queue(cluster: Cluster, rank: int) -> tf.FIFOQueue:
    """A queue in the chief's process, from which another one takes what the chief found."""
    with tf.device(cluster.device(0)):
        return tf.FIFOQueue(1, tf.string, shapes=[()], shared_name=f"verdict_{rank}")
