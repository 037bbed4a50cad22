"""What the throughput hook measures."""

import pytest

from common import curves
from common.hooks import speed
from common.runtime import tf


def _measure(monkeypatch, steps, **options):
    """Statistics of session runs of two seconds each, which fetched these global steps."""
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    hook = speed.ThroughputHook(batch_size=8, **options)
    hook.after_create_session(None, None)
    for step in steps:
        now[0] += 2.0
        hook.after_run(None, tf.train.SessionRunValues(step, None, None))
    hook.end(None)
    return hook.statistics()


@pytest.mark.parametrize(
    "steps, measured",
    [
        ([1, 2, 3, 4, 5, 6], 4),  # The first run is left out, and the next one begins the time.
        ([1, 2, 2, 4, 5, 5, 7], 5),  # A run may fetch the step before it is counted.
    ],
)
def test_throughput_counts_all_the_time_of_all_steps(steps, measured, monkeypatch):
    figures = _measure(monkeypatch, steps)
    assert figures["measured_steps"] == measured
    assert figures["seconds_per_step"] == pytest.approx(2.0)
    for value in figures["images_per_second"].values():
        assert value == pytest.approx(4.0)


def test_throughput_of_loops_on_the_device(monkeypatch):
    figures = _measure(monkeypatch, [10, 20, 30])
    assert (figures["measured_steps"], figures["seconds_per_step"]) == (10, pytest.approx(0.2))


def test_no_step_no_speed(monkeypatch):
    assert _measure(monkeypatch, [1])["images_per_second"] is None


def test_points_have_as_many_steps_as_asked_and_the_last_one_the_rest(monkeypatch, tmp_path):
    with tf.Graph().as_default():
        _measure(monkeypatch, [1, 2, 3, 4, 5, 6, 7], summary_dir=str(tmp_path), every_n_steps=2)
    points = curves.read_scalars(str(tmp_path))["images_per_second"]
    assert points == [(4, 4.0), (6, 4.0), (7, 4.0)]
