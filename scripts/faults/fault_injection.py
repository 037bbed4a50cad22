#!/usr/bin/env python
"""Trains the quick start under a random schedule of faults, and reports what each of them cost.

    python scripts/faults/fault_injection.py --kills=50 --terms=10 --truncations=5 --full_disks=3

Each fault has a random step of the training. When the log shows that step, and after a random part
of the time until the next checkpoint, the fault happens and the same command is started again:

  SIGKILL      the process ends without a word
  SIGTERM      the process finishes its step, saves, and ends with status 75
  truncation   SIGKILL, and a file of the newest checkpoint, or the state file, is cut off
  full disk    nothing more can be written, until the process has ended

For full disks the model directory is a small tmpfs, where mounting one is allowed; else the
processes get a limit on the size of their files (RLIMIT_FSIZE). The same training without faults
is run too, for its accuracy. Ends with status 1 unless training completed, no checkpoint that was
not cut off was unreadable, SIGTERM lost no step and every other fault at most the steps since the
checkpoint before it. Flags after `--` go to amoeba_net.py.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Optional

import tqdm

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from common import results
from common.arguments import integer
from common.checkpoints import reading, selection
from common.hooks import interruption
from common.runtime import tf
from scripts import make_digits

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KINDS = ("SIGKILL", "SIGTERM", "truncation", "full disk")
_EXPECTED_STATUS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": interruption.EXIT_STATUS,
    "truncation": -signal.SIGKILL,
    "full disk": 1,
}
# Room for the checkpoints, and for what each start adds to the event files: a copy of the graph.
_TMPFS_BYTES = 256 << 20
_TMPFS_BYTES_A_START = 8 << 20
_LIMIT_BYTES = 64 << 10  # Less than any checkpoint's data.
_PATIENCE_SECONDS = 600
_STEP_LINE = re.compile(r"INFO:tensorflow:loss = \S+, step = \d+")
_RESTORED = re.compile(r"INFO:tensorflow:Restoring parameters from \S+-(\d+)\n")


class Life(NamedTuple):
    """One process: what ended it, from which step to which, and what it cost."""

    fault: Optional[str]
    status: int
    first_step: int
    last_step: int
    checkpoint: int  # Step of the newest whole checkpoint afterwards.
    unreadable: int  # Checkpoints that a state file named and that were damaged by no fault.
    seconds: float

    @property
    def lost(self) -> int:
        # A step is saved before the log shows it.
        return max(0, self.last_step - self.checkpoint)


def main(argv=None):
    arguments = parse_arguments(argv)
    rng = random.Random(arguments.seed)
    data = os.path.join(arguments.output, "digits")
    make_digits.make_digits(data)
    directory = os.path.join(arguments.output, "faults")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    faults = schedule(arguments, rng)
    disk_bytes = _TMPFS_BYTES + len(faults) * _TMPFS_BYTES_A_START
    with small_disk(directory, disk_bytes if arguments.full_disks else 0) as fills:
        trainer = Trainer(arguments, data, directory, rng, fills)
        lives = [trainer.live(*fault) for fault in tqdm.tqdm(faults, unit="start")]
        lives.append(trainer.live(None, None))
        final = results.read_results(trainer.model_dir)[-1] if lives[-1].status == 0 else None
    undisturbed = None
    if arguments.undisturbed:
        undisturbed = train_undisturbed(arguments, data)
    report = summarize(lives, final, undisturbed, arguments)
    with open(os.path.join(arguments.output, "faults.json"), "w") as file:
        json.dump({"lives": [life._asdict() for life in lives], **report}, file, indent=1)
    print_report(report, fills)
    sys.exit(0 if report["as_promised"] else 1)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=integer(0), default=50)
    parser.add_argument("--terms", type=integer(0), default=10)
    parser.add_argument("--truncations", type=integer(0), default=5)
    parser.add_argument("--full_disks", type=integer(0), default=3)
    parser.add_argument(
        "--seed", type=integer(0), default=1, help="of the schedule and of the training"
    )
    parser.add_argument("--interval", type=integer(1), default=2, help="steps between checkpoints")
    parser.add_argument("--steps", type=integer(3), default=276, help="steps of the training")
    parser.add_argument("--batch_size", type=integer(1), default=64)
    parser.add_argument("--output", default=os.path.join(ROOT, "quickstart_run", "faults"))
    parser.add_argument("--undisturbed", type=int, default=1, help="0: without the comparison")
    parser.add_argument("flags", nargs="*", help="of amoeba_net.py, after --")
    return parser.parse_args(argv)


def schedule(arguments, rng: random.Random) -> List[tuple]:
    """(kind, step) of each fault, by step; kinds and steps are drawn independently."""
    counts = (arguments.kills, arguments.terms, arguments.truncations, arguments.full_disks)
    kinds = [kind for kind, count in zip(KINDS, counts) for _ in range(count)]
    rng.shuffle(kinds)
    return list(zip(kinds, sorted(rng.randrange(1, arguments.steps - 1) for _ in kinds)))


def command(arguments, data: str, model_dir: str) -> List[str]:
    return [
        *[sys.executable, os.path.join(ROOT, "amoeba_net.py")],
        f"--flagfile={os.path.join(ROOT, 'scripts', 'quickstart.flags')}",
        *[f"--data_dir={data}", f"--model_dir={model_dir}", f"--random_seed={arguments.seed}"],
        *[f"--train_batch_size={arguments.batch_size}", f"--train_steps={arguments.steps}"],
        *[f"--save_checkpoints_steps={arguments.interval}", "--log_steps=1", *arguments.flags],
    ]


class Trainer:
    """Starts the training again and again."""

    def __init__(self, arguments, data: str, directory: str, rng: random.Random, fills: bool):
        self.model_dir = os.path.join(directory, "model")
        self._command = command(arguments, data, self.model_dir)
        self._log = os.path.join(arguments.output, "faults.log")
        self._rng = rng
        self._interval = arguments.interval
        self._fills = fills
        self._filler = os.path.join(directory, "filler")
        self._lives = 0

    def live(self, fault: Optional[str], step: Optional[int]) -> Life:
        """One process until its fault at a step, or until its end."""
        started = time.monotonic()
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_limit_files if fault == "full disk" and not self._fills else None,
            )
        if fault and self._wait_for_step(process, step):
            self._inject(fault, process)
        try:
            status = process.wait(timeout=_PATIENCE_SECONDS)
        finally:  # Nothing of it stays where it hangs, or where this program is interrupted.
            process.kill()
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._filler)
        first, steps = read_log(self._log)
        unreadable = 0
        if fault == "truncation":
            self._truncate()
        else:
            named = tf.train.latest_checkpoint(self.model_dir)
            unreadable = int(bool(named and reading.problem(named)))
        latest = selection.latest(self.model_dir)
        life = Life(
            fault=fault,
            status=status,
            first_step=first,
            last_step=first + steps,
            checkpoint=reading.global_step(latest) if latest else 0,
            unreadable=unreadable,
            seconds=round(time.monotonic() - started, 1),
        )
        self._lives += 1
        tqdm.tqdm.write(f"{self._lives}: {fault or 'to the end'}, {life}")
        if status != (_EXPECTED_STATUS[fault] if fault else 0):
            with open(self._log, errors="replace") as log:
                print(log.read()[-2000:], flush=True)
        return life

    def _wait_for_step(self, process, step: int) -> bool:
        """Waits until the log shows a step, or any at all; returns whether the process lives."""
        seconds, last = 0.0, time.monotonic()
        while process.poll() is None:
            first, steps = read_log(self._log)
            if steps and first + steps >= step:
                time.sleep(self._rng.uniform(0.0, max(0.2, seconds) * self._interval))
                return process.poll() is None
            if not steps:
                last = time.monotonic()
            else:
                seconds = (time.monotonic() - last) / steps
            time.sleep(0.02)
        return False

    def _inject(self, fault: str, process):
        if fault == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        elif fault != "full disk":
            process.send_signal(signal.SIGKILL)
        elif self._fills:
            _fill(self._filler)

    def _truncate(self):
        """Cuts off a file of the newest checkpoint, or the file that names it."""
        newest = selection.latest(self.model_dir)
        if newest:
            files = [f"{newest}.index", f"{newest}.data-00000-of-00001"]
            path = self._rng.choice([*files, os.path.join(self.model_dir, "checkpoint")])
            with open(path, "r+b") as file:
                file.truncate(int(self._rng.random() * os.path.getsize(path)))
            reading.forget()


def read_log(path: str) -> tuple:
    """(step that training went on from, steps since) in the log of one process."""
    with open(path, errors="replace") as file:
        text = file.read()
    restored = _RESTORED.search(text)
    return int(restored.group(1)) if restored else 0, len(_STEP_LINE.findall(text))


def _limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LIMIT_BYTES, _LIMIT_BYTES))


def _fill(path: str):
    """Writes until the disk is full."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@contextlib.contextmanager
