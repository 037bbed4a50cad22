#!/usr/bin/env python
"""Measures the all-reduce of two processes, and plans the step time of many from it.

    python scripts/benchmarks/benchmark_all_reduce.py
    python scripts/benchmarks/benchmark_all_reduce.py --compute_seconds=0.2 --bandwidth=10

Two processes of this machine, with a core each, sum tensors of several sizes over the loopback
interface with TensorFlow's ring, as a training on CPUs does. A line is fitted to the medians: a
message of two processes takes a latency, and its bytes at a bandwidth. In a ring of n processes a
message makes 2 (n - 1) hops, and (n - 1) / n of its bytes cross each link twice; this is where the
plan for n processes extrapolates. It assumes that all links are as fast as the one measured (or as
--bandwidth and --latency say), and that nothing is sent while a device computes.
"""

import argparse
import json
import math
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
from tensorflow.python.ops import collective_ops

from common import files
from common.arguments import integer
from common.distribution.replication import BYTES_PER_MESSAGE
from common.runtime import tf
from scripts import launch_local
from scripts.benchmarks import turns

SIZES = [1 << 10, 64 << 10, 256 << 10, 1 << 20, BYTES_PER_MESSAGE, 4 * BYTES_PER_MESSAGE]
# Of the default network's gradients, auxiliary head and all.
GRADIENT_BYTES = 4 * 46_763_161


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=integer(1), default=7, help="turns of each size (7)")
    parser.add_argument("--steps", type=integer(1), default=10, help="all-reduces of a turn (10)")
    parser.add_argument("--devices", type=integer(1), nargs="+", default=[2, 8, 64, 1024])
    parser.add_argument("--gradient_bytes", type=integer(1), default=GRADIENT_BYTES)
    parser.add_argument(
        "--compute_seconds", type=float, default=1.0, help="of a step without others (1.0)"
    )
    parser.add_argument("--bandwidth", type=float, help="of a link, GB/s, instead of the measured")
    parser.add_argument("--latency", type=float, help="of a hop, microseconds, instead of it")
    parser.add_argument("--result", help="JSON file for the figures")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        work(**arguments.worker)
        return
    figures = measure(arguments.turns, arguments.steps)
    latency, bandwidth = fit({size: np.median(seconds) for size, seconds in figures.items()})
    print_figures(figures, latency, bandwidth)
    latency = latency if arguments.latency is None else arguments.latency / 1e6
    bandwidth = bandwidth if arguments.bandwidth is None else arguments.bandwidth * 1e9
    print_plan(arguments, latency, bandwidth)
    if arguments.result:
        found = {"seconds": figures, "latency_of_hop": latency, "bytes_per_second": bandwidth}
        files.write_text(arguments.result, json.dumps(found, indent=2))


# Measuring ---------------------------------------------------------------------------------------


def measure(num_turns, steps):
    """Seconds of an all-reduce in each turn, by its size in bytes, as the first process sees it."""
    with launch_local.held_ports(2) as ports, turns.workers() as workers:
        for rank in range(2):
            what = {"rank": rank, "ports": ports, "num_turns": num_turns, "steps": steps}
            command = [sys.executable, os.path.abspath(__file__), f"--worker={json.dumps(what)}"]
            workers[rank] = turns.Worker(f"rank {rank}", command, pauses=False)
        answers = [worker.answer() for worker in workers.values()]
    return {int(size): seconds for size, seconds in answers[0].items()}


