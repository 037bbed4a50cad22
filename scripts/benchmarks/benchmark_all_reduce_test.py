"""The benchmark of all-reduces: that two processes measure them, and what is planned from it."""

import json

import pytest
from helpers import run

from common.distribution.replication import BYTES_PER_MESSAGE
from scripts.benchmarks import benchmark_all_reduce


def test_two_processes_measure_all_sizes(tmp_path):
    path = str(tmp_path / "result.json")
    done = run(
        "scripts/benchmarks/benchmark_all_reduce.py",
        *["--turns=1", "--steps=1", "--devices", "2", "16", f"--result={path}"],
    )
    with open(path) as file:
        seconds = json.load(file)["seconds"]
    assert [int(size) for size in seconds] == benchmark_all_reduce.SIZES
    assert all(len(found) == 1 and found[0] > 0 for found in seconds.values())
    lines = done.out.splitlines()
    assert not any("extrapolated" in line for line in lines if line.startswith("| 2 |"))
    assert any("extrapolated" in line for line in lines if line.startswith("| 16 |"))


def test_line_through_what_two_processes_take():
    latency, bandwidth = 50e-6, 2e9
    seconds = {size: 2 * latency + size / bandwidth for size in benchmark_all_reduce.SIZES}
    assert benchmark_all_reduce.fit(seconds) == pytest.approx((latency, bandwidth))


def test_plan_of_a_ring():
    plan, size = benchmark_all_reduce.seconds_of_step, BYTES_PER_MESSAGE
    # Two devices: a message makes two hops, and each link carries every byte once.
    assert plan(2, 10 * size, 0.0, 1e9) == pytest.approx((size / 1e8, size / 1e8))
    assert plan(2, 10 * size, 1e-3, 1e30) == pytest.approx((2e-3, 20e-3))
    # However many devices there are, no link carries more than twice the bytes.
    assert plan(1024, size, 0.0, 1.0) == pytest.approx((2 * size, 2 * size), rel=1e-3)
    assert plan(1024, 3 * size, 1.0, 1e30) == pytest.approx((2 * 1023, 6 * 1023))
