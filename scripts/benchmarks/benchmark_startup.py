#!/usr/bin/env python
"""Measures the time from the start of the program to the end of the first training step.

    python scripts/benchmarks/benchmark_startup.py [--repeats=3] [--data_dir=DATA]
        [--original=DIRECTORY]

Starts amoeba_net.py with the default network and batches of 8 on the CPU, and times its log lines.
Without --data_dir it makes TFRecords of photographs that come with scikit-learn.

With --original, the TPU original takes turns with it: models/official/amoeba_net of
https://github.com/tensorflow/tpu, whose training step original_step.py builds and runs once, in
a TensorFlow that still runs it. That is less than a whole program does: there is no input and no
Estimator.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import tqdm

_ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, _ROOT)
from common.arguments import integer  # noqa: E402
from scripts.benchmarks import benchmark_train  # noqa: E402
from scripts.benchmarks.photos import make_photos  # noqa: E402

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


def time_original(directory: str) -> float:
    """Seconds from the start of Python to the end of the original's first step."""
    program = os.path.join(_ROOT, "scripts", "benchmarks", "original_step.py")
    options = benchmark_train.parse_arguments([f"--batch_sizes={_BATCH_SIZE}"])
    (configuration,) = benchmark_train.configurations(options)
    command = [sys.executable, program, directory]
    worker = benchmark_train.start_worker("original", command, "train", configuration)
    try:
        return worker.answer()["first_step"]
    finally:
        worker.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=integer(1), default=3)
    parser.add_argument("--data_dir", help="TFRecords; photographs are made if not given")
    parser.add_argument("--original", help="models/official/amoeba_net of tensorflow/tpu")
    arguments = parser.parse_args()
    runs, originals = [], []
    with tempfile.TemporaryDirectory() as made:
        if not arguments.data_dir:
            make_photos(made, _PHOTOS)
        for _ in tqdm.trange(arguments.repeats, unit="start"):
            runs.append(time_start(arguments.data_dir or made))
            if arguments.original:
                originals.append(time_original(arguments.original))
    print(f"AmoebaNet-D 6/256, 224 px, batch {_BATCH_SIZE}; medians of {len(runs)} starts")
    for (name, _), part in zip(_MARKS, zip(*runs)):
        print_row(name, part)
    totals = [sum(run) for run in runs]
    print_row("process start to end of first step", totals)
    if originals:
        print_row("the original", originals)
        ratios = [total / original for total, original in zip(totals, originals)]
        print_row("of the original", ratios, unit="times")


def print_row(name: str, values, unit: str = "s"):
    spread = f"({min(values):.2f} to {max(values):.2f})"
    print(f"{name:40s} {statistics.median(values):6.2f} {unit:5s} {spread}")


if __name__ == "__main__":
    main()
