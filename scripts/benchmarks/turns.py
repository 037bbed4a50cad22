"""Processes that measure in turns, so that whatever else the machine does slows all of them."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Optional


class Worker:
    """A process that answers with lines of JSON objects: one for each line it is sent.

    Between its turns it is stopped, since it would go on filling its buffers in others' time.

    Args:
        name: what it measures.
        command: its command; the environment has the time of its start, BENCHMARK_STARTED.
        pauses: whether it is stopped between its turns.
    """

    def __init__(self, name: str, command: List[str], pauses: bool = True):
        self._name = name
        self._pauses = pauses
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (see `end`)
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "BENCHMARK_STARTED": str(time.time()),
            "TF2_BEHAVIOR": "0",  # Newer releases set 1 for themselves, and older ones obey.
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            universal_newlines=True,
            bufsize=1,
            env={**os.environ, **environment},
        )

    def take_turn(self, line: str = "") -> dict:
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # It has ended: `answer` says why.
            self._process.stdin.write(f"{line}\n")
        return self.answer()

    def answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("{"):  # Others are some library's.
                if self._pauses:
                    self._process.send_signal(signal.SIGSTOP)
                return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        reason = "".join(self._errors.readlines()[-5:])
        program = os.path.basename(sys.argv[0])
        sys.exit(f"{program}: the process of {self._name} ended with status {status}:\n{reason}")

    def end(self):
        self._process.kill()
        self._process.wait()
        self._errors.close()


def serve(step: Callable[[], object], memory: Optional[Callable[[], float]] = None, **facts):
    """What a worker does: answers with `facts`, then takes turns, of as many steps as a line says.

    Args:
        step: what is measured.
        memory: the most memory so far, in MB; None for that of this process.
        facts: the first answer, which also has `first_step`: seconds from the worker's start.
    """
    memory = memory or peak_memory
    step()
    first_step = time.time() - float(os.environ["BENCHMARK_STARTED"])
    step()  # Allocations are settled after two.
    print(json.dumps({"first_step": first_step, **facts}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = (time.perf_counter() - started) / int(line)
        print(json.dumps({"seconds": seconds, "memory_mb": memory()}), flush=True)


@contextlib.contextmanager
def workers() -> Iterator[Dict[object, Worker]]:
    """A dict for workers, which are ended in the end."""
    found = {}
    try:
        yield found
    finally:
        for worker in found.values():
            worker.end()


def peak_memory() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
