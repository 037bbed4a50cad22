import json
import signal
import subprocess
import sys

import helpers
import pytest

from common.distribution import cluster, stalls
from common.runtime import tf
from scripts import launch_local

_THREE = cluster.parse(
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "chief"}}'
)


@pytest.mark.parametrize(
    "steps, reason",
    [
        ({0: 8, 1: None, 2: 8}, "no answer from worker 0 (b:1)."),
        ({0: 8, 1: 8, 2: 7}, "step 8 was not begun by worker 1 (c:1)."),
        ({0: 7, 1: 8, 2: -1}, "step 8 was not begun by chief (a:1), worker 1 (c:1)."),
        (
            {0: 7, 1: None, 2: 8},
            "no answer from worker 0 (b:1); step 8 was not begun by chief (a:1).",
        ),
        ({0: 8, 1: 8, 2: 8}, "all processes answer, and all are in step 8; check the network"),
        ({0: -1, 1: -1, 2: -1}, "all are before the first step; check the network"),
    ],
)
def test_message_names_who_is_behind(steps, reason):
    message = stalls.message(_THREE, steps, 60)
    assert message.startswith("No step has ended for 60 s (--stall_timeout): ")
    assert reason in message


_SERVER = """
import sys
from common.runtime import tf
addresses = [f"127.0.0.1:{port}" for port in sys.argv[1:]]
server = tf.train.Server({"worker": addresses}, job_name="worker", task_index=1)
print("ready", flush=True)
server.join()
"""


def test_a_stopped_process_gives_no_answer():
    with launch_local.held_ports(2) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        command = [sys.executable, "-c", _SERVER, *map(str, ports)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=helpers.ROOT)
        try:
            server = tf.train.Server({"worker": addresses}, job_name="worker", task_index=0)
            assert process.stdout.readline() == b"ready\n"
            task = {"type": "worker", "index": 0}
            both = cluster.parse(json.dumps({"cluster": {"worker": addresses}, "task": task}))
            assert stalls.begun_steps(both) == {0: -1, 1: -1}
            process.send_signal(signal.SIGSTOP)
            assert stalls.begun_steps(both) == {0: -1, 1: None}
        finally:
            process.kill()
            process.wait()
        del server
