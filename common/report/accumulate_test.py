"""Counts and examples of an evaluation, whole or in shares."""

import json

import numpy as np
import pytest

from common.report import accumulate
from common.report.accumulate import Accumulator, Batch, Source

_CLASSES = 7


def batch(labels, given, confidences, first=0, label_probabilities=None):
    """Answers with given confidences; the picture of an image is its number."""
    labels, given = np.array(labels), np.array(given)
    confidences = np.array(confidences, np.float32)
    if label_probabilities is None:
        label_probabilities = np.where(labels == given, confidences, 0.1)
    return Batch(
        labels,
        given,
        labels == given,
        confidences,
        np.array(label_probabilities, np.float32),
        np.stack([given, labels], axis=1),
        np.stack([confidences, 1 - confidences], axis=1),
        [Source("file", first + i, f"{first + i}.jpg") for i in range(len(labels))],
        lambda i: (str(first + i).encode(),),
    )


def _random(count, seed=0):
    random = np.random.RandomState(seed)
    labels, given = random.randint(0, _CLASSES, (2, count))
    given = np.where(random.uniform(size=count) < 0.5, labels, given)
    # All different, so that the order of examples is no matter of chance.
    return labels, given, random.permutation(count) / count


def _accumulated(labels, given, confidences, size=16, start=0, step=1):
    found = Accumulator(_CLASSES)
    numbers = np.arange(start, len(labels), step)
    for i in range(0, len(numbers), size):
        part = numbers[i : i + size]
        one = batch(labels[part], given[part], confidences[part])
        found.add(
            one._replace(
                sources=[Source("file", int(n)) for n in part],
                pictures=lambda i, part=part: (b"%d" % part[i],),
            )
        )
    return found


def test_counts_are_those_of_the_answers():
    labels, given, confidences = _random(500)
    found = _accumulated(labels, given, confidences)
    assert found.num_images == 500 and found.num_right == (labels == given).sum()
    for label in range(_CLASSES):
        for other in range(_CLASSES):
            expected = ((labels == label) & (given == other)).sum()
            assert found.confusion[label, other] == expected
    images, right, total = found.confidences.sum(axis=1)
    assert (images, right) == (500, found.num_right)
    assert total == pytest.approx(confidences.sum(), rel=1e-6)


def test_examples_are_the_most_extreme_ones():
    labels, given, confidences = _random(500)
    found = _accumulated(labels, given, confidences)
    wrong, right = np.flatnonzero(labels != given), np.flatnonzero(labels == given)
    most = wrong[np.argsort(-confidences[wrong])][: accumulate.MISTAKES]
    least = right[np.argsort(confidences[right])][: accumulate.LEAST_CERTAIN]
    assert [e.source.record for e in found.mistakes] == most.tolist()
    assert [e.source.record for e in found.least_certain] == least.tolist()
    first = next(iter(found.mistakes))
    assert first.pictures == (b"%d" % most[0],)
    assert (first.label, first.given) == (labels[most[0]], given[most[0]])
    assert len(list(found.suspects)) == len(wrong)
    assert all(not e.pictures for e in found.suspects)


def test_pictures_are_made_of_examples_only():
    made = []
    found = Accumulator(2)
    one = batch([0] * 1000, [0] * 1000, np.linspace(0.1, 1.0, 1000))
    found.add(one._replace(pictures=lambda i: made.append(i) or ()))
    assert made == list(range(accumulate.LEAST_CERTAIN))


def test_shares_together_are_the_whole():
    answers = _random(500)
    whole = _accumulated(*answers)
    merged = _accumulated(*answers, start=0, step=3)
    for start in (1, 2):
        share = _accumulated(*answers, start=start, step=3)
        merged.merge(json.loads(json.dumps(share.to_json())))
    np.testing.assert_array_equal(merged.confusion, whole.confusion)
    np.testing.assert_array_equal(merged.in_top_5, whole.in_top_5)
    np.testing.assert_allclose(merged.confidences, whole.confidences)
    np.testing.assert_allclose(merged.label_probabilities, whole.label_probabilities)
    for name in ("mistakes", "least_certain", "suspects"):
        assert list(getattr(merged, name)) == list(getattr(whole, name))


def test_what_is_not_a_number_is_no_confidence():
    found = Accumulator(2)
    found.add(batch([0, 1], [1, 0], [np.nan, 0.5], label_probabilities=[np.nan, 0.5]))
    assert [e.confidence for e in found.mistakes] == [0.5, 0.0]
    assert found.confidences[0, 0] == 1
    assert "NaN" not in json.dumps(found.to_json())


def test_memory_is_bounded():
    found = Accumulator(3)
    for first in range(0, 5000, 500):
        found.add(batch([1] * 500, [2] * 500, np.linspace(0, 1, 500), first))
    assert len(list(found.suspects)) == accumulate.SUSPECTS
    assert len(list(found.mistakes)) == accumulate.MISTAKES
