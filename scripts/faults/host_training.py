"""A training on hosts with addresses of their own (see network.py), as faults are done to it."""

import glob
import os
import re
import signal
import subprocess
import sys
import time
from typing import Dict, List, Optional

from scripts import launch_local
from scripts.faults.network import Network

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PORT = 2222
_PATIENCE_SECONDS = 300
_STEP = re.compile(r"INFO:tensorflow:Step (\d+) of ")
_RESTORED = re.compile(r"INFO:tensorflow:Restoring parameters from \S+-(\d+)\n")
FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
NETWORK = [
    *["--num_cells=2", "--reduction_size=4", "--stem_reduction_size=4", "--image_size=19"],
    *["--use_aux_head=False", "--accelerator=cpu", "--augment=False", "--train_batch_size=24"],
    *["--eval_batch_size=60", "--lr=0.05", "--lr_decay_method=constant", "--log_steps=1"],
]


class Training:
    """A training on all hosts of a network, which can be started again and again."""

    def __init__(self, network: Network, directory: str, flags: List[str]):
        self.network = network
        self.model_dir = os.path.join(directory, "model")
        os.makedirs(self.model_dir, exist_ok=True)
        self._directory = directory
        self._flags = flags
        self._starts = 0
        self.workers: List[launch_local.Process] = []
        self.evaluator: Optional[launch_local.Process] = None

    def start(self, train_steps: int, ahead: Optional[int] = None, evaluator: bool = True):
        """Starts all processes.

        Args:
            train_steps: the step at which training ends.
            ahead: the host whose clock is an hour ahead.
            evaluator: whether the last host evaluates, too.
        """
        self._starts += 1
        hosts = range(len(self.network.names))
        last = len(hosts) - 1
        addresses = [f"{self.network.address(host)}:{_PORT}" for host in hosts]
        cluster = {
            "worker": addresses,
            "evaluator": [f"{self.network.address(last)}:{_PORT + 1}"],
        }
        flags = [*self._flags, f"--model_dir={self.model_dir}", f"--train_steps={train_steps}"]
        log_dir = os.path.join(self._directory, f"start_{self._starts}")
        os.makedirs(log_dir)
        self.workers, self.evaluator = [], None

        def process(job, index, host):
            command = [*self._host_command(host, host == ahead), *flags]
            cores = os.sched_getaffinity(0)
            return launch_local.Process(command, cluster, job, index, log_dir, cores)

        for host in hosts:
            self.workers.append(process("worker", host, host))
        if evaluator:
            self.evaluator = process("evaluator", 0, last)

    def _host_command(self, host: int, ahead: bool) -> List[str]:
        """Runs the program on a host, for which the model directory is a mount of its own."""
        mount = 'mount --bind "$0" "$0" && exec "$@"'
        clock = []
        if ahead:
            (library,) = glob.glob(FAKETIME)
            clock = [
                "env",
                f"LD_PRELOAD={library}",
                "FAKETIME=+1h",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
            ]
        return [
            *self.network.command(host),
            *["bash", "-c", mount, self.model_dir, *clock],
            *[sys.executable, os.path.join(ROOT, "amoeba_net.py")],
        ]

    def make_read_only(self, host: int):
        """Makes the model directory read-only for one host's worker."""
        # A mount over the one that has open files, with which that cannot become read-only.
        for mount in (["--bind", self.model_dir], ["-o", "remount,bind,ro"]):
            enter = ["nsenter", "-t", str(self.workers[host].pid), "-m"]
            subprocess.run([*enter, "mount", *mount, self.model_dir], check=True)

    def step(self, host: int) -> int:
        """The last step in a worker's log; 0 if there is none."""
        with open(self.workers[host].log, errors="replace") as file:
            steps = _STEP.findall(file.read())
        return int(steps[-1]) if steps else 0

    def wait_for_step(self, step: int, since: Optional[float] = None) -> float:
        """Waits until all workers are at a step; returns the longest time between two steps.

        Args:
            step: the step.
            since: when the first of these times began (time.monotonic()); None for now.
        """
        longest, last, changed = 0.0, None, since or time.monotonic()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            steps = [self.step(host) for host in range(len(self.workers))]
            now = time.monotonic()
            if steps != last:
                longest = max(longest, now - changed) if last or since else 0.0
                last, changed = steps, now
            if min(steps) >= step:
                return longest
            statuses = [worker.status() for worker in self.workers]
            if any(status is not None for status in statuses) or now > deadline:
                lines = [worker.last_line() for worker in self.workers]
                raise RuntimeError(f"Waiting for step {step}: {steps}, {statuses}, {lines}")
            time.sleep(0.1)

    def wait_for_end(self, processes) -> Dict[str, float]:
        """Seconds until each process has ended by itself, by its name."""
        start, ended = time.monotonic(), {}
        while len(ended) < len(processes):
            now = time.monotonic() - start
            for process in processes:
                if process.status() is not None:
                    ended.setdefault(process.name, round(now, 1))
            if now > _PATIENCE_SECONDS:
                raise RuntimeError(f"Only {ended} have ended after {now:.0f} s.")
            time.sleep(0.05)
        return ended

    def restored_step(self) -> int:
        with open(self.workers[0].log, errors="replace") as file:
            found = _RESTORED.search(file.read())
        return int(found.group(1)) if found else 0

    def kill(self):
        """Kills what still runs."""
        for process in [*self.workers, self.evaluator]:
            if process:
                process.signal(signal.SIGKILL)
                while process.status() is None:
                    time.sleep(0.05)
