"""The benchmark of training by several processes: that it measures, not how fast."""

import re

from helpers import run


def test_ratios_are_those_of_the_speeds_that_are_printed():
    out = run("scripts/benchmarks/benchmark_scaling.py", "--turns=1", "--steps=3").out
    one, together, apart = map(
        float, re.search(r"one (.+), together (.+), apart (.+)", out).groups()
    )
    for name, speed in (("together", together), ("apart", apart)):
        ratio = float(re.search(rf"2 processes {name}: (\S+) of 2 times", out).group(1))
        assert abs(ratio - speed / 2 / one) < 0.01
