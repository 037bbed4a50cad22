"""Figures of a report against their definitions."""

import numpy as np
import pytest

from common.report import statistics
from common.report.accumulate import Accumulator
from common.report.accumulate_test import batch


def _found(num_classes, *answers, **options):
    found = Accumulator(num_classes)
    found.add(batch(*answers, **options))
    return found


def test_classes():
    found = _found(5, [1, 1, 1, 2], [1, 1, 3, 1], [0.9] * 4)
    rows = {row.label: row for row in statistics.classes(found)}
    assert sorted(rows) == [1, 2, 3]  # Neither seen nor given: 0 and 4.
    assert (rows[1].recall, rows[1].precision) == (2 / 3, 2 / 3)
    assert (rows[2].recall, rows[2].precision) == (0.0, None)
    assert (rows[3].recall, rows[3].precision) == (None, 0.0)
    assert rows[1].recall_top_5 == 2 / 3 and rows[3].recall_top_5 is None


def test_confusions():
    found = _found(4, [1, 2, 2, 2, 3, 3], [1, 1, 3, 3, 3, 2], [0.9] * 6)
    assert statistics.confusions(found) == [(2, 3, 2), (2, 1, 1), (3, 2, 1)]


def test_calibration_error_by_its_definition():
    random = np.random.RandomState(0)
    confidences = random.uniform(0.1, 1, 400)
    labels = np.zeros(400, int)
    given = np.where(random.uniform(size=400) < confidences**2, 0, 1)
    found = _found(2, labels, given, confidences)
    expected = 0.0
    for i in range(15):
        inside = (confidences >= i / 15) & (confidences < (i + 1) / 15)
        if inside.any():
            gap = (given[inside] == 0).mean() - confidences[inside].mean()
            expected += inside.sum() / 400 * abs(gap)
    assert statistics.calibration_error(found) == pytest.approx(expected, abs=1e-6)
    assert expected > 0.1
    assert sum(one.images for one in statistics.reliability(found)) == 400


def test_thresholds():
    found = _found(2, [0, 0, 0, 1], [0, 0, 1, 1], [0.95, 0.6, 0.7, 0.3])
    rows = statistics.thresholds(found, [0.0, 0.5, 0.65, 0.9, 0.99])
    assert [row.answered for row in rows] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [row.accuracy for row in rows] == [0.75, 2 / 3, 0.5, 1.0, None]


def test_suspected_labels_are_confident_for_their_class():
    """Class 1 has 0.9 where it is right, so that 0.8 is no suspicion; of class 2, 0.6 is enough."""
    labels, given = [1, 1, 2, 2, 3, 3, 3, 3], [1, 1, 2, 2, 1, 1, 2, 2]
    confidences = [0.9, 0.9, 0.55, 0.55, 0.8, 0.95, 0.6, 0.52]
    found = _found(4, labels, given, confidences)
    assert [e.source.record for e in statistics.suspected_labels(found)] == [5, 6]
    weak = _found(3, [1, 2], [1, 1], [0.2, 0.4], label_probabilities=[0.2, 0.1])
    assert statistics.suspected_labels(weak) == []  # Less than half.
    unknown = _found(3, [1], [2], [0.9])
    assert statistics.suspected_labels(unknown) == []  # Nothing is usual of a class never seen.


def test_of_nothing():
    found = Accumulator(3)
    assert statistics.calibration_error(found) == 0.0
    assert statistics.thresholds(found, [0.0]) == [(0.0, 0.0, None)]
    figures = statistics.as_json(found, ["a", "b", "c"], [0.5])
    assert figures["classes"] == figures["confusions"] == figures["mistakes"] == []