def small_disk(directory: str, size: int):
    """Mounts a tmpfs of `size` bytes on a directory, if not 0 and allowed; yields whether."""
    mounted = False
    if size:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory]
        mounted = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", directory], check=True)


def train_undisturbed(arguments, data: str) -> Dict[str, object]:
    """The last evaluation of the same training without faults."""
    model_dir = os.path.join(arguments.output, "undisturbed")
    shutil.rmtree(model_dir, ignore_errors=True)
    with open(os.path.join(arguments.output, "undisturbed.log"), "wb") as log:
        subprocess.run(
            command(arguments, data, model_dir), stdout=log, stderr=subprocess.STDOUT, check=True
        )
    return results.read_results(model_dir)[-1]


def summarize(lives: List[Life], final, undisturbed, arguments) -> Dict[str, object]:
    """The figures of the report, as types JSON has."""
    table = {}
    for kind in KINDS:
        those = [life for life in lives if life.fault == kind]
        if those:
            table[kind] = {
                "injected": sum(life.status == _EXPECTED_STATUS[kind] for life in those),
                "planned": len(those),
                "most_steps_lost": max(life.lost for life in those),
                "steps_lost": sum(life.lost for life in those),
                "images_repeated": arguments.batch_size * sum(life.lost for life in those),
            }
    unreadable = sum(life.unreadable for life in lives)
    step = final["global_step"] if final else None
    return {
        "table": table,
        "processes": len(lives),
        "final_step": step,
        "planned_step": arguments.steps,
        "unreadable_checkpoints": unreadable,
        "accuracy": final and final["metrics"]["top_1_accuracy"],
        "undisturbed_accuracy": undisturbed and undisturbed["metrics"]["top_1_accuracy"],
        "as_promised": step == arguments.steps
        and not unreadable
        and all(
            row["injected"] == row["planned"]
            and row["most_steps_lost"] <= allowed_loss(kind, arguments.interval)
            for kind, row in table.items()
        ),
    }


def allowed_loss(kind: str, interval: int) -> int:
    """Steps that a fault may cost: those since a checkpoint; after a truncation, the one before."""
    return {"SIGTERM": 0, "truncation": 2 * interval}.get(kind, interval)


def print_report(report: Dict[str, object], fills: bool):
    print(f"\n{'fault':12}{'injected':>10}{'steps lost':>12}{'most':>6}{'images repeated':>17}")
    for kind, row in report["table"].items():
        print(
            f"{kind:12}{row['injected']:>10}{row['steps_lost']:>12}{row['most_steps_lost']:>6}"
            f"{row['images_repeated']:>17}"
        )
    if "full disk" in report["table"]:
        print(f"Full disk: {'a small tmpfs' if fills else 'a limit on the size of files'}.")
    print(f"Processes: {report['processes']}, the last one ended training at step "
          f"{report['final_step']} of {report['planned_step']}.")  # fmt: skip
    print(f"Unreadable checkpoints: {report['unreadable_checkpoints']}.")
    print(f"Top-1: {report['accuracy']}, undisturbed {report['undisturbed_accuracy']}.")
    print("As promised." if report["as_promised"] else "NOT as promised.")


if __name__ == "__main__":
    main()
