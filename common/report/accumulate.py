"""What a report needs of an evaluation, gathered batch by batch in bounded memory."""

import base64
import functools
import heapq
import itertools
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

# Of the histogram over confidences: 100 bins for each of the 15 of the reliability diagram.
CONFIDENCE_BINS = 1500
# Examples that are kept.
MISTAKES = 24
LEAST_CERTAIN = 12
SUSPECTS = 1000


class Source(NamedTuple):
    """Where an image comes from.

    Attributes:
        file: path of the TFRecord file; '' if there is none.
        record: place in the file, or in the evaluation if there is no file.
        name: file name of the original image; '' if nobody wrote it down.
    """

    file: str
    record: int
    name: str = ""


class Batch(NamedTuple):
    """What the network answered about some images, one row each.

    Attributes:
        labels: int [n], the true classes.
        given: int [n], the network's.
        in_top_5: bool [n], whether the label is among the five most probable classes.
        confidences: float [n], probabilities of the given classes.
        label_probabilities: float [n], those of the labels.
        top_classes, top_probabilities: [n, k], the most probable first.
        sources: of the images.
        pictures: from a row to encoded images that show it, or ().
    """

    labels: np.ndarray
    given: np.ndarray
    in_top_5: np.ndarray
    confidences: np.ndarray
    label_probabilities: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    sources: Sequence[Source]
    pictures: Callable[[int], Tuple[bytes, ...]]


class Example(NamedTuple):
    """One image and its answer; see `Batch` for the attributes."""

    source: Source
    label: int
    given: int
    confidence: float
    label_probability: float
    top: Tuple[Tuple[int, float], ...]
    pictures: Tuple[bytes, ...] = ()


class Largest:
    """The `capacity` examples with the largest keys."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._heap = []
        self._order = itertools.count()  # Of equal keys the first one stays.

    def offer(self, key: float, make: Callable[[], Example]):
        """Takes an example, which is made only if it is taken."""
        entry = (key, -next(self._order))
        if len(self._heap) < self._capacity:
            heapq.heappush(self._heap, (*entry, make()))
        elif entry > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (*entry, make()))

    def items(self) -> List[Tuple[float, Example]]:
        """(key, example), the largest key first."""
        return [(key, example) for key, _, example in sorted(self._heap, reverse=True)]

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in self.items())


class Accumulator:
    """Counts and examples of an evaluation.

    Attributes:
        confusion: int32 [classes, classes], images of a class (row) that were given another.
        in_top_5: int64 [classes], images of a class that have it among the first five.
        label_probabilities: float64 [classes], sum over the images of a class of its probability.
        confidences: float64 [3, CONFIDENCE_BINS]: of each bin the number of images, the number of
            right answers, and the sum of the confidences.
        mistakes: wrong answers, the most confident first.
        least_certain: right answers, the least confident first.
        suspects: wrong answers by how much more probable the given class is than the label.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.confusion = np.zeros([num_classes, num_classes], np.int32)
        self.in_top_5 = np.zeros(num_classes, np.int64)
        self.label_probabilities = np.zeros(num_classes)
        self.confidences = np.zeros([3, CONFIDENCE_BINS])
        self.mistakes = Largest(MISTAKES)
        self.least_certain = Largest(LEAST_CERTAIN)
        self.suspects = Largest(SUSPECTS)

    @property
    def num_images(self) -> int:
        return int(self.confusion.sum())

    @property
    def num_right(self) -> int:
        return int(np.trace(self.confusion))

    def add(self, batch: Batch):
        # What is not a number is no confidence.
        batch = batch._replace(
            confidences=np.nan_to_num(batch.confidences.astype(np.float64)),
            label_probabilities=np.nan_to_num(batch.label_probabilities.astype(np.float64)),
            top_probabilities=np.nan_to_num(batch.top_probabilities.astype(np.float64)),
        )
        labels, confidences = batch.labels, batch.confidences
        of_labels = batch.label_probabilities
        right = labels == batch.given
        np.add.at(self.confusion, (labels, batch.given), 1)
        np.add.at(self.in_top_5, labels, batch.in_top_5.astype(np.int64))
        np.add.at(self.label_probabilities, labels, of_labels)
        bins = np.minimum((confidences * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        for row, weights in enumerate((np.ones_like(confidences), right, confidences)):
            self.confidences[row] += np.bincount(bins, weights, CONFIDENCE_BINS)
        for i in range(len(labels)):
            shown = functools.partial(_example, batch, i)
            if right[i]:
                self.least_certain.offer(-confidences[i], shown)
            else:
                self.mistakes.offer(confidences[i], shown)
                listed = functools.partial(_example, batch, i, with_pictures=False)
                self.suspects.offer(confidences[i] - of_labels[i], listed)

    # What several processes exchange -------------------------------------------------------------

    def to_json(self) -> Dict[str, Any]:
        """Everything, as values that JSON can represent."""
        rows, columns = np.nonzero(self.confusion)
        return {
            "confusion": [
                rows.tolist(),
                columns.tolist(),
                self.confusion[rows, columns].tolist(),
            ],
            "in_top_5": self.in_top_5.tolist(),
            "label_probabilities": self.label_probabilities.tolist(),
            "confidences": self.confidences.tolist(),
            **{
                name: [[key, _to_json(example)] for key, example in getattr(self, name).items()]
                for name in ("mistakes", "least_certain", "suspects")
            },
        }

    def merge(self, other: Dict[str, Any]):
        """Adds what another process has found, as its `to_json` says."""
        rows, columns, counts = other["confusion"]
        np.add.at(self.confusion, (rows, columns), counts)
        self.in_top_5 += np.array(other["in_top_5"])
        self.label_probabilities += np.array(other["label_probabilities"])
        self.confidences += np.array(other["confidences"])
        for name in ("mistakes", "least_certain", "suspects"):
            for key, values in other[name]:
                getattr(self, name).offer(key, functools.partial(_from_json, values))


def _example(batch: Batch, i: int, with_pictures: bool = True) -> Example:
    top = zip(batch.top_classes[i].tolist(), batch.top_probabilities[i].tolist())
    return Example(
        batch.sources[i],
        int(batch.labels[i]),
        int(batch.given[i]),
        float(batch.confidences[i]),
        float(batch.label_probabilities[i]),
        tuple(top),
        batch.pictures(i) if with_pictures else (),
    )


def _to_json(example: Example) -> list:
    pictures = [base64.b64encode(picture).decode("ascii") for picture in example.pictures]
    return [*example[:-1], pictures]


def _from_json(values: list) -> Example:
    source, *answer, top, pictures = values
    return Example(
        Source(*source),
        *answer,
        tuple((label, probability) for label, probability in top),
        tuple(base64.b64decode(picture) for picture in pictures),
    )
