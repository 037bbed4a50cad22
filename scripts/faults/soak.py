#!/usr/bin/env python
"""Trains for thousands of steps with checkpoints, evaluations, summaries, and watches the process.

    python scripts/faults/soak.py --steps=2000

Prints resident memory, open file handles, and what the model directory takes, once an interval, and
in the end the medians of the first and of the last quarter of the rows. Ends with status 1 if any
of them grows in the second half by more than a tenth (memory, disk) or by more than two (handles).
Flags after `--` go to amoeba_net.py.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from scripts import make_digits

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# A small network, since steps are what counts here.
_NETWORK = [
    *["--num_cells=2", "--reduction_size=4", "--stem_reduction_size=4", "--image_size=19"],
    *["--use_aux_head=False", "--augment=False", "--train_batch_size=16", "--eval_batch_size=60"],
    *["--optimizer=momentum", "--lr=0.1", "--lr_decay_method=cosine"],
]
_LOG_STEPS = 10
_COLUMNS = {1: "memory, MB", 2: "handles", 3: "checkpoints, MB", 4: "other files, MB"}
_STEP = re.compile(r"INFO:tensorflow:loss = \S+, step = (\d+)")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    # As many as between two evaluations: memory grows within each such round, and is then returned.
    parser.add_argument("--interval", type=int, default=180, help="steps between two rows")
    parser.add_argument("--output", default=os.path.join(ROOT, "quickstart_run", "soak"))
    parser.add_argument("flags", nargs="*", help="of amoeba_net.py, after --")
    arguments = parser.parse_args(argv)
    data = os.path.join(arguments.output, "digits")
    make_digits.make_digits(data)
    model_dir = os.path.join(arguments.output, "model")
    shutil.rmtree(model_dir, ignore_errors=True)
    log_path = os.path.join(arguments.output, "soak.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [
                *[sys.executable, os.path.join(ROOT, "amoeba_net.py"), "--mode=train_and_eval"],
                *[f"--data_dir={data}", f"--model_dir={model_dir}", *_NETWORK],
                *[f"--train_steps={arguments.steps}", "--num_epochs_per_eval=2"],
                *["--save_checkpoints_steps=20", f"--log_steps={_LOG_STEPS}", *arguments.flags],
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    rows = watch(process, log_path, model_dir, arguments.interval)
    print_trend(rows)
    problems = growth(rows)
    if process.returncode:
        problems.append(f"the training ended with status {process.returncode}; see {log_path}")
    for problem in problems:
        print(f"NOT flat: {problem}")
    if not problems:
        print("Memory, handles and disk stay within their bounds.")
    sys.exit(1 if problems else 0)


def watch(process, log_path: str, model_dir: str, interval: int):
    """[(step, RSS in MB, handles, MB of checkpoints, MB of the rest)] at each interval of steps."""
    rows = []
    print(f"{'step':>6}{'RSS, MB':>10}{'handles':>9}{'checkpoints, MB':>17}{'other files, MB':>17}")
    while process.poll() is None:
        with open(log_path, errors="replace") as log:
            steps = _STEP.findall(log.read())
        if steps and int(steps[-1]) >= (len(rows) + 1) * interval:
            try:
                usage = memory(process.pid), len(os.listdir(f"/proc/{process.pid}/fd"))
            except (FileNotFoundError, ValueError):
                break  # It has just ended.
            rows.append((int(steps[-1]), *usage, *disk(model_dir)))
            step, rss, handles, checkpoints, others = rows[-1]
            print(
                f"{step:>6}{rss:>10.0f}{handles:>9}{checkpoints:>17.1f}{others:>17.1f}", flush=True
            )
        time.sleep(0.1)
    process.wait()
    return rows


def memory(pid: int) -> float:
    """Resident memory in MB."""
    with open(f"/proc/{pid}/status") as file:
        found = re.search(r"VmRSS:\s+(\d+) kB", file.read())
    if not found:
        raise ValueError("The process has ended.")
    return int(found.group(1)) / 1024


def disk(directory: str):
    """MB of checkpoints, MB of everything else."""
    sizes = {True: 0, False: 0}
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                size = os.path.getsize(os.path.join(place, name))
            except FileNotFoundError:
                continue
            sizes["model.ckpt" in name or "model.ckpt" in place] += size
    return sizes[True] / 2**20, sizes[False] / 2**20


def print_trend(rows):
    """The medians of the first and of the last quarter of the rows."""
    if not rows:
        return
    quarter = (len(rows) + 3) // 4
    for column, what in _COLUMNS.items():
        parts = rows[:quarter], rows[-quarter:]
        first, last = (statistics.median(row[column] for row in part) for part in parts)
        change = f"{last - first:+.1f}"
        print(f"{what}: {first:.1f} in the first quarter, {last:.1f} in the last ({change})")


def growth(rows):
    """What grew from the middle to the end, as sentences."""
    if len(rows) < 4:
        return [f"only {len(rows)} rows"]
    half = len(rows) // 2
    problems = []
    for column, what, factor, margin in (
        (1, "memory", 1.1, 0.0),
        (2, "handles", 1.0, 2.0),
        (3, "checkpoints", 1.1, 0.0),
    ):
        before, after = (max(row[column] for row in part) for part in (rows[:half], rows[half:]))
        if after > before * factor + margin:
            problems.append(f"{what} grew from {before:.0f} to {after:.0f}")
    return problems


if __name__ == "__main__":
    main()
