#!/usr/bin/env python
"""Trains on hosts with addresses of their own, and reports what faults of hosts and links do.

    python scripts/faults/hosts.py --hosts=2 --seed=1

The hosts are network namespaces of this machine (see network.py), share its file system, and each
trains; the last one also evaluates. This needs root. A fault comes at a random step, to a random
host. After it, the training either goes on, or all processes end and are started again. In the
end, the training must have reached its planned step, and no process may be left. Ends with status
1 unless each fault ended as it should. Flags after `--` go to amoeba_net.py.
"""

import argparse
import glob
import os
import random
import shutil
import signal
import sys
import time
from typing import Dict, List, NamedTuple, Optional

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from common import results
from common.arguments import integer
from common.checkpoints import reading, selection
from scripts import launch_local, make_digits
from scripts.faults.host_training import FAKETIME, NETWORK, Training
from scripts.faults.network import Cable, Network, missing

# A link that is bad for so many steps, and is good again.
_BAD_LINKS = {
    "delay of 100 ms": Cable(delay=0.1),
    "2 % of the frames lost": Cable(loss=0.02),
    "1 Mbit/s": Cable(bits_per_second=1e6),
}
_STEPS_WITH_FAULT = 20
_ENDLESS = 10_000_000
_CLOCK = "clock an hour ahead"
GOING_ON = (
    "link cut for 5 s",
    *_BAD_LINKS,
    "process stopped for 5 s",
    _CLOCK,
    "directory read-only on a worker",
)
ENDING = (
    "directory read-only on the chief",
    "link cut for ever",
    "host lost",
    "process killed",
    "process stopped, later continued",
)
_KILLING = ("host lost", "process killed")


class Found(NamedTuple):
    """What a fault did.

    Attributes:
        goes_on: whether training went on.
        pause: the longest time without a step, in seconds, if it went on.
        ended_after: seconds until each process had ended, by its name, if it did not.
        statuses, last_lines: of the processes, if they ended.
        steps_lost: steps that had to be trained again.
    """

    fault: str
    victim: str
    goes_on: bool
    pause: Optional[float]
    ended_after: Dict[str, float]
    statuses: Dict[str, int]
    last_lines: Dict[str, str]
    steps_lost: int = 0


def main(argv=None):
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # After the clean-up.
    reason = missing()
    if reason:
        sys.exit(f"hosts.py: {reason}.")
    data = os.path.join(arguments.output, "digits")
    make_digits.make_digits(data)
    directory = os.path.join(arguments.output, "hosts")
    shutil.rmtree(directory, ignore_errors=True)
    flags = [
        *["--mode=train_and_eval", f"--data_dir={data}", *NETWORK],
        *[f"--random_seed={arguments.seed}", f"--save_checkpoints_steps={arguments.interval}"],
        *[f"--stall_timeout={arguments.stall_timeout}", *arguments.flags],
    ]
    rng = random.Random(arguments.seed)
    with Network(arguments.hosts, arguments.seed) as network:
        training = Training(network, directory, flags)
        try:
            faults = Faults(training, rng, evaluates=not arguments.restarts)
            chosen = arguments.faults or ([] if arguments.restarts else default_faults())
            for fault in chosen + ["process killed"] * arguments.restarts:
                faults.do(fault)
            as_promised = faults.finish()
        finally:
            training.kill()
        left = [network.processes(host) for host in range(arguments.hosts)]
    print_report(faults.found, arguments)
    as_promised = as_promised and not any(left) and all(map(is_as_promised, faults.found))
    print("As promised." if as_promised else f"NOT as promised; processes left: {left}.")
    sys.exit(0 if as_promised else 1)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument(
        "--output",
        default="output/hosts",
        type=os.path.abspath,  # What enters a host's name space starts at the root.
        help="where to write (output/hosts)",
    )
    parser.add_argument(
        "--hosts", type=integer(1), default=2, choices=[2, 3], help="number of hosts that train (2)"
    )
    parser.add_argument("--seed", type=integer(0), default=1)
    parser.add_argument("--faults", action="append", choices=(*GOING_ON, *ENDING), help="(all)")
    parser.add_argument(
        "--restarts", type=integer(0), default=0, help="only kill so many processes (0)"
    )
    parser.add_argument(
        "--interval", type=integer(1), default=20, help="steps between checkpoints (20)"
    )
    parser.add_argument("--stall_timeout", type=integer(1), default=20, help="of the training (20)")
    parser.add_argument("flags", nargs="*", help="flags of amoeba_net.py, after --")
    arguments = parser.parse_args(argv)
    if _CLOCK in (arguments.faults or ()) and not glob.glob(FAKETIME):
        parser.error(f"--faults={_CLOCK!r} needs Debian's package libfaketime.")
    return arguments


def default_faults() -> List[str]:
    faults = [*GOING_ON, *ENDING]
    if not glob.glob(FAKETIME):
        print("Skipped the clock: that needs Debian's package libfaketime.")
        faults.remove(_CLOCK)
    return faults


def is_as_promised(found: Found) -> bool:
    """Whether a fault ended as docs/faults.md says."""
    if found.goes_on:
        return True
    allowed = {launch_local.TEMPORARY_FAILURE}
    statuses = dict(found.statuses)
    victims = statuses.pop(found.victim)
    if found.fault in _KILLING:
        as_expected = victims == 128 + signal.SIGKILL
    elif found.fault == "directory read-only on the chief":
        as_expected = victims == 1
    else:
        as_expected = victims in allowed
    return as_expected and set(statuses.values()) == allowed


