"""The benchmark of training by several processes: that it measures, not how fast."""

import os

import helpers
import pytest

from scripts.benchmarks import benchmark_scaling


@pytest.mark.slow
def test_one_process_and_two_together_train(monkeypatch):
    monkeypatch.setitem(benchmark_scaling._NETWORKS, "quickstart", (helpers.flags(helpers.TINY), 4))
    cores = sorted(os.sched_getaffinity(0))
    for together in (1, 2):
        (speed,) = benchmark_scaling._train("quickstart", 3, together, cores[:1])
        assert speed > 0


def test_a_turn(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    speeds = {(1, 1): [5.0], (2, 1): [8.0], (1, 2): [4.0, 3.0]}
    monkeypatch.setattr(
        benchmark_scaling, "_train", lambda network, steps, n, cores: speeds[n, len(cores)]
    )
    assert benchmark_scaling.measure("default", 2, 1) == {"one": 5.0, "together": 8.0, "apart": 7.0}


def test_ratios_are_those_of_the_speeds_that_are_printed(monkeypatch, capsys):
    turns = iter(
        [{"one": 2.0, "together": 3.0, "apart": 4.0}, {"one": 1.0, "together": 1.0, "apart": 1.0}]
    )
    monkeypatch.setattr(benchmark_scaling, "measure", lambda *_: next(turns))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    benchmark_scaling.main(["--turns=2"])
    assert capsys.readouterr().out.splitlines() == [
        "images/s: one 2.00, together 3.00, apart 4.00",
        "images/s: one 1.00, together 1.00, apart 1.00",
        "2 processes together: 0.62 of 2 times one's speed, 0.50 to 0.75 over 2 turns",
        "2 processes apart: 0.75 of 2 times one's speed, 0.50 to 1.00 over 2 turns",
        "together of apart: 0.88",
    ]
