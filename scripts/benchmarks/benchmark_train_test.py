"""The benchmark of training and inference: that it measures, and what; not how fast."""

import functools
import json
import os
import re
import shlex
import sys

import helpers
import pytest
from helpers import run

from scripts.benchmarks import benchmark_train

# Answers as original_step.py does: its steps take a thousand seconds.
_OTHER_PROGRAM = """
import json, sys
values = json.loads(sys.argv[1].partition("=")[2])
assert values["train_batch_size"] == 2 and values["reduction_size"] == 8
print(json.dumps({"first_step": 1.0, "multiply_adds": None}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": 1000.0, "memory_mb": 1.0}), flush=True)
"""

_run = functools.partial(run, "scripts/benchmarks/benchmark_train.py")


@pytest.mark.slow
def test_figures_of_every_part(tmp_path):
    path = str(tmp_path / "result.json")
    done = _run(
        *["--num_cells=2", "--filters=8", "--image_size=75", "--batch_sizes=2", "--turns=2"],
        *[f"--result={path}", f"--plot={tmp_path / 'plot.png'}", "--steps=1"],
    )
    with open(path) as f:
        rows = {row["part"]: row for row in json.load(f)}
    assert list(rows) == ["train", "eval", "frozen"]
    for row in rows.values():
        assert len(row["seconds_of_turns"]) == 2
        assert row["images_per_second"] == pytest.approx(2 / row["seconds_per_step"], rel=1e-6)
        assert row["first_step_seconds"] > 0 and row["seconds_per_step"] > 0
        assert row["of_peak"] > 0
        assert row["against_first_runtime"] == 1.0
    # A training step does the work of three forward passes, in as many multiply-adds.
    train, evaluation = (
        row["gflops_per_second"] / row["images_per_second"] for row in (rows["train"], rows["eval"])
    )
    assert train == pytest.approx(3 * evaluation, rel=0.2)
    assert rows["frozen"]["against_eval"] and not rows["train"]["against_eval"]
    assert os.path.getsize(str(tmp_path / "plot.png")) > 1000
    assert "| 2/8 | 2 | frozen | this |" in done.out


def test_what_was_measured_before_a_failure_is_kept(tmp_path, monkeypatch, capsys):
    row = {
        **{"num_cells": 2, "reduction_size": 8, "batch_size": 2, "part": "eval", "runtime": "this"},
        **{"first_step_seconds": 3.0, "seconds_per_step": 0.5, "seconds_of_turns": [0.5, 0.6]},
        **{"images_per_second": 4.0, "peak_memory_mb": 500.0, "of_peak": 0.25},
        **{"against_first_runtime": 1.0, "against_eval": None},
    }
    measured = iter([[row]])

    def compare(configuration, arguments):
        for rows in measured:
            return rows
        sys.exit("the process of this eval ended with status 1")

    monkeypatch.setattr(benchmark_train, "compare", compare)
    path = str(tmp_path / "result.json")
    with pytest.raises(SystemExit, match="status 1"):
        benchmark_train.main(["--batch_sizes=2,4,8", f"--result={path}"])
    with open(path) as f:
        assert json.load(f) == [row]
    assert capsys.readouterr().out.count("| 2/8 | 2 | eval | this |") == 1


def test_the_network_is_the_programs_default():
    """No setting but the batch size differs from what the program does without flags."""
    (configuration,) = benchmark_train.configurations(benchmark_train.parse_arguments([]))
    measured = benchmark_train.hparams_of(configuration).values()
    default = helpers.settings_of().hparams.values()
    different = {name for name in default if measured[name] != default[name]}
    assert different == {"train_batch_size", "eval_batch_size", "num_eval_images"}


@pytest.mark.slow
def test_another_program_takes_turns_and_is_the_baseline(tmp_path):
    program = tmp_path / "other.py"
    program.write_text(_OTHER_PROGRAM)
    done = _run(
        *["--parts=train", "--num_cells=2", "--filters=8", "--image_size=75", "--batch_sizes=2"],
        *["--turns=2", "--steps=1", f"--beside=other={shlex.quote(sys.executable)} {program}"],
    )
    assert "| 2/8 | 2 | train | other | 1000.000 (1000.000 to 1000.000) |" in done.out
    ratio = re.search(r"\| 2/8 \| 2 \| train \| this \|.*\| ([\d.]+) \|$", done.out, re.MULTILINE)
    assert float(ratio.group(1)) > 10  # In a thousand seconds, a tiny network does many steps.


def test_worker_that_fails_says_why():
    command = [sys.executable, benchmark_train.__file__, "--worker=no_such_part"]
    worker = benchmark_train.start_worker("this", command, "no_such_part", {"batch_size": 1})
    with pytest.raises(SystemExit, match=r"(?s)this no_such_part ended with status 1:.*KeyError"):
        worker.answer()
    worker.end()


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--parts=train,test", "expected some of train, eval, frozen"),
        ("--runtime=mkl=/no/python", "expected NAME=PYTHON"),
        ("--batch_sizes=8,0", "0: expected an integer of at least 1"),
    ],
)
def test_arguments_that_are_wrong(argument, message, capsys):
    with pytest.raises(SystemExit):
        benchmark_train.parse_arguments([argument])
    assert message in capsys.readouterr().err


def test_each_runtime_on_each_device():
    def names(*arguments):
        return list(benchmark_train.parse_arguments(arguments).runtimes)

    assert names() == ["this"]
    assert names("--devices=mixed") == ["this"]
    assert names("--devices=cpu,mixed+xla") == ["cpu", "mixed+xla"]
    runtimes = [f"--runtime={name}={sys.executable}" for name in "ab"]
    assert names(*runtimes, "--devices=float32,mixed") == [
        *("a float32", "a mixed", "b float32", "b mixed")
    ]
    with pytest.raises(SystemExit):
        names("--devices=cpu,tpu")
