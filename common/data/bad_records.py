"""Records of a data set that cannot be used: noticed, named, counted, and tolerated or not.

TensorFlow can say that decoding failed, but neither for which record, nor, in some releases,
without crashing where its message quotes bytes that are not UTF-8. So the input pipeline drops what
fails (tf.data.experimental.ignore_errors), and the records are numbered before they are decoded: a
number that is missing afterwards is a bad record's, and reading that record once more finds out
what is wrong with it.

    bad_records = BadRecords(files, ...)
    records = ...                                  # `bad_records.read(file)` of all files
    records = bad_records.before_decode(records)   # (number, data)
    examples = records.map(decode).apply(tf.data.experimental.ignore_errors())
    batches = bad_records.after_decode(examples.batch(...))
"""

import collections
import os
import threading
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from common import runtime
from common.data import tfrecords
from common.errors import UserError
from common.runtime import tf

_READ_BUFFER_BYTES = 256 * 1024
# Records that are noted together; noting them one by one would cost as much as flipping.
_NOTED_TOGETHER = 64
# Too few to stop a run for, however small the data set is.
_ALWAYS_TOLERATED = 3
# Instead of a record's number: padding.
NO_RECORD = np.iinfo(np.int64).max
# Where a batch needs this many times its records, the data set is useless.
_MOST_BAD = 50


class Record(NamedTuple):
    """A record, as an element of a data set.

    Attributes:
        file: int64, number of its file.
        index: int64, place in the file.
        data: string; empty where it cannot be read.
    """

    file: tf.Tensor
    index: tf.Tensor
    data: tf.Tensor


