"""Signals while steps run, before the first one, twice, and to one of several processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
from helpers import ROOT

from common.hooks import interruption
from common.runtime import tf

# Trains alone, or with STOP_FILE in step with others; a "hanging" step computes for ever.
_PROGRAM = """
import os, sys, time
from common.hooks import interruption
from common.runtime import tf

stopper = interruption.Stopper()
stop_file, hangs = os.environ.get("STOP_FILE"), len(sys.argv) > 1

def wait():
    print("step", flush=True)
    time.sleep(0.05)
    return 0

with stopper.listening():
    step = tf.train.get_or_create_global_step()
    with tf.control_dependencies([tf.py_func(wait, [], tf.int64)]):
        train = step.assign_add(1)
    if hangs:
        with tf.control_dependencies([train]):
            train = tf.FIFOQueue(1, tf.int32).dequeue()
    print("ready", flush=True)
    hook = interruption.StopHook(stopper, stop_file)
    with tf.train.MonitoredTrainingSession(hooks=[hook]) as session:
        while not session.should_stop():
            number = session.run(train)
    print(stopper.name, "after step", number, flush=True)
    sys.exit(interruption.EXIT_STATUS)
"""


def _start(*arguments, ignored=(), **options):
    def set_signals():  # The tests may run in the background, where a shell ignores SIGINT.
        for number in interruption.SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        cwd=ROOT,
        preexec_fn=set_signals,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def _wait_for(stream, text):
    """Reads what a process writes, up to the line that has a text in it."""
    read = b""
    for line in stream:
        read += line
        if text in line:
            return
    raise AssertionError(f"The process ended without {text}: {read.decode()}")


def test_first_signal_ends_in_order():
    for number in interruption.SIGNALS:
        process = _start()
        _wait_for(process.stdout, b"step")
        process.send_signal(number)
        output, log = process.communicate(timeout=600)
        assert process.returncode == interruption.EXIT_STATUS
        assert output.splitlines()[-1].startswith(signal.Signals(number).name.encode())
        assert b"stopping after this step" in log


def test_second_signal_ends_at_once_even_inside_a_step():
    process = _start("hangs")
    _wait_for(process.stdout, b"step")
    process.send_signal(signal.SIGTERM)
    _wait_for(process.stderr, b"stopping after this step")
    time.sleep(interruption._TOGETHER_SECONDS)
    assert process.poll() is None  # The step is not at its end.
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 128 + signal.SIGTERM
    assert b"A second signal: ending at once." in process.stderr.read()


def test_signal_that_was_ignored_stays_ignored():
    process = _start(ignored=[signal.SIGINT])
    _wait_for(process.stdout, b"step")
    process.send_signal(signal.SIGINT)
    for _ in range(3):
        _wait_for(process.stdout, b"step")
    process.send_signal(signal.SIGTERM)
    output, log = process.communicate(timeout=600)
    assert output.splitlines()[-1].startswith(b"SIGTERM") and b"SIGINT" not in log


def test_another_thread_leaves_signals_alone():
    listened = []

    def listen():
        with interruption.Stopper().listening() as stopper:
            listened.append(stopper.name)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert listened == [None] and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("has_links, signalled", [(True, [1]), (True, [0, 1, 2]), (False, [1])])
def test_processes_that_train_together_stop_at_the_same_step(
    tmp_path, has_links, signalled, monkeypatch
):
    """Some of three get the signal; they are in step, as they are when gradients are averaged."""
    if not has_links:
        monkeypatch.setattr(os, "link", mock.Mock(side_effect=PermissionError("no links here")))
    stop_file = str(tmp_path / "stop")
    with open(stop_file, "w") as f:
        f.write("1")  # Of an earlier run.
    stoppers = [interruption.Stopper() for _ in range(3)]
    hooks = [interruption.StopHook(stopper, stop_file) for stopper in stoppers]
    for hook in hooks:
        hook.begin()
    stopped = {}
    for run in range(1, 20):
        if run == 4:
            for i in signalled:
                stoppers[i].name = "SIGTERM"
        for i, hook in enumerate(hooks):
            context = tf.train.SessionRunContext(None, None)
            hook.after_run(context, tf.train.SessionRunValues(None, None, None))
            if context.stop_requested:
                stopped.setdefault(i, run)
    assert stopped == {0: 6, 1: 6, 2: 6}
    assert os.listdir(str(tmp_path)) == ["stop"]
    for i, stopper in enumerate(stoppers):
        assert stopper.name == ("SIGTERM" if i in signalled else "a signal to another process")
        assert stopper.ended_training
