"""The progress of a training, as lines and as a bar, and the picture of its curves."""

import contextlib
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

from common import curves
from common.hooks import progress
from scripts import plot_run


class _Clock:
    """Time that passes with the steps: a slow first one, then half a second each."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def step(self):
        self.now += 60.0 if self.now == 100.0 else 0.5


def _train(hook, clock, start, steps):
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        tf.identity(tf.constant(1.25), name="total_loss")
        tf.constant(0.03, name="learning_rate")
        hook.begin()
        session.run(tf.global_variables_initializer())
        for number in range(start + 1, start + steps + 1):
            session.run(step.assign(number))
            arguments = hook.before_run(None)
            clock.step()
            values = session.run(arguments.fetches)
            hook.after_run(None, tf.train.SessionRunValues(values, None, None))
        hook.end(session)


def test_lines_leave_compilation_out_and_are_right_after_a_resume(monkeypatch, log):
    hook = progress.ProgressHook(1000, batch_size=8, bar=False, every_n_steps=10)
    _train(hook, _Clock(monkeypatch), start=500, steps=21)
    lines = log.messages
    # 489 and 479 steps of half a second are left; 8 images in half a second.
    assert lines == [
        "Step 511 of 1000: loss 1.25, 16.0 images/s, learning rate 0.03, 0:04:04 left",
        "Step 521 of 1000: loss 1.25, 16.0 images/s, learning rate 0.03, 0:04:00 left",
    ]


def test_bar_ends_its_line_after_an_error(monkeypatch, capsys):
    hook = progress.ProgressHook(12, batch_size=8, bar=True)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr(hook, "end", lambda session: None)  # Which an error leaves out.
    with contextlib.closing(hook):
        _train(hook, _Clock(monkeypatch), start=2, steps=3)
        assert not capsys.readouterr().err.endswith("\n")
    assert capsys.readouterr().err.endswith("\n")


def test_bar(monkeypatch, capsys):
    hook = progress.ProgressHook(12, batch_size=8, bar=True)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    _train(hook, _Clock(monkeypatch), start=2, steps=10)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "12/12" in bar and re.search(r"loss 1\.25, .* images/s, learning rate 0\.03", bar)


@pytest.fixture
def events(tmp_path):
    """The event files of a training that was killed at step 200 and went on from step 100."""
    with tf.Graph().as_default():
        for i, steps in enumerate([range(0, 201, 20), range(120, 301, 20)]):
            writer = tf.summary.FileWriter(str(tmp_path), filename_suffix=f".{i}")
            for step in steps:
                _add(writer, step, loss=i + 2.0, learning_rate_1=0.1)
            writer.close()
            if i == 0:
                os.rename(_newest(tmp_path), _first(tmp_path))
        writer = tf.summary.FileWriter(str(tmp_path / "eval"))
        _add(writer, 300, loss=2.5, top_1_accuracy=0.9, top_5_accuracy=1.0)
        writer.close()
    return tmp_path


def _add(writer, step, **values):
    values = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    writer.add_summary(tf.Summary(value=values), step)


def _newest(directory):
    (path,) = directory.glob("events.out.tfevents.*")
    return str(path)


def _first(directory):
    return str(directory / "events.out.tfevents.0000000001.first")


def test_curves_of_a_resumed_run(events):
    scalars = curves.read_scalars(str(events))
    assert dict(scalars["loss"]) == {
        **dict.fromkeys(range(0, 120, 20), 2.0),
        **dict.fromkeys(range(120, 301, 20), 3.0),
    }
    with open(_first(events), "r+b") as f:
        f.truncate(os.path.getsize(_first(events)) - 5)  # As a kill leaves it.
    plot_run.main([f"--model_dir={events}"])
    picture = np.array(Image.open(str(events / curves.FILE_NAME)).convert("RGB"))
    assert picture.shape[0] > 500 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert not list(events.glob("*tmp*"))


def test_a_picture_that_cannot_be_drawn_is_no_error(tmp_path, log):
    curves.draw_or_warn(str(tmp_path))
    assert "The curves could not be drawn: The event files in" in log.text
    with pytest.raises(SystemExit, match="tell of no loss and no accuracy"):
        plot_run.main([f"--model_dir={tmp_path}"])