def work(rank, ports, num_turns, steps):
    """One of the two processes; since an all-reduce needs both, they keep step by themselves."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    config = tf.ConfigProto()
    config.device_filters.append(f"/job:worker/task:{rank}")
    config.experimental.collective_group_leader = "/job:worker/replica:0/task:0"
    addresses = [f"127.0.0.1:{port}" for port in ports]
    server = tf.train.Server(
        {"worker": addresses}, job_name="worker", task_index=rank, config=config
    )
    with tf.device(f"/job:worker/replica:0/task:{rank}/device:CPU:0"):
        sums = {size: _all_reduce(key, size) for key, size in enumerate(SIZES, start=100)}
    figures = {size: [] for size in SIZES}
    with tf.Session(server.target, config=config) as session:
        session.run(tf.global_variables_initializer())
        for _ in range(num_turns + 1):
            for size, operation in sums.items():
                session.run(operation)
                started = time.perf_counter()
                for _ in range(steps):
                    session.run(operation)
                figures[size].append((time.perf_counter() - started) / steps)
    # The first turn fills buffers.
    print(json.dumps({size: seconds[1:] for size, seconds in figures.items()}), flush=True)
    sys.stdin.read()  # Until it is ended: the other one may still fetch its last sum.


def _all_reduce(key, size):
    """The operation that sums a variable of so many bytes over both processes."""
    variable = tf.Variable(tf.ones([size // 4]), use_resource=True)
    return tf.group(collective_ops.all_reduce(variable.read_value(), 2, 1, key, "Add", "Id"))


# The plan ----------------------------------------------------------------------------------------


def fit(seconds):
    """(seconds of a hop, bytes/s of a link), from the seconds of each size in a ring of two.

    There a message makes two hops, and all of its bytes cross each link. Relative errors count, so
    that small messages decide on the latency and large ones on the bandwidth.
    """
    sizes, times = np.array(list(seconds.items()), float).T
    slope, intercept = np.polyfit(sizes, times, 1, w=1 / times)
    return max(intercept, 0.0) / 2, 1 / slope


def seconds_of_step(devices, num_bytes, latency, bandwidth):
    """(least, most) seconds that the all-reduces of a step take in a ring.

    The least: all messages are under way together, so that their latencies are one. The most: one
    message after another.
    """
    messages = math.ceil(num_bytes / BYTES_PER_MESSAGE)
    latency_of_one = 2 * (devices - 1) * latency
    transfer = 2 * (devices - 1) / devices * num_bytes / bandwidth
    return latency_of_one + transfer, messages * latency_of_one + transfer


def print_figures(figures, latency, bandwidth):
    """Prints a table of what was measured, and the line fitted to it."""
    num_turns = len(figures[SIZES[0]])
    print(
        f"TensorFlow {tf.__version__}, 2 processes, {num_turns} turns\n\n"
        "| KiB | ms (lowest to highest) | GB/s | of the line |\n|---|---|---|---|"
    )
    for size, seconds in figures.items():
        lowest, median, highest = np.percentile(seconds, [0, 50, 100])
        line = 2 * latency + size / bandwidth
        print(
            f"| {size // 1024} | {median * 1e3:.2f} ({lowest * 1e3:.2f} to {highest * 1e3:.2f}) | "
            f"{size / median / 1e9:.2f} | {median / line:.2f} |"
        )
    print(f"\nA hop takes {latency * 1e6:.0f} us, a link carries {bandwidth / 1e9:.2f} GB/s.\n")


def print_plan(arguments, latency, bandwidth):
    """Prints the step time for each number of devices, and the share that computing has of it."""
    compute = arguments.compute_seconds
    print(
        f"Plan for {arguments.gradient_bytes / 1e6:.0f} MB of gradients, {compute:g} s of "
        f"computing, {latency * 1e6:.0f} us a hop, {bandwidth / 1e9:.2f} GB/s\n\n"
        "| devices | all-reduces, s | step, s | of N times one's speed | |\n|---|---|---|---|---|"
    )
    for devices in arguments.devices:
        least, most = seconds_of_step(devices, arguments.gradient_bytes, latency, bandwidth)
        note = "" if devices == 2 else "extrapolated"
        print(
            f"| {devices} | {least:.2f} to {most:.2f} | {compute + least:.2f} to "
            f"{compute + most:.2f} | {compute / (compute + most):.2f} to "
            f"{compute / (compute + least):.2f} | {note} |"
        )


if __name__ == "__main__":
    main()
