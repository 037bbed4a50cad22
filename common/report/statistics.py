"""Figures from an evaluation's counts: of classes, confusions, confidence, suspected labels."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from common.report.accumulate import CONFIDENCE_BINS, Accumulator, Example

# As in Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
RELIABILITY_BINS = 15
# A wrong label is not suspected on weaker evidence than this, whatever the class.
LEAST_CONFIDENCE = 0.5
# The thresholds on the confidence that report.json and the page's curve have.
HUNDREDTHS = tuple(i / 100 for i in range(100))


class ClassFigures(NamedTuple):
    """One class: precision and recall are None if there is nothing to divide by."""

    label: int
    images: int
    given: int
    right: int
    right_top_5: int

    @property
    def recall(self) -> Optional[float]:
        return self.right / self.images if self.images else None

    @property
    def recall_top_5(self) -> Optional[float]:
        return self.right_top_5 / self.images if self.images else None

    @property
    def precision(self) -> Optional[float]:
        return self.right / self.given if self.given else None


class Confusion(NamedTuple):
    """How many images of a class were given another."""

    label: int
    given: int
    images: int


class Bin(NamedTuple):
    """The answers whose confidence is in an interval; the means are None if there is none."""

    low: float
    high: float
    images: int
    confidence: Optional[float]
    accuracy: Optional[float]


class Threshold(NamedTuple):
    """What remains if answers below a confidence are refused; accuracy is None of nothing."""

    confidence: float
    answered: float
    accuracy: Optional[float]


def classes(found: Accumulator) -> List[ClassFigures]:
    """The classes that were seen or given at least once."""
    images, given = found.confusion.sum(axis=1), found.confusion.sum(axis=0)
    columns = (images, given, np.diag(found.confusion), found.in_top_5)
    rows = zip(range(found.num_classes), *(column.tolist() for column in columns))
    return [ClassFigures(*row) for row in rows if row[1] or row[2]]


def confusions(found: Accumulator) -> List[Confusion]:
    """Pairs of classes, the most frequent confusion first."""
    labels, given = np.nonzero(found.confusion)
    images = found.confusion[labels, given]
    order = np.argsort(-images, kind="stable")
    order = order[labels[order] != given[order]]
    columns = (labels[order], given[order], images[order])
    return [Confusion(*row) for row in zip(*(column.tolist() for column in columns))]


def reliability(found: Accumulator) -> List[Bin]:
    """Accuracy of the answers by confidence, in intervals of the same width."""
    sums = found.confidences.reshape(3, RELIABILITY_BINS, -1).sum(axis=2)
    edges = [i / RELIABILITY_BINS for i in range(RELIABILITY_BINS + 1)]
    return [
        Bin(low, high, int(n), total / n if n else None, right / n if n else None)
        for low, high, (n, right, total) in zip(edges, edges[1:], sums.T.tolist())
    ]


def calibration_error(found: Accumulator) -> float:
    """Expected calibration error: how far accuracy and confidence are apart, in the mean."""
    gaps = [b.images * abs(b.accuracy - b.confidence) for b in reliability(found) if b.images]
    return sum(gaps) / max(1, found.num_images)


def thresholds(found: Accumulator, confidences: Sequence[float]) -> List[Threshold]:
    """What each of some thresholds on the confidence would do."""
    images, right, _ = found.confidences
    rows = []
    for confidence in confidences:
        first = min(round(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)
        kept = images[first:].sum()
        rows.append(
            Threshold(
                confidence,
                float(kept / max(1, found.num_images)),
                float(right[first:].sum() / kept) if kept else None,
            )
        )
    return rows


def suspected_labels(found: Accumulator) -> List[Example]:
    """Images whose label may be wrong, the strongest suspicion first.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068): the network gives another class at
    least as much probability as it gives that class, in the mean, where it is the label; and more
    than half. Of the examples that `found` has kept.
    """
    images = found.confusion.sum(axis=1)
    usual = found.label_probabilities / np.maximum(1, images)
    return [
        example
        for example in found.suspects
        if images[example.given]
        and example.confidence >= max(LEAST_CONFIDENCE, usual[example.given])
    ]


def as_json(found: Accumulator, names: Sequence[str], shown: Sequence[float]) -> Dict[str, Any]:
    """All figures, for report.json; `shown` are the confidences of `thresholds`."""
    return {
        "classes": [
            {
                "name": names[row.label],
                **row._asdict(),
                "precision": row.precision,
                "recall": row.recall,
            }
            for row in classes(found)
        ],
        "confusions": [dict(row._asdict()) for row in confusions(found)],
        "expected_calibration_error": calibration_error(found),
        "reliability": [dict(row._asdict()) for row in reliability(found)],
        "thresholds": [dict(row._asdict()) for row in thresholds(found, shown)],
        "mistakes": [example_as_json(example, names) for example in found.mistakes],
        "least_certain": [example_as_json(example, names) for example in found.least_certain],
        "suspected_labels": [example_as_json(e, names) for e in suspected_labels(found)],
    }


def example_as_json(example: Example, names: Sequence[str]) -> Dict[str, Any]:
    return {
        **example.source._asdict(),
        "label": example.label,
        "label_name": names[example.label],
        "label_probability": example.label_probability,
        "given": example.given,
        "given_name": names[example.given],
        "confidence": example.confidence,
        "top": [
            {"class": label, "name": names[label], "probability": p} for label, p in example.top
        ],
    }
