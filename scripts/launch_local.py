#!/usr/bin/env python
"""Starts a training of several processes on this machine, to try it out.

    python scripts/launch_local.py --workers=2 --evaluator -- --mode=train_and_eval \
        --data_dir=DATA --model_dir=MODEL

What follows -- goes to every process's amoeba_net.py. Each gets its TF_CONFIG, with ports of the
loopback address, and writes to its own file in --log_dir. As soon as one fails the others are
ended too. If it was killed, or lost another one, all are started again, up to --max_restarts
times, and go on from the last checkpoint. The exit status is that of the process for which the
others failed, 0 if none did.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# EX_TEMPFAIL: a process was stopped by a signal, or lost another one; it can be started again.
TEMPORARY_FAILURE = 75
# With a checkpoint behind it; after as long without a step, processes end by themselves.
_LONGEST_STEP_SECONDS = 600
_PR_SET_PDEATHSIG = 1


class Process:
    """One of the processes of a training.

    Attributes:
        name: like 'worker 1'.
        pid: its number.
        log: path of the file it writes to.
    """

    def __init__(self, command, cluster, job, index, log_dir, cores):
        self.name = f"{job} {index}"
        self.log = os.path.join(log_dir, f"{job}_{index}.log")
        self._program = f"{os.path.basename(command[1])}: "
        config = {"cluster": cluster, "task": {"type": job, "index": index}}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the launcher, which ends them in order.
                preexec_fn=_end_with_parent,
            )
        self.pid = self._process.pid
        os.sched_setaffinity(self.pid, cores)  # Before TensorFlow counts them.
        say(f"{self.name} is process {self.pid} and writes to {self.log}")

    def status(self):
        """Exit status as a shell has it, None while it runs."""
        status = self._process.poll()
        return 128 - status if status is not None and status < 0 else status

    def signal(self, number):
        if self._process.poll() is None:
            self._process.send_signal(number)

    def last_line(self):
        """What it said last: the sentence with the reason of its end, if there is one."""
        with open(self.log, "rb") as log:
            log.seek(max(0, os.path.getsize(self.log) - 4096))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line]
        # TensorFlow's threads may log something after it.
        sentences = [line for line in lines[-20:] if line.startswith(self._program)]
        return (sentences or lines or [""])[-1]


def _cores(rank, count):
    """The cores of a process, where each has a number of its own as far as they go."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[(rank * count + i) % len(cores)] for i in range(count)} or set(cores)


def _end_with_parent():
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(argv=None):
    arguments = parse_arguments(argv)
    os.makedirs(arguments.log_dir, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    for attempt in range(arguments.max_restarts + 1):
        status, again = run_once(arguments)
        if status == 0:
            say("all processes have ended well")
            return
        if not again or attempt == arguments.max_restarts:
            break
        say(f"starting all processes again ({attempt + 1} of {arguments.max_restarts})")
    sys.exit(status)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", 1)[0],
        epilog="What follows -- goes to the program.",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that train (2)")
    parser.add_argument("--evaluator", action="store_true", help="and one that evaluates")
    parser.add_argument("--max_restarts", type=int, default=0, help="times to start again (0)")
    parser.add_argument("--log_dir", default="output/local", help="where to log (output/local)")
    parser.add_argument("--port", type=int, help="first port; free ones if not given")
    parser.add_argument("--cores", type=int, default=0, help="of each process; 0: all for all (0)")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds to end by itself (20)")
    parser.add_argument("--program", default=os.path.join(_ROOT, "amoeba_net.py"))
    parser.add_argument("flags", nargs="*", help="flags of the program, after --")
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error(f"--workers={arguments.workers}: expected 1 or more.")
    if arguments.max_restarts < 0:
        parser.error(f"--max_restarts={arguments.max_restarts}: expected 0 or more.")
    return arguments


def run_once(arguments):
    """(status, whether to start again) of one start of all processes."""
    with held_ports(arguments.workers + arguments.evaluator, arguments.port) as ports:
        processes = start(arguments, ports)
        try:
            failed = wait(processes)
            if not failed:
                return 0, False
            say(f"{failed.name} ended with status {failed.status()}: {failed.last_line()}")
            end(processes, arguments.grace)
        except KeyboardInterrupt:
            say("interrupted: all processes end after their step; once more ends them at once")
            with contextlib.suppress(KeyboardInterrupt):
                end(processes, _LONGEST_STEP_SECONDS, [signal.SIGTERM])
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            end(processes, arguments.grace, [signal.SIGTERM, signal.SIGKILL])
            return 130, False
    # What fails on its own fails again, and others with it. Those that are ended count as killed.
    as_consequences = {None, 0, TEMPORARY_FAILURE, *range(129, 256)}
    on_their_own = [p for p in processes if p.status() not in as_consequences]
    if on_their_own and failed not in on_their_own:
        failed = on_their_own[0]
        say(f"{failed.name} ended with status {failed.status()}: {failed.last_line()}")
    all_ended = all(process.status() is not None for process in processes)
    return failed.status(), all_ended and not on_their_own


@contextlib.contextmanager
def held_ports(count, first=None):
    """Ports of the loopback address, from `first` on if that is given.

    Otherwise they are free ones, which the system gives to nobody else within the context. The
    processes can listen on them all the same, since these sockets do not, and share the address.
    """
    if first:
        yield range(first, first + count)
        return
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
        yield [held.getsockname()[1] for held in sockets]


def start(arguments, ports):
    jobs = [("worker", i) for i in range(arguments.workers)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports[: arguments.workers]]}
    if arguments.evaluator:
        jobs.append(("evaluator", 0))
        cluster["evaluator"] = [f"127.0.0.1:{ports[-1]}"]
    command = [sys.executable, arguments.program, *arguments.flags]
    return [
        Process(command, cluster, *job, arguments.log_dir, _cores(rank, arguments.cores))
        for rank, job in enumerate(jobs)
    ]


def wait(processes):
    """Waits until all have ended well (None) or one has not (that one)."""
    while True:
        statuses = [process.status() for process in processes]
        failed = [p for p, status in zip(processes, statuses) if status not in (None, 0)]
        if failed:  # Those that lost another one ended after that one did.
            return min(failed, key=lambda process: process.status() == TEMPORARY_FAILURE)
        if all(status == 0 for status in statuses):
            return None
        time.sleep(0.2)


def end(processes, grace, signals=(None, signal.SIGTERM, signal.SIGKILL)):
    """Ends what still runs: first they may see themselves that one is lost, then they must."""
    for number in signals:
        for process in processes:
            if number:
                process.signal(number)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            if all(process.status() is not None for process in processes):
                return
            time.sleep(0.2)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def say(text):
    print(f"launch_local.py: {text}", flush=True)


if __name__ == "__main__":
    main()