class BadRecords:
    """The records that are read but not decoded, in one iteration over some files.

    Args:
        files: paths of the TFRecord files.
        find_problem: from a record's bytes to one sentence's end that says what is wrong with it
            ("has label 0"), or None.
        capacity: how many records can be decoded but not yet in a whole batch, or in decoding.
        on_bad_record: 'fail' at the first bad record, or 'skip' up to `max_bad_fraction`.
        max_bad_fraction: stop where more than this part of `num_images` is bad; 3 bad records are
            always tolerated.
        num_images: number of images there should be in the files.
        known_counts: numbers of records that files should have, by path.
        images_per_file: so many images an empty file should have had.
        raise_errors: whether too many bad records are an error where batches are read; else the
            data ends, so that training ends in order and keeps a checkpoint.

    Attributes:
        num_decoded: how many records are in the batches so far.
        places: (file, place in it) of the records in the last batch, in order, without padding.
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
        images_per_file: int = 1,
        raise_errors: bool = False,
    ):
        self._files = files
        self._find_problem = find_problem
        self._capacity = capacity + _NOTED_TOGETHER
        self._skips = on_bad_record == "skip"
        self._max_bad_fraction = max_bad_fraction
        self._num_images = num_images
        self._known_counts = known_counts or {}
        self._images_per_file = images_per_file
        self._scanned = {}
        self._raise_errors = raise_errors
        self._lock = threading.Lock()
        self._pending = collections.deque()  # (number, file, index) of those in decoding.
        self._found = set()  # (file, index) of the bad ones.
        self._num_lost = 0  # Images.
        self._read_since_batch = 0
        self.num_decoded = 0
        self.places = []
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

    # Steps of the input pipeline -----------------------------------------------------------------

    def read(self, file: tf.Tensor) -> tf.data.Dataset:
        """The `Record`s of a file, given its number: int64 []."""
        # A file that cannot be opened would fail for ever: it counts as one without records.
        path = tf.gather(list(self._files), file)
        path = tf.where(call_python(self._is_readable, tf.bool, file), path, os.devnull)
        data = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
        # TensorFlow would reserve as much memory as a damaged header claims.
        data = data.take(call_python(self._count_whole, tf.int64, file))
        # After damage nothing more comes from a file; empty records take the place of what is lost.
        data = data.apply(tf.data.experimental.ignore_errors())
        data = data.concatenate(tf.data.Dataset.from_tensors("").repeat())
        data = data.take(call_python(self._count, tf.int64, file))
        return tf.data.Dataset.zip(
            Record(
                file=tf.data.Dataset.from_tensors(file).repeat(),
                index=tf.data.Dataset.range(NO_RECORD),
                data=data,
            )
        )

    def before_decode(self, records: tf.data.Dataset) -> tf.data.Dataset:
        """Numbers and notes `Record`s: (number, data) of each."""
        # Batches are made and undone without copying.
        records = records.enumerate().batch(_NOTED_TOGETHER)
        records = records.apply(
            tf.data.experimental.take_while(
                lambda number, record: call_python(
                    self._note_read, tf.bool, number, record.file, record.index
                )
            )
        )
        return records.map(lambda number, record: (number, record.data)).unbatch()

    def after_decode(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Finds the bad ones by the numbers that are missing: x of batches of (number, x)."""
        batches = batches.apply(
            tf.data.experimental.take_while(
                lambda number, batch: call_python(self._note_decoded, tf.bool, number)
            )
        )
        return batches.map(lambda number, batch: batch)

    # What they call, from TensorFlow's threads ---------------------------------------------------

    def _is_readable(self, file: np.ndarray) -> np.bool_:
        """Whether a file can be opened and read: asked each time, as it may vanish meanwhile."""
        try:
            with tf.io.gfile.GFile(self._files[int(file)], "rb") as stream:
                stream.read(1)
        except (OSError, tf.errors.OpError):
            return np.bool_(False)
        return np.bool_(True)

    def _count(self, file: np.ndarray) -> np.ndarray:
        """Number of records of a file; damage among their headers is one record more.

        So many are to be read from it, with empty ones in place of those that cannot be.
        """
        path = self._files[int(file)]
        if path in self._known_counts:
            return np.int64(self._known_counts[path])
        records, problem = self._scan(path)
        return np.int64(records + (1 if problem else 0))

    def _count_whole(self, file: np.ndarray) -> np.ndarray:
        """Number of records that come before the first damage among a file's headers."""
        return np.int64(self._scan(self._files[int(file)])[0])

    def _scan(self, path: str) -> Tuple[int, Optional[str]]:
        """`tfrecords.scan_shard`, once for each file."""
        if path not in self._scanned:
            try:
                self._scanned[path] = tfrecords.scan_shard(path)
            except (OSError, tf.errors.OpError):
                self._scanned[path] = 0, "cannot be read"
        return self._scanned[path]

    def _note_read(self, number: np.ndarray, file: np.ndarray, index: np.ndarray) -> np.bool_:
        """Notes records that are about to be decoded.

        Args:
            number: int64 [n], growing.
            file, index: int64 [n], see `Record`.

        Returns:
            Whether to go on.
        """
        with self._lock:
            self._pending.extend(
                record
                for record in zip(number.tolist(), file.tolist(), index.tolist())
                if record[1:] not in self._found
            )
            self._read_since_batch += len(number)
            # Where very many are bad, it may take for ever until a batch is full.
            if len(self._pending) > self._capacity + self.limit and not self._error:
                self._search()
            if self._read_since_batch > _MOST_BAD * self._capacity:
                self._fail("hardly any of the last records could be used")
            return np.bool_(self._error is None)

    def _note_decoded(self, number: np.ndarray) -> np.bool_:
        """Takes the numbers of one batch: int64 [batch].

        `NO_RECORD` stands for padding at the end. Numbers that are missing before the last one of
        a batch are bad records'. Returns whether to go on.
        """
        with self._lock:
            self._read_since_batch = 0
            self.num_decoded += int((number != NO_RECORD).sum())
            decoded, last = set(number.tolist()), number.max()
            self.places = []
            while self._pending and self._pending[0][0] <= last and not self._error:
                pending, file, index = self._pending.popleft()
                if pending in decoded:
                    self.places.append((self._files[file], index))
                else:
                    problem = self._problem(file, index)
                    self._add(file, index, problem or "could not be used, but now it can")
            if self._error and self._raise_errors:
                raise self._error
            return np.bool_(self._error is None)

    def _search(self):
        """Finds the bad ones among those in decoding."""
        # A small data set has each record several times here, and to read it takes long.
        for place in sorted({record[1:] for record in self._pending} - self._found):
            problem = self._problem(*place)
            if problem:
                self._add(*place, problem)
            if self._error:
                return
        self._pending = collections.deque(r for r in self._pending if r[1:] not in self._found)

    def _add(self, file: int, index: int, problem: str):
        if (file, index) in self._found:
            return
        self._found.add((file, index))
        self._num_lost += self._num_images_lost(file, index)
        where = f"{self._files[file]}: record {index} {problem}"
        if not self._skips:
            self._fail(where)
            return
        tf.logging.warning("Left out: %s. Bad records so far: %d.", where, self._num_lost)
        if self._num_lost > self.limit:
            self._fail(
                f"{self._num_lost} bad records are more than --max_bad_fraction="
                f"{self._max_bad_fraction:g} of {self._num_images} images allows, {self.limit}; "
                f"the last: {where}"
            )

    def _num_images_lost(self, file: int, index: int) -> int:
        """One, but where the first record stands for an empty file."""
        path = self._files[file]
        is_empty = path not in self._known_counts and not self._scan(path)[0]
        return self._images_per_file if is_empty else 1

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
                if i == index:  # Not further: see `scan_shard`.
                    return self._find_problem(record)
        except tf.errors.DataLossError as error:
            return f"cannot be read: {runtime.error_message(error)}"
        except (OSError, tf.errors.OpError) as error:
            return f"cannot be read: {error}"
        return "cannot be read"


def call_python(function: Callable, dtype: tf.DType, *args: tf.Tensor) -> tf.Tensor:
    """A Python function's answer, a scalar."""
    answer = tf.numpy_function(function, args, dtype)
    answer.set_shape([])
    return answer
