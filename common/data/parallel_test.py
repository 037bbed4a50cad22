"""Tests of common.parallel."""

import contextlib
import os
import time

import pytest

from common.data import parallel
from common.errors import UserError


def _square(x):
    return x * x


def _wait_to_be_stopped(started, stopped):
    if started is None:
        return
    open(started, "w").close()
    while not parallel.stopping():
        time.sleep(0.01)
    open(stopped, "w").close()


def _fail():
    raise OSError("disk on fire")


def _die():
    os._exit(1)


def test_results_of_all_tasks():
    results = dict(parallel.run(_square, {f"t{i}": (i,) for i in range(50)}, 2))
    assert results == {f"t{i}": i * i for i in range(50)}
    assert not parallel.stopping()


def test_error_of_a_task():
    with pytest.raises(OSError, match="disk on fire"):
        list(parallel.run(_fail, {"a": (), "b": ()}, 1))


def test_closing_early_stops_running_tasks(tmp_path):
    started, stopped = tmp_path / "started", tmp_path / "stopped"
    tasks = {"at once": (None, None), "wait": (str(started), str(stopped))}
    with contextlib.closing(parallel.run(_wait_to_be_stopped, tasks, 2)) as results:
        assert next(results) == ("at once", None)
        while not started.exists():
            time.sleep(0.01)
        assert not stopped.exists()
    assert stopped.exists()


def test_killed_worker():
    with pytest.raises(UserError, match="worker process was killed"):
        list(parallel.run(_die, {"a": ()}, 1))
