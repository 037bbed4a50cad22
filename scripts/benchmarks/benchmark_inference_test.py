"""The benchmark of inference: that it measures, and what; not how fast."""

import functools
import json

import pytest
from helpers import run

from scripts.benchmarks import benchmark_inference

_run = functools.partial(run, "scripts/benchmarks/benchmark_inference.py")


@pytest.mark.slow
def test_figures_of_every_part(tmp_path):
    path = str(tmp_path / "result.json")
    done = _run(
        *["--num_cells=2", "--filters=8", "--image_size=40", "--batch_sizes=2"],
        *["--turns=2", "--steps=1", f"--result={path}"],
    )
    with open(path) as file:
        rows = {row["part"]: row for row in json.load(file)}
    assert list(rows) == ["evaluation", "saved_model", "frozen_graph", "onnx"]
    assert rows["evaluation"]["against_evaluation"] == 1.0
    for part, row in rows.items():
        assert len(row["seconds_of_turns"]) == 2 and row["of_peak"] > 0
        assert row["images_per_second"] == pytest.approx(2 / row["seconds_per_step"], rel=1e-6)
        assert f"| 2 | {part}, {row['version']} |" in done.out
    assert rows["onnx"]["version"].startswith("ONNX Runtime ")


def test_figures_are_of_the_same_work():
    """Ratios, and the share of the peak, of made-up seconds."""
    configuration = {"batch_size": 4}
    figures = {
        "evaluation": {"seconds": [2.0, 4.0], "multiply_adds": 8.0, "weights": 3},
        "onnx": {"seconds": [1.0, 4.0]},
    }
    figures = {part: {**row, "version": "", "memory_mb": 1.0} for part, row in figures.items()}
    figures["peak"] = {"seconds": [1.0, 1.0], "multiply_adds": 64.0}
    evaluation, onnx = benchmark_inference._rows(configuration, figures)
    assert onnx["against_evaluation"] == 1.5 and evaluation["of_peak"] == 0.1875
    assert onnx["images_per_second"] == 1.6


def test_torch_python_that_is_wrong(capsys):
    with pytest.raises(SystemExit):
        benchmark_inference.parse_arguments(["--torch_python=/no/python"])
    assert "expected a Python to run" in capsys.readouterr().err
