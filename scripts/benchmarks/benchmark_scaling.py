#!/usr/bin/env python
"""Measures how training scales over processes on this machine.

    python scripts/benchmarks/benchmark_scaling.py --network=quickstart --steps=150
    python scripts/benchmarks/benchmark_scaling.py --network=default --steps=10

Each process has a core of its own and the same number of images a step, noise. In each turn one
process trains alone, then as many as there are cores train together, and then as many without each
other, since cores that share memory may not reach N times the speed of one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Dict, List

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, _ROOT)

from common import results  # noqa: E402
from common.arguments import integer  # noqa: E402
from scripts import launch_local  # noqa: E402

_SMALL = ["--num_cells=3", "--reduction_size=16", "--stem_reduction_size=16", "--image_size=64"]
_QUICKSTART = [*_SMALL, "--use_aux_head=False", "--num_label_classes=11"]
_NETWORKS = {"quickstart": (_QUICKSTART, 32), "default": ([], 8)}  # Flags, images a process.


def _train(network: str, steps: int, together: int, cores: List[int]) -> List[float]:
    """Images per second of trainings at the same time, one a core or all cores one training."""
    flags, images = _NETWORKS[network]
    images *= together
    with tempfile.TemporaryDirectory() as directory:
        processes = []
        for core in cores:
            command = [sys.executable, os.path.join(_ROOT, "amoeba_net.py")]
            if together > 1:
                command = [sys.executable, launch_local.__file__, f"--workers={together}"]
                command += ["--cores=1", f"--log_dir={directory}/logs", "--"]
            command += ["--mode=train", "--accelerator=cpu", "--synthetic_data", "--lr=0.01"]
            command += [*flags, f"--model_dir={directory}/{core}", f"--train_batch_size={images}"]
            command += [f"--num_train_images={images * steps}", "--num_epochs=1"]
            with open(f"{directory}/log_{core}", "w") as log:
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            if together == 1:
                os.sched_setaffinity(process.pid, {core})  # Before TensorFlow counts them.
            processes.append(process)
        statuses = [process.wait() for process in processes]
        if any(statuses):
            with open(f"{directory}/log_{cores[0]}") as log:
                sys.exit(f"benchmark_scaling.py: a training failed:\n{log.read()[-2000:]}")
        records = [results.read_results(f"{directory}/{core}")[-1] for core in cores]
        return [record["images_per_second"]["median"] for record in records]


def measure(network: str, workers: int, steps: int) -> Dict[str, float]:
    """One turn: images per second of one process, of all together, of all without each other."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    speeds = {"one": _train(network, steps, 1, cores[:1])[0]}
    speeds["together"] = _train(network, steps, workers, cores[:1])[0]
    speeds["apart"] = sum(_train(network, steps, 1, cores))
    return speeds


def _print_ratios(turns: List[Dict[str, float]], workers: int):
    for name in ("together", "apart"):
        ratios = [turn[name] / workers / turn["one"] for turn in turns]
        print(
            f"{workers} processes {name}: {statistics.median(ratios):.2f} of {workers} times one's "
            f"speed, {min(ratios):.2f} to {max(ratios):.2f} over {len(turns)} turns"
        )
    ratios = [turn["together"] / turn["apart"] for turn in turns]
    print(f"together of apart: {statistics.median(ratios):.2f}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=_NETWORKS, default="quickstart")
    parser.add_argument("--workers", type=integer(1), default=2, help="processes (2)")
    parser.add_argument("--steps", type=integer(1), default=60, help="of each training (60)")
    parser.add_argument("--turns", type=integer(1), default=3, help="repeats of the trainings (3)")
    arguments = parser.parse_args(argv)
    workers, cores = arguments.workers, len(os.sched_getaffinity(0))
    if not 2 <= workers <= cores:
        parser.error(f"--workers={workers}: expected 2 to the number of cores, {cores}.")
    turns = []
    for _ in range(arguments.turns):
        turns.append(measure(arguments.network, workers, arguments.steps))
        print("images/s: " + ", ".join(f"{k} {v:.2f}" for k, v in turns[-1].items()), flush=True)
    _print_ratios(turns, workers)


if __name__ == "__main__":
    main()
