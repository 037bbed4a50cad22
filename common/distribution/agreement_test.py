import json
import socket

import pytest

from common.distribution import agreement, cluster, peers
from common.errors import UserError
from common.runtime import tf
from scripts import launch_local

_THREE = cluster.parse(
    '{"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 0}}'
)


def test_differences_name_the_setting_both_values_and_both_processes():
    same = {"--lr": 0.1, "--seed": None}
    assert agreement.differences(_THREE, {0: same, 1: same, 2: dict(same)}) == ""
    message = agreement.differences(_THREE, {0: same, 1: same, 2: {"--lr": 0.2, "--new": 1}})
    assert message == (
        "The processes differ: --lr is 0.1 for worker 0 (a:1), 0.2 for worker 2 (c:1); "
        "--new is missing for worker 0 (a:1), 1 for worker 2 (c:1); "
        "--seed is None for worker 0 (a:1), missing for worker 2 (c:1). "
        "Start all of them with the same flags, code, and data."
    )


def test_a_long_list_of_differences_is_cut_short():
    chief, other = ({f"--{i}": value for i in range(8)} for value in "ab")
    message = agreement.differences(_THREE, {0: chief, 1: chief, 2: other})
    assert "--4 is a for worker 0 (a:1), b for worker 2 (c:1); and 3 more. Start" in message


def test_digest_of_code_sees_modules_but_no_tests(tmp_path):
    tmp_path = tmp_path / "[a]"
    (tmp_path / "common" / "data").mkdir(parents=True)
    (tmp_path / "a.py").write_text("1")
    empty = agreement.digest_of_code(str(tmp_path))
    (tmp_path / "a_test.py").write_text("1")
    assert agreement.digest_of_code(str(tmp_path)) == empty
    (tmp_path / "common" / "data" / "b.py").write_text("1")
    assert agreement.digest_of_code(str(tmp_path)) != empty


def test_a_process_that_is_lost_before_the_training_is_named(monkeypatch):
    monkeypatch.setattr(peers, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(peers, "_LOST_AFTER_SECONDS", 0.5)
    with launch_local.held_ports(2) as ports:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        task = {"type": "worker", "index": 0}
        two = cluster.parse(json.dumps({"cluster": {"worker": addresses}, "task": task}))
        server = tf.train.Server(two.specification(), job_name="worker", task_index=0)
        with pytest.raises(peers.LostPeerError, match=r"worker 1 .* does not answer any more"):
            agreement.check(two, {}, timeout=600)
        del server


def test_another_program_that_has_the_port_of_a_process():
    with launch_local.held_ports(1) as (port,), socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        addresses = [f"127.0.0.1:{other.getsockname()[1]}", f"127.0.0.1:{port}"]
        task = {"type": "worker", "index": 1}
        two = cluster.parse(json.dumps({"cluster": {"worker": addresses}, "task": task}))
        server = tf.train.Server(two.specification(), job_name="worker", task_index=1)
        with pytest.raises(UserError, match="could not compare their settings within 1 s"):
            agreement.check(two, {}, timeout=1)
        del server