def print_report(found: List[Found], arguments):
    print(f"\n{arguments.hosts} hosts, seed {arguments.seed}.")
    print("| fault | host | what happens | seconds | steps lost |\n|---|---|---|---|---|")
    for one in found:
        if one.goes_on:
            print(f"| {one.fault} | {one.victim} | goes on | {one.pause} without a step | 0 |")
            continue
        ends = [f"{name}: status {status}" for name, status in sorted(one.statuses.items())]
        after = [f"{name}: {seconds}" for name, seconds in sorted(one.ended_after.items())]
        print(
            f"| {one.fault} | {one.victim} | {', '.join(ends)} | {', '.join(after)} "
            f"| {one.steps_lost} |"
        )


class Faults:
    """Does faults to a training, one after another, and keeps what they did."""

    def __init__(self, training: Training, rng: random.Random, evaluates: bool):
        self._training = training
        self._network = training.network
        self._rng = rng
        self._evaluates = evaluates
        self._last_step = 0
        self.found: List[Found] = []

    def do(self, fault: str):
        """One fault at a random step of a running training, or of one that is started for it."""
        training, size = self._training, len(self._network.names)
        victim = self._rng.randrange(size)
        if "on a worker" in fault:
            victim = size - 1
        elif "on the chief" in fault:
            victim = 0
        ahead = victim if fault.startswith("clock") else None
        if ahead is not None and training.workers:
            self._stop()
        if not training.workers:
            training.start(_ENDLESS, ahead, self._evaluates)
            training.wait_for_step(1)
            self._note_lost_steps()
        training.wait_for_step(training.step(0) + self._rng.randint(5, 60))
        if fault in ENDING:
            self._end(fault, victim)
        else:
            self._go_on(fault, victim)
        print(f"{self.found[-1]}", flush=True)

    def _note_lost_steps(self):
        """The step that training went on from says how many the fault before has cost."""
        if self.found and not self.found[-1].goes_on:
            lost = max(0, self._last_step - self._training.restored_step())
            self.found[-1] = self.found[-1]._replace(steps_lost=lost)

    def _go_on(self, fault: str, victim: int):
        training, worker = self._training, self._training.workers[victim]
        step, start = training.step(0), time.monotonic()
        if fault in _BAD_LINKS:
            self._network.cables[victim] = _BAD_LINKS[fault]
        elif fault == "link cut for 5 s":
            self._network.cables[victim] = Cable(cut=True)
            time.sleep(5)
            self._network.cables[victim] = Cable()
        elif fault == "process stopped for 5 s":
            worker.signal(signal.SIGSTOP)
            time.sleep(5)
            worker.signal(signal.SIGCONT)
        elif fault == "directory read-only on a worker":
            training.make_read_only(victim)
        pause = training.wait_for_step(step + _STEPS_WITH_FAULT, start)
        self._network.cables[victim] = Cable()
        training.wait_for_step(training.step(0) + _STEPS_WITH_FAULT)
        self.found.append(Found(fault, worker.name, True, round(pause, 1), {}, {}, {}))
        if fault.startswith(("clock", "directory")):
            self._stop()

    def _end(self, fault: str, victim: int):
        training, worker = self._training, self._training.workers[victim]
        others = [other for other in training.workers if other is not worker]
        cut = Cable(cut=True)
        if fault in ("link cut for ever", "host lost"):
            self._network.cables[victim] = cut
        if fault in _KILLING:
            worker.signal(signal.SIGKILL)
        elif fault.startswith("process stopped"):
            worker.signal(signal.SIGSTOP)
        elif fault.startswith("directory"):
            training.make_read_only(victim)
        self._last_step = max(training.step(host) for host in range(len(training.workers)))
        ended = {}
        if fault.startswith("process stopped"):  # The others end first.
            ended = training.wait_for_end(others)
            worker.signal(signal.SIGCONT)
            ended.update(training.wait_for_end([worker]))
        else:
            ended = training.wait_for_end(training.workers)
        statuses = {process.name: process.status() for process in training.workers}
        lines = {process.name: process.last_line() for process in training.workers}
        self._network.cables[victim] = Cable()
        self.found.append(Found(fault, worker.name, False, None, ended, statuses, lines))
        self._clear()

    def _stop(self):
        """Ends a training as a scheduler does; all stop at the same step, and save it."""
        self._training.workers[0].signal(signal.SIGTERM)
        self._training.wait_for_end(self._training.workers)
        statuses = [worker.status() for worker in self._training.workers]
        if statuses != [launch_local.TEMPORARY_FAILURE] * len(statuses):
            lines = [worker.last_line() for worker in self._training.workers]
            raise RuntimeError(f"After SIGTERM: {statuses}, {lines}")
        self._clear()

    def _clear(self):
        self._training.kill()  # The evaluator waits for the next start.
        self._training.workers = []

    def finish(self) -> bool:
        """Trains on to a planned step without faults; returns whether all end well there."""
        training = self._training
        if training.workers:
            self._stop()
        latest = selection.latest(training.model_dir)
        planned = (reading.global_step(latest) if latest else 0) + _STEPS_WITH_FAULT
        training.start(planned)
        processes = [*training.workers, training.evaluator]
        training.wait_for_end(processes)
        self._note_lost_steps()
        statuses = [process.status() for process in processes]
        last = results.read_results(training.model_dir)[-1]
        print(f"At the end: {statuses}, {last['kind']} of step {last['global_step']} of {planned}.")
        return not any(statuses) and (last["kind"], last["global_step"]) == ("eval", planned)


if __name__ == "__main__":
    main()
