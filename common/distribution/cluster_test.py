import json
import os
import socket

import pytest

from common.distribution import cluster, peers
from common.errors import UserError
from common.hooks import interruption


def _config(jobs, job="worker", index=0):
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


def test_chief_is_first_and_the_evaluator_has_no_rank():
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"], "evaluator": ["a:2"]}
    found = cluster.parse(_config(jobs, "worker", 1))
    assert found.tasks == [("chief", 0), ("worker", 0), ("worker", 1)]
    assert found.addresses == ["a:1", "b:1", "c:1"]
    assert (found.rank, found.others, found.has_evaluator) == (2, [0, 1], True)
    assert found.name(0) == "chief (a:1)" and found.name(2) == "worker 1 (c:1)"
    assert cluster.parse(_config(jobs, "evaluator")).rank is None
    assert cluster.parse(_config({"worker": ["a:1"]}, "evaluator")).rank is None


def test_everybody_is_watched_by_the_chief_and_the_chief_by_everybody():
    found = cluster.parse(_config({"worker": ["a:1", "b:1", "c:1"]}))
    assert [found.watched_by(rank) for rank in range(3)] == [[1, 2], [0], [0]]


def test_tf_config_is_out_of_the_environment_but_for_training(monkeypatch):
    text = _config({"worker": ["a:1", "b:1"], "evaluator": ["a:2"]}, "worker", 1)
    monkeypatch.setenv("TF_CONFIG", text)
    found = cluster.from_environment()
    assert "TF_CONFIG" not in os.environ
    with found.in_environment():
        assert json.loads(os.environ["TF_CONFIG"]) == {
            "cluster": {"worker": ["a:1", "b:1"]},
            "task": {"type": "worker", "index": 1},
        }
    assert "TF_CONFIG" not in os.environ
    for none in ("", "{}", '{"cluster": {}}'):
        monkeypatch.setenv("TF_CONFIG", none)
        assert cluster.from_environment() is None


def test_connections_between_the_processes_go_through_no_proxy(monkeypatch):
    found = cluster.parse(_config({"worker": ["a:1", "b:1", "[::1]:1"]}))
    monkeypatch.setenv("NO_PROXY", "upper")
    for lower, expected in (("elsewhere,*.b", "elsewhere,*.b,"), ("", "upper,")):
        monkeypatch.setenv("no_proxy", lower)
        with found.in_environment():
            assert dict(os.environ)["no_proxy"] == f"{expected}a,b,::1"
        assert dict(os.environ)["no_proxy"] == lower
    monkeypatch.setenv("no_grpc_proxy", "first")
    with found.in_environment():
        assert dict(os.environ)["no_grpc_proxy"] == "first,a,b,::1"


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "TF_CONFIG is not JSON (Expecting property name"),
        ("[" * 100_000, "TF_CONFIG is not JSON (it is nested too deeply)"),
        (_config({"worker": ["a:1"]}, ["worker"]), 'the type of "task" is "[\'worker\']"'),
        (_config({"worker": ["a:1"]}, index="\u00b2"), 'the index of "task" is \u00b2, and'),
        (_config({"worker": ["a:1"]}, index="9" * 5000), 'the index of "task" is 99999'),
        ("[]", "TF_CONFIG has no JSON object of jobs: expected something like"),
        ('{"cluster": ["a:1"]}', "TF_CONFIG has no JSON object of jobs"),
        (_config({"ps": ["a:1"], "worker": ["b:1"]}), "unknown job 'ps'; expected chief, worker"),
        (_config({"worker": "a:1"}), "expected a list of addresses of worker, got 'a:1'"),
        (_config({"worker": ["a"]}), "the address of worker 0 is 'a'; expected host:port"),
        (_config({"worker": ["a:70000"]}), "is 'a:70000'; expected host:port, with a port of 1"),
        (_config({"worker": [7]}), "the address of worker 0 is 7; expected host:port"),
        (
            _config({"chief": ["a:1"], "worker": ["b:1", "a:1"]}),
            "chief 0 and worker 1 have the same address, a:1",
        ),
        (_config({"chief": ["a:1", "b:1"]}, "chief"), "lists 2 of chief; there can be one only"),
        (_config({"evaluator": ["a:1"]}, "evaluator"), "lists no process that trains"),
        ('{"cluster": {"worker": ["a:1"]}}', 'does not say which "task" this process is'),
        (_config({"worker": ["a:1"]}, "chief"), "is 'chief'; expected one of worker"),
        (_config({"worker": ["a:1"]}, "worker", 1), 'the index of "task" is 1, and worker has 1'),
        (_config({"worker": ["a:1"]}, "worker", -1), 'the index of "task" is -1'),
    ],
)
def test_wrong_tf_config_is_told_in_a_sentence(text, message):
    with pytest.raises(UserError) as error:
        cluster.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def port_in_use():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_port_in_use(port_in_use):
    found = cluster.parse(_config({"worker": [f"localhost:{port_in_use}", "b:1"]}))
    with pytest.raises(UserError, match=f"Port {port_in_use}, which TF_CONFIG gives to worker 0"):
        cluster.check_own_port(found)


def test_waits_for_those_who_come_and_names_who_does_not(port_in_use):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # Nobody listens there.
        gone = f"127.0.0.1:{free.getsockname()[1]}"
        there = f"127.0.0.1:{port_in_use}"
        cluster.wait_for_others(cluster.parse(_config({"worker": ["a:1", there]})), timeout=0.5)
        with pytest.raises(UserError) as error:
            found = cluster.parse(_config({"worker": ["a:1", there, gone]}))
            cluster.wait_for_others(found, timeout=0.5)
    assert str(error.value).startswith(f"worker 2 ({gone}) did not come within 0.5 s")


def test_waiting_for_the_others_ends_by_a_signal():
    stopper = interruption.Stopper()
    stopper.name = "SIGTERM"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # Nobody listens there.
        jobs = {"worker": ["a:1", f"127.0.0.1:{free.getsockname()[1]}"]}
        with pytest.raises(interruption.Interrupted, match="Stopped by SIGTERM"):
            cluster.wait_for_others(cluster.parse(_config(jobs)), 5, stopper.check)


def test_a_lost_process_is_no_failure_of_ones_own():
    assert peers.LostPeerError("").exit_status == interruption.EXIT_STATUS


def test_no_host_has_such_a_name():
    assert not cluster.answers("a..b:2222")
