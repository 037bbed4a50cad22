"""Records of a data set that cannot be used: noticed, named, counted, and tolerated or not.

TensorFlow 1.15 can say that decoding failed, but neither for which record, nor without crashing
where its message quotes bytes that are not UTF-8. So the input pipeline drops what fails
(tf.data.experimental.ignore_errors) and numbers what it reads; a number that never comes out is a
bad record's, and reading that record once more finds out what is wrong with it.
"""

import collections
import threading
from typing import Callable, Dict, Optional, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from common.data import tfrecords
from common.errors import UserError

# Too few to stop a run for, however small the data set is.
_ALWAYS_TOLERATED = 3
# Instead of a record's number: padding.
NO_RECORD = np.iinfo(np.int64).max
# Where a batch needs this many times its records, the data set is useless.
_MOST_BAD = 50


class BadRecords:
    """What goes into decoding and does not come out again, of one iteration over some files.

    The methods but `check` are called from TensorFlow's threads, with and for numpy arrays.

    Args:
        files: paths of the TFRecord files; the pipeline uses their numbers.
        find_problem: from a record's bytes to one sentence's end that says what is wrong with it
            ("has label 0"), or None.
        capacity: how many records can be between `enter` and `leave` at a time.
        on_bad_record: 'fail' at the first bad record, or 'skip' up to `max_bad_fraction`.
        max_bad_fraction: stop where more than this part of `num_images` is bad; 3 bad records are
            always tolerated.
        num_images: number of images there should be in the files.
        known_counts: numbers of records of files that need not be counted, by path.
        raise_errors: whether `leave` raises; else the data ends, so that training ends in order
            and keeps a checkpoint.

    Attributes:
        num_left: how many records came out.
    """

    def __init__(
        self,
        files: Sequence[str],
        find_problem: Callable[[bytes], Optional[str]],
        capacity: int,
        on_bad_record: str,
        max_bad_fraction: float,
        num_images: int,
        known_counts: Optional[Dict[str, int]] = None,
        raise_errors: bool = False,
    ):
        self._files = files
        self._find_problem = find_problem
        self._capacity = capacity
        self._skips = on_bad_record == "skip"
        self._max_bad_fraction = max_bad_fraction
        self._num_images = num_images
        self._counts = dict(known_counts or {})
        self._raise_errors = raise_errors
        self._lock = threading.Lock()
        self._inside = collections.deque()  # (sequence number, file number, index in the file)
        self._found = set()  # (file number, index in the file)
        self._entered = 0  # Since the last batch.
        self.num_left = 0
        self._error = None

    @property
    def limit(self) -> int:
        """How many bad records are tolerated, however often they are read."""
        if not self._skips:
            return 0
        return max(_ALWAYS_TOLERATED, int(self._max_bad_fraction * self._num_images))

    def check(self):
        """Raises UserError where there were more bad records than are tolerated."""
        if self._error:
            raise self._error

    def count(self, file: np.ndarray) -> np.ndarray:
        """Number of records of a file, from their headers; damage among these is one record more.

        So many are to be read from it, with empty ones in place of those that cannot be.
        """
        path = self._files[int(file)]
        if path not in self._counts:
            try:
                records, problem = tfrecords.scan_shard(path)
            except (OSError, tf.errors.OpError):
                records, problem = 0, "cannot be read"
            self._counts[path] = records + (1 if problem else 0)
        return np.int64(self._counts[path])

    def is_readable(self, file: np.ndarray) -> np.bool_:
        """Whether a file can be opened and read at all."""
        try:
            with tf.io.gfile.GFile(self._files[int(file)], "rb") as stream:
                stream.read(1)
        except (OSError, tf.errors.OpError):
            return np.bool_(False)
        return np.bool_(True)

    def enter(self, sequence: np.ndarray, file: np.ndarray, index: np.ndarray) -> np.bool_:
        """Notes records that are about to be decoded.

        Args:
            sequence: int64 [n], growing numbers.
            file: int64 [n], file numbers.
            index: int64 [n], places in the files.

        Returns:
            Whether to go on.
        """
        with self._lock:
            self._inside.extend(
                record
                for record in zip(sequence.tolist(), file.tolist(), index.tolist())
                if record[1:] not in self._found
            )
            self._entered += len(sequence)
            # Where very many are bad, it may take for ever until a batch is full.
            if len(self._inside) > self._capacity + self.limit and not self._error:
                self._search()
            if self._entered > _MOST_BAD * self._capacity:
                self._fail("hardly any of the last records could be used")
            return np.bool_(self._error is None)

    def leave(self, sequence: np.ndarray) -> np.bool_:
        """Takes the numbers of one batch that came out: int64 [batch].

        `NO_RECORD` stands for padding at the end. Numbers that are missing before the last one of
        a batch are bad records'. Returns whether to go on.
        """
        with self._lock:
            self._entered = 0
            self.num_left += int((sequence != NO_RECORD).sum())
            arrived, last = set(sequence.tolist()), sequence.max()
            while self._inside and self._inside[0][0] <= last and not self._error:
                number, file, index = self._inside.popleft()
                if number not in arrived:
                    problem = self._problem(file, index)
                    self._add(file, index, problem or "could not be used, but now it can")
            if self._error and self._raise_errors:
                raise self._error
            return np.bool_(self._error is None)

    def _search(self):
        """Finds the bad ones among those that are inside."""
        for record in list(self._inside):
            problem = self._problem(*record[1:])
            if problem:
                self._add(*record[1:], problem)
                self._inside.remove(record)
            if self._error:
                return

    def _add(self, file: int, index: int, problem: str):
        if (file, index) in self._found:
            return
        self._found.add((file, index))
        where = f"{self._files[file]}: record {index} {problem}"
        if not self._skips:
            self._fail(where)
            return
        tf.logging.warning("Left out: %s. Bad records so far: %d.", where, len(self._found))
        if len(self._found) > self.limit:
            self._fail(
                f"{len(self._found)} bad records are more than --max_bad_fraction="
                f"{self._max_bad_fraction:g} of {self._num_images} images allows, {self.limit}; "
                f"the last: {where}"
            )

    def _fail(self, problem: str):
        advice = "scripts/check_data.py lists all damage"
        if not self._skips:
            advice += "; --on_bad_record=skip leaves such records out"
        self._error = self._error or UserError(f"{problem}. {advice}.")

    def _problem(self, file: int, index: int) -> Optional[str]:
        """Reads a record once more: what is wrong with it, or None."""
        path = self._files[file]
        try:
            records, problem = tfrecords.scan_shard(path)
            if index >= records:
                return f"is not there: {problem.rstrip('.')}" if problem else "is not there"
            for i, record in enumerate(tf.io.tf_record_iterator(path)):
                if i == index:
                    return self._find_problem(record)
        except tf.errors.DataLossError as error:
            return f"cannot be read: {error.message}"
        except (OSError, tf.errors.OpError) as error:
            return f"cannot be read: {error}"
        return "cannot be read"
