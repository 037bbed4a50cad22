#!/usr/bin/env python
"""Measures how training scales over processes on this machine.

    python scripts/benchmarks/benchmark_scaling.py --workers=2

Each process has a core of its own and the same number of images a step, noise, for a small network;
ideal is N times the images per second of one.
"""

import argparse
import os
import subprocess
import sys
import tempfile

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, _ROOT)

from common import results  # noqa: E402
from scripts import launch_local  # noqa: E402

_NETWORK = [
    *["--num_cells=2", "--reduction_size=16", "--stem_reduction_size=8", "--image_size=32"],
    *["--use_aux_head=False", "--num_label_classes=11", "--synthetic_data", "--lr=0.01"],
]
_IMAGES_PER_WORKER = 16


def measure(workers: int, steps: int) -> float:
    """Images per second of a training by a number of processes, the median of its steps."""
    images = _IMAGES_PER_WORKER * workers
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *[sys.executable, launch_local.__file__, f"--workers={workers}", "--cores=1"],
            *[f"--log_dir={directory}/logs", "--", "--mode=train", "--accelerator=cpu", *_NETWORK],
            *[f"--model_dir={directory}", f"--train_batch_size={images}"],
            *[f"--num_train_images={images * steps}", "--num_epochs=1"],
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(f"benchmark_scaling.py: the training failed:\n{done.stdout.decode()}")
        return results.read_results(directory)[-1]["images_per_second"]["median"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="measure 1 to so many processes")
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    arguments = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    if arguments.workers > cores:
        parser.error(f"--workers={arguments.workers}: there are {cores} cores.")
    print(f"Measured, {_IMAGES_PER_WORKER} images a process and step, a core for each:")
    print("processes   images/s efficiency")
    alone = None
    for n in range(1, arguments.workers + 1):
        speed = measure(n, arguments.steps)
        alone = alone or speed
        print(f"{n:9d} {speed:10.1f} {speed / n / alone:10.2f}", flush=True)


if __name__ == "__main__":
    main()
