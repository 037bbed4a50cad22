#!/usr/bin/env python
"""Measures the time from the start of the program to the end of the first training step.

    python scripts/benchmarks/benchmark_startup.py [--repeats=3] [--data_dir=DATA]

Starts amoeba_net.py with the default network (AmoebaNet-D, 6 cells, 256 filters, 224 pixels) and
batches of 8 on the CPU, and times its log lines. Without --data_dir it makes TFRecords of
photographs that come with scikit-learn.

The baseline are figures measured with the original TPU implementation (tensorflow/tpu, commit
7dc921f) with the last TensorFlow that runs it, on 2 CPU cores: 13.7 s to construct the training
graph, then 12.5 s for the first step. They do not include starting Python and importing TensorFlow;
ours do.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

_ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, _ROOT)
from scripts.benchmarks.photos import make_photos  # noqa: E402

BASELINE_GRAPH_SECONDS = 13.7
BASELINE_FIRST_STEP_SECONDS = 12.5
_BATCH_SIZE = 8
_PHOTOS = 32

# What the log says at the end of each part.
_MARKS = (
    ("start and import", "Calling model_fn."),
    ("graph construction", "Done calling model_fn."),
    ("session, initial weights", "Done running local_init_op."),
    ("first step", "loss = "),
)


def time_start(data_dir: str):
    """Seconds of each part of one start, in the order of `_MARKS`."""
    with tempfile.TemporaryDirectory() as model_dir:
        command = [
            *[sys.executable, os.path.join(_ROOT, "amoeba_net.py"), "--mode=train"],
            *[f"--data_dir={data_dir}", f"--model_dir={model_dir}", "--accelerator=cpu"],
            *[f"--train_batch_size={_BATCH_SIZE}", "--num_epochs=1"],
        ]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True
        )
        log, seconds, marks = [], [], list(_MARKS)
        for line in process.stderr:
            log.append(line)
            if marks and marks[0][1] in line:
                now = time.perf_counter()
                seconds.append(now - started - sum(seconds))
                marks.pop(0)
            if not marks:
                break
        process.kill()
        process.wait()
    if marks:
        sys.exit(f"The program ended before {marks[0][0]!r}:\n{''.join(log[-20:])}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data_dir", help="TFRecords; photographs are made if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if not arguments.data_dir:
            make_photos(made, _PHOTOS)
        runs = [time_start(arguments.data_dir or made) for _ in range(arguments.repeats)]
    print(f"AmoebaNet-D 6/256, 224 px, batch {_BATCH_SIZE}; medians of {len(runs)} starts")
    medians = [statistics.median(part) for part in zip(*runs)]
    for (name, _), median, part in zip(_MARKS, medians, zip(*runs)):
        print(f"{name:40s} {median:6.1f} s   ({min(part):.1f} to {max(part):.1f})")
    total = statistics.median(sum(run) for run in runs)
    print(f"{'process start to end of first step':40s} {total:6.1f} s")
    baseline = BASELINE_GRAPH_SECONDS + BASELINE_FIRST_STEP_SECONDS
    print(
        f"graph construction: {medians[1] / BASELINE_GRAPH_SECONDS:.2f} of the original's "
        f"{BASELINE_GRAPH_SECONDS} s"
    )
    print(
        f"process start to end of first step: {total / baseline:.2f} of the original's "
        f"{baseline:.1f} s"
    )


if __name__ == "__main__":
    main()
