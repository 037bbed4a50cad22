"""The progress of a training, as lines of the log and as a bar."""

import contextlib
import re

from common.hooks import progress
from common.runtime import tf


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


def test_rounds_that_are_shorter_than_the_lines_have_one_each(monkeypatch, log):
    hook = progress.ProgressHook(50, batch_size=8, bar=False, every_n_steps=100)
    clock = _Clock(monkeypatch)
    for start in (0, 7):
        _train(hook, clock, start, steps=7)
    assert [line.split(":")[0] for line in log.messages] == ["Step 7 of 50", "Step 14 of 50"]


def test_bar_ends_its_line_after_an_error(monkeypatch, capsys):
    hook = progress.ProgressHook(12, batch_size=8, bar=True)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr(hook, "end", lambda session: None)  # Which an error leaves out.
    with contextlib.closing(hook):
        _train(hook, _Clock(monkeypatch), start=2, steps=3)
        assert not capsys.readouterr().err.endswith("\n")
    assert capsys.readouterr().err.endswith("\n")


def test_bar(monkeypatch, capsys):
    for name in ("COLUMNS", "LINES", "TQDM_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    hook = progress.ProgressHook(12, batch_size=8, bar=True)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    _train(hook, _Clock(monkeypatch), start=2, steps=10)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "12/12" in bar and re.search(r"loss 1\.25, .* images/s, learning rate 0\.03", bar)
