#!/usr/bin/env python
"""Measures how training scales over processes on this machine, and predicts it for clusters.

    python scripts/benchmarks/benchmark_scaling.py --workers=2   # measures 1 and 2 processes, plans
    python scripts/benchmarks/benchmark_scaling.py --plan        # the plan alone

Measured: each process has a core of its own and the same number of images a step, noise, for a
small network; ideal is N times the images per second of one.

The plan is arithmetic, with its assumptions printed: a step is the computation, then a ring
all-reduce of the gradients, of which a part may hide behind the computation. It leaves out waiting
for the slowest process, batch-norm statistics and failures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, _ROOT)

from common import results  # noqa: E402
from scripts import launch_local  # noqa: E402

_NETWORK = [
    *["--num_cells=2", "--reduction_size=16", "--stem_reduction_size=8", "--image_size=32"],
    *["--use_aux_head=False", "--num_label_classes=11", "--synthetic_data", "--lr=0.01"],
]
_IMAGES_PER_WORKER = 16


class Plan(NamedTuple):
    """Assumptions; the defaults are of AmoebaNet-D, 6 cells, 256 filters, on Ascend 910 devices.

    Attributes:
        images_per_second: of one device alone; 265 is what the port's own run had.
        batch: images a device and step.
        gradient_bytes: 46.1 million parameters in float32.
        messages: all-reduces a step, one after another.
        link: bytes per second of the slowest link of the ring; 100 Gbit/s between hosts.
        latency: seconds of one hop of a message.
        overlap: part of the all-reduce that computation hides.
        host_input: images per second that a host can prepare.
        devices_per_host: that share the host's input.
    """

    images_per_second: float = 265.0
    batch: int = 64
    gradient_bytes: float = 46.1e6 * 4
    messages: int = 30
    link: float = 12.5e9
    latency: float = 5e-6
    overlap: float = 0.0
    host_input: float = 5000.0
    devices_per_host: int = 8


def step_seconds(plan: Plan, devices: int) -> dict:
    """Seconds of a step's parts, and of the step: input and the rest run side by side."""
    hops = 2 * (devices - 1)
    compute = plan.batch / plan.images_per_second
    network = plan.gradient_bytes * hops / devices / plan.link + plan.messages * hops * plan.latency
    reading = plan.batch * min(devices, plan.devices_per_host) / plan.host_input
    exposed = network - min(network * plan.overlap, compute)
    return {
        "compute": compute,
        "network": network,
        "input": reading,
        "step": max(compute + exposed, reading),
    }


def efficiency(plan: Plan, devices: int) -> float:
    """Images per second of the devices, of as many times those of one."""
    return plan.batch / plan.images_per_second / step_seconds(plan, devices)["step"]


def print_plan(plan: Plan, devices):
    print("Plan, with these assumptions:")
    for name, value in plan._asdict().items():
        print(f"  {name} = {value:g}")
    print(f"{'devices':>8} {'compute':>9} {'network':>9} {'input':>9} {'images/s':>10} efficiency")
    for n in devices:
        parts = step_seconds(plan, n)
        print(
            f"{n:8d} {1e3 * parts['compute']:6.1f} ms {1e3 * parts['network']:6.1f} ms "
            f"{1e3 * parts['input']:6.1f} ms {n * plan.batch / parts['step']:10.0f} "
            f"{efficiency(plan, n):10.2f}"
        )


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
    parser.add_argument("--plan", action="store_true", help="measure nothing")
    for name, default in Plan._field_defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args(argv)
    if not arguments.plan:
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
        print()
    plan = Plan(**{name: getattr(arguments, name) for name in Plan._fields})
    print_plan(plan, (1, 8, 64, 1024))


if __name__ == "__main__":
    main()
