"""The table and the picture of several runs, from made model directories."""

import csv
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from common import compared_runs, hparams_tab
from common.runtime import tf
from scripts import compare_runs


def _train(step, speed=1000.0, **hparams):
    return {
        "kind": "train",
        "global_step": step,
        "images_per_second": {"median": speed, "low": speed, "high": speed},
        "seconds_per_step": 64 / speed,
        "accelerator": "cpu",
        "hparams": {"lr": 2.56, "num_cells": 3, "init_checkpoint": None, **hparams},
        "versions": {"tensorflow": "1.15.5"},
    }


def _eval(step, top_1):
    metrics = {"loss": 1.0, "top_1_accuracy": top_1, "top_5_accuracy": 1.0}
    return {"kind": "eval", "global_step": step, "metrics": metrics}


def _make_run(directory, *records, events=True):
    directory.mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(records))
    if events:
        with tf.Graph().as_default():
            writer = tf.summary.FileWriter(str(directory))
            for step in (1, 50, 100):
                value = tf.Summary.Value(tag="loss", simple_value=100.0 / step)
                writer.add_summary(tf.Summary(value=[value]), step)
            writer.close()


def _compare(capsys, *arguments):
    compare_runs.main(list(map(str, arguments)))
    return capsys.readouterr().out


def _error(*arguments):
    with pytest.raises(SystemExit) as end:
        compare_runs.main(list(map(str, arguments)))
    return str(end.value)


def test_table_and_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "sweep"
    rounds = [_train(100), _eval(100, 0.75), _train(200, 500.0), _eval(200, 0.5)]
    _make_run(sweep / "seed_2", *rounds)
    _make_run(sweep / "seed_10", _train(100, lr=0.5), _eval(100, 0.625))
    _make_run(tmp_path / "more" / "seed_2", _eval(7, 0.25), events=False)
    (sweep / "data").mkdir()
    other = tmp_path / "more" / "seed_2"
    out = _compare(capsys, sweep, other, sweep / "seed_2", "--csv=table.csv")
    table = [line.split() for line in out.splitlines()[:4]]
    assert table[0][:2] == ["run", "lr"] and "num_cells" not in out
    assert table[1:] == [
        ["sweep/seed_2", "2.56", "0.7500", "100", "0.5000", "1.0000", "200", "750.0", "19"],
        ["seed_10", "0.5", "0.6250", "100", "0.6250", "1.0000", "100", "1000.0", "6"],
        ["more/seed_2", *["not", "recorded", "0.2500", "7", "0.2500", "1.0000", "-", "-", "-"]],
    ]
    assert "Best: sweep/seed_2, top-1 0.7500." in out
    assert "Hyper-parameters are not recorded for: more/seed_2." in out
    with open("table.csv") as f:
        assert [row[1] for row in csv.reader(f)] == ["lr", "2.56", "0.5", "not recorded"]
    pixels = np.array(Image.open("compare_runs.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(pixel) for pixel in np.unique(pixels, axis=0)}
    assert len(colours) > 50  # Two curves, text and anti-aliasing.


def test_a_terminal_gets_a_wide_table_in_parts(tmp_path, capsys, monkeypatch):
    _make_run(tmp_path / "a", _train(100), events=False)
    long = {"init_checkpoint": "/models/" + "x" * 100, "drop_connect_burn_in_steps": 7}
    _make_run(tmp_path / "b", _train(100, **long), events=False)
    assert max(map(len, _compare(capsys, tmp_path, "--plot=").splitlines())) > 80
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = _compare(capsys, tmp_path, "--plot=").splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("run ") for line in lines) == 2
    for name in (*long, "best top-1", "seconds"):
        assert sum(name in line for line in lines) == 1


def test_many_runs_have_different_colours_or_lines(tmp_path, capsys):
    for i in range(25):
        _make_run(tmp_path / f"run_{i}", _train(100, lr=float(i)), _eval(100, 0.5))
    _compare(capsys, tmp_path, f"--plot={tmp_path}/many.png")
    few = tmp_path / "run_0", tmp_path / "run_1", f"--plot={tmp_path}/few.png"
    _compare(capsys, *few)
    heights = [Image.open(str(tmp_path / f"{name}.png")).size[1] for name in ("many", "few")]
    assert heights[0] > heights[1]  # The legend's.


def test_a_run_that_has_not_recorded_results_yet(tmp_path):
    (tmp_path / "run").mkdir()
    hparams_tab.write(str(tmp_path / "run"), {"lr": 0.5})
    (run,) = compared_runs.read([str(tmp_path)])
    assert run.settings == {"lr": 0.5}
    assert run.best is run.last is run.steps is run.images_per_second is run.seconds is None


def test_steps_of_a_round_that_was_too_short_to_measure_count_as_the_others(tmp_path):
    short = {**_train(210), "images_per_second": None, "seconds_per_step": None}
    _make_run(tmp_path / "run", _train(100, 64.0), _train(200, 64.0), short, events=False)
    (run,) = compared_runs.read([str(tmp_path)])
    assert run.seconds == 210.0


def test_long_names_stay_different():
    names = ["a" * 40 + str(i) + "b" * 40 for i in range(3)] + ["short"]
    short = compared_runs.shorten(names, 24)
    assert len(set(short)) == 4 and short[3] == "short" and max(map(len, short)) < 84
    assert compared_runs.unique_ends(["/x/y/a", "/z/y/a", "/z/b"]) == ["x/y/a", "z/y/a", "b"]


def test_errors_are_one_sentence(tmp_path):
    assert "is not a directory" in _error(tmp_path / "none")
    assert "is no run" in _error(tmp_path)
    assert "there is no directory" in _error(tmp_path, "--plot=/none/such.png")
    _make_run(tmp_path / "a", _train(100), events=False)
    assert "tell of no loss" in _error(tmp_path, f"--plot={tmp_path}/none.png")
    assert not os.path.exists(str(tmp_path / "none.png"))
    for text in ("{", "{}", "[1]", '[{"kind": "train"}]'):
        (tmp_path / "a" / "results.json").write_text(text)
        assert "results.json" in _error(tmp_path, "--plot=")
