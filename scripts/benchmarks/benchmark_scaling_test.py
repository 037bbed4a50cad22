"""The benchmark of training by several processes: that it measures, not how fast."""

import re

from helpers import run


def test_one_process_is_its_own_measure():
    done = run("scripts/benchmarks/benchmark_scaling.py", "--workers=1", "--steps=3")
    (line,) = [line for line in done.out.splitlines() if re.match(r" +\d", line)]
    processes, speed, efficiency = map(float, line.split())
    assert (processes, efficiency) == (1, 1.0) and speed > 0
