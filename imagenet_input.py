"""TFRecord files of ImageNet's layout -> batches."""

import contextlib
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError

import inception_preprocessing
from common.data import tfrecords
from common.data.bad_records import NO_RECORD, BadRecords
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.hparams import HParams

# Label of the images that only fill up the last batch of an evaluation.
PADDING_LABEL = -1

_READ_BUFFER_BYTES = 256 * 1024
_FILES_OPEN = 16
_SHUFFLE_IMAGES = 1024
# Records that are noted together; noting them one by one would cost as much as flipping.
_NOTED_TOGETHER = 64
# Processes that share the cores of a host, at most: the Ascend 910's hosts have eight of them.
_PROCESSES_PER_HOST = 8

_FEATURES = {
    "image/encoded": tf.FixedLenFeature([], tf.string),
    "image/class/label": tf.FixedLenFeature([], tf.int64),
}
_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_LONGEST_SIGNATURE = 4


def find_shards(data_dir: str, split: str, hparams: HParams) -> Sequence[str]:
    """`tfrecords.find_shards`, of a set that is complete unless bad records may be skipped.

    Raises:
        UserError: there is none, or more is missing than `hparams` allow.
    """
    try:
        files = tfrecords.find_shards(data_dir, split)
        missing = tfrecords.missing_shards(files)
    except UserError as error:
        raise UserError(f"--data_dir: {error}") from error
    if missing:
        found = f"{len(missing)} of {len(files) + len(missing)} {split} shards are missing"
        found = f"--data_dir={data_dir}: {found}, {missing[0]} for one"
        if hparams.on_bad_record == "fail":
            raise UserError(f"{found}; complete them, or set --on_bad_record=skip.")
        if len(missing) > hparams.max_bad_fraction * (len(files) + len(missing)):
            raise UserError(
                f"{found}; --max_bad_fraction={hparams.max_bad_fraction:g} are allowed."
            )
        tf.logging.warning("%s.", found)
    return files


def check_num_eval_images(data_dir: str, hparams: HParams):
    """Checks that the validation files hold as many images as are to be evaluated.

    Raises:
        UserError: they do not, or a file is damaged and damage is not to be skipped.
    """
    files = find_shards(data_dir, "validation", hparams)
    found, wanted = 0, hparams.num_eval_images
    for path in files:
        records, problem = tfrecords.scan_shard(path)
        found += records
        if problem and hparams.on_bad_record == "fail":
            raise UserError(f"--data_dir: {problem} Mend it, or set --on_bad_record=skip.")
    if found < wanted and hparams.on_bad_record == "fail":
        raise UserError(
            f"--num_eval_images={wanted}: the {len(files)} validation files in "
            f"{data_dir} hold {found} images. Set it to {found}, or complete the files."
        )
    if found != wanted:
        tf.logging.warning("%d images are there, and %d are to be evaluated.", found, wanted)


class InputPipeline:
    """Batches of the training or of the validation images.

    Training batches repeat forever, in another order each epoch. Evaluation has each image once,
    in the order of the files; its last batch is filled up with black images of `PADDING_LABEL`.

    Args:
        is_training: which split, and which preprocessing.
        data_dir: directory of the TFRecord files; unused with `hparams.synthetic_data`.
        hparams: see `amoeba_net_model.build_hparams`.
        eval_from_hub: images in [0, 1], as TF-Hub modules take them, not in [-1, 1].
        sharding: if several processes share the images, gives their number and this one's index.
            In training each reads a share of every batch; in evaluation `hparams.num_eval_images`
            are those of its share.
        num_devices: devices that train together; a process may have several, and its batches are
            for one of them after the other.

    Attributes:
        start_step: the global step training goes on from; with `hparams.random_seed` it makes the
            order and the distortions others than from step 0.
    """

    def __init__(
        self,
        is_training: bool,
        data_dir: str,
        hparams: HParams,
        eval_from_hub: bool = False,
        sharding: Optional[Callable[[], Tuple[int, int]]] = None,
        num_devices: int = 1,
    ):
        self.is_training = is_training
        self.data_dir = data_dir
        self.hparams = hparams
        self.eval_from_hub = eval_from_hub
        self.start_step = 0
        self._num_devices = num_devices
        self._sharding = sharding or (lambda: (1, 0))
        self._bad_records = None

    @property
    def batch_size(self) -> int:
        if self.is_training:
            return self.hparams.train_batch_size // max(self._sharding()[0], self._num_devices)
        return self.hparams.eval_batch_size

    # Converting these plain functions with AutoGraph would cost seconds and import all of contrib.
    @tf.autograph.experimental.do_not_convert
    def input_fn(self, params=None) -> tf.data.Dataset:
        """Dataset of (float32 images [batch, size, size, 3], int32 labels [batch])."""
        batch_size = (params or {}).get("batch_size", self.batch_size)
        if self.hparams.synthetic_data:
            return self._synthetic(batch_size)
        split = "train" if self.is_training else "validation"
        files = find_shards(self.data_dir, split, self.hparams)
        self._bad_records = self._bad_records_of(files, batch_size)
        dataset = self._examples(self._records(files))
        if not self.is_training:
            dataset = self._padded(dataset, batch_size)
        dataset = dataset.batch(batch_size, drop_remainder=True)
        dataset = dataset.apply(
            tf.data.experimental.take_while(
                lambda image, label, number: _call(self._bad_records.leave, tf.bool, number)
            )
        )
        dataset = dataset.map(lambda images, labels, number: (images, labels))
        return dataset.prefetch(2).with_options(self._options())

    @property
    def num_images(self) -> int:
        """Images in the batches so far, without padding and bad records; 0 for synthetic data."""
        return self._bad_records.num_left if self._bad_records else 0

    @contextlib.contextmanager
    def naming_bad_records(self):
        """Around what reads the batches: raises UserError where bad records ended them."""
        self._bad_records = None
        try:
            yield
        except tf.errors.OpError:
            self._check()
            raise
        self._check()

    def _check(self):
        if self._bad_records:
            self._bad_records.check()

    def _bad_records_of(self, files: Sequence[str], batch_size: int) -> BadRecords:
        hparams = self.hparams
        num_images = hparams.num_eval_images  # Of this process's share.
        if self.is_training:
            num_images = hparams.num_train_images // self._sharding()[0]
        return BadRecords(
            files,
            lambda record: find_problem(record, hparams.num_label_classes),
            capacity=batch_size + _NOTED_TOGETHER + self._parallel_calls(),
            on_bad_record=hparams.on_bad_record,
            max_bad_fraction=hparams.max_bad_fraction,
            num_images=num_images,
            known_counts=_known_counts(self.data_dir, files),
            raise_errors=not self.is_training,
        )

    # Reading -------------------------------------------------------------------------------------

    def _records(self, files: Sequence[str]) -> tf.data.Dataset:
        """(number, file number, index in the file, record) of each; in training without end.

        All but the record are int64. A record that cannot be read is empty.
        """
        if self.is_training:
            numbers, part_numbers, parts = self._share(len(files))
            dataset = tf.data.Dataset.from_tensor_slices((numbers, part_numbers))
            dataset = dataset.shuffle(len(numbers), seed=self._seed())
            dataset = dataset.interleave(
                lambda file, part: self._read_file(files, file, parts, part),
                cycle_length=min(_FILES_OPEN, len(numbers)),
            )
            dataset = dataset.shuffle(_SHUFFLE_IMAGES, seed=self._seed()).repeat()
        else:
            dataset = tf.data.Dataset.range(len(files))
            dataset = dataset.flat_map(lambda file: self._read_file(files, file))
            dataset = dataset.shard(*self._sharding()).take(self.hparams.num_eval_images)
        # What is noted goes through in batches, which are made and undone without copying.
        dataset = dataset.enumerate().batch(_NOTED_TOGETHER)
        dataset = dataset.apply(
            tf.data.experimental.take_while(
                lambda number, record: _call(
                    self._bad_records.enter, tf.bool, number, record[0], record[1][0]
                )
            )
        )
        return dataset.unbatch()

    def _share(self, num_files: int) -> Tuple[np.ndarray, np.ndarray, int]:
        """What this process reads: (file numbers, part of each, parts a file has).

        Shares are disjoint and together are all images: whole files where they divide evenly, else
        of each file its own records, so that no share is much larger than another.
        """
        shares, index = self._sharding()
        files = np.arange(num_files)
        if num_files % shares == 0:
            files = files[index::shares]
            return files, np.zeros_like(files), 1
        # Another part of each file, since a file's first parts may have a record more.
        return files, (index + files) % shares, shares

    def _read_file(self, files: Sequence[str], file: tf.Tensor, parts: int = 1, part=0):
        """(file number, (index, record)) of the records, or of each `parts`-th of them."""
        # A file that cannot be opened would fail for ever: it counts as one without records.
        is_readable = _call(self._bad_records.is_readable, tf.bool, file)
        path = tf.where(is_readable, tf.gather(files, file), os.devnull)
        records = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
        # After damage nothing more comes from a file; empty records take the place of what is lost.
        records = records.apply(tf.data.experimental.ignore_errors())
        records = records.concatenate(tf.data.Dataset.from_tensors("").repeat())
        records = records.take(_call(self._bad_records.count, tf.int64, file))
        file_number = tf.data.Dataset.from_tensors(file).repeat()
        return tf.data.Dataset.zip((file_number, records.enumerate())).shard(parts, part)

    # Decoding ------------------------------------------------------------------------------------

    def _examples(self, records: tf.data.Dataset) -> tf.data.Dataset:
        """(image, label, number) of `_records`, without the bad ones."""

        def decode(number, record):
            if self._seed() is not None:
                tf.set_random_seed(self._seed())  # Of this function alone.
            return (*self.parse_example(record[1][1]), number)

        # One after another, random numbers come in the same order each time.
        calls = None if self.hparams.deterministic_input else self._parallel_calls()
        examples = records.map(decode, num_parallel_calls=calls)
        return examples.apply(tf.data.experimental.ignore_errors())

    def parse_example(self, serialized: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """One record -> (float32 image [size, size, 3], int32 label []); fails where it is bad."""
        hparams = self.hparams
        encoded, label = parse_record(serialized, hparams.num_label_classes)
        image = inception_preprocessing.preprocess_bytes(
            encoded,
            hparams.image_size,
            is_training=self.is_training and hparams.augment,
            scaled_images=not self.eval_from_hub,
            use_fast_color_distort=hparams.use_fast_color_distort,
            cb_distortion_range=hparams.cb_distortion_range,
            cr_distortion_range=hparams.cr_distortion_range,
        )
        return image, label

    def _padded(self, dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """As many examples as fill all batches, with padding in place of those that lack."""
        hparams = self.hparams
        batches = hparams.num_eval_images // batch_size
        if not hparams.eval_drop_remainder and hparams.num_eval_images % batch_size:
            batches += 1
        image = tf.zeros([hparams.image_size, hparams.image_size, 3])
        padding = tf.data.Dataset.from_tensors((image, PADDING_LABEL, NO_RECORD)).repeat()
        return dataset.concatenate(padding).take(batches * batch_size)

    # Settings ------------------------------------------------------------------------------------

    def _seed(self) -> Optional[int]:
        seed = self.hparams.random_seed
        return None if seed is None else (seed * 1_000_003 + self.start_step) % 2**31

    def _threads(self) -> int:
        """One a core, where processes of the same training share the cores."""
        processes = min(self._sharding()[0], _PROCESSES_PER_HOST)
        return max(1, len(os.sched_getaffinity(0)) // processes)

    def _parallel_calls(self) -> int:
        """Twice the threads: while one call reads or waits, another computes."""
        return 2 * self._threads()

    def _options(self) -> tf.data.Options:
        """Threads of its own, none of which is split further: images are what is parallel."""
        options = tf.data.Options()
        options.experimental_threading.private_threadpool_size = self._threads()
        options.experimental_threading.max_intra_op_parallelism = 1
        return options

    def _synthetic(self, batch_size: int) -> tf.data.Dataset:
        """One batch of noise with random labels, made once and repeated."""
        hparams = self.hparams

        def make(_):
            shape = [batch_size, hparams.image_size, hparams.image_size, 3]
            images = tf.random_uniform(shape, -1.0, 1.0, seed=1)
            labels = tf.random_uniform([batch_size], 1, hparams.num_label_classes, tf.int32, seed=1)
            return images, labels

        dataset = tf.data.Dataset.range(1).map(make).cache().repeat()
        if not self.is_training:
            dataset = dataset.take(-(-hparams.num_eval_images // batch_size))
        return dataset.prefetch(2)


def parse_record(serialized: tf.Tensor, num_label_classes: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """One record -> (encoded image, int32 label []); fails where it has no legal label."""
    features = tf.parse_single_example(serialized, _FEATURES)
    # Fails for labels that are not from 1 to num_label_classes - 1, sooner than tf.Assert.
    legal_labels = tf.range(1, num_label_classes)
    label = tf.gather(legal_labels, features["image/class/label"] - 1)
    return features["image/encoded"], label


# Checking records one by one ---------------------------------------------------------------------


class CheckedRecord(NamedTuple):
    """What a record is.

    Attributes:
        problem: what makes it unfit for training, as the end of a sentence; None if nothing does.
        label: its class, if it is fit.
        image_format: 'JPEG', 'PNG', 'GIF' or 'BMP', if it is fit.
    """

    problem: Optional[str]
    label: Optional[int] = None
    image_format: Optional[str] = None


class RecordChecker:
    """Checks records as training reads them: what it refuses would fail there, and nothing else.

    Of a JPEG training decodes the part that it uses only, so that damage may come to light now and
    then; here all of it has to be decoded. To be used as a context manager.

    Args:
        num_label_classes: labels from 1 to one less are legal.
    """

    @tf.autograph.experimental.do_not_convert
    def __init__(self, num_label_classes: int):
        self._num_label_classes = num_label_classes
        graph = tf.Graph()
        with graph.as_default():
            self._records = tf.placeholder(tf.string, [None])
            dataset = tf.data.Dataset.from_tensor_slices(self._records).enumerate().map(self._read)
            # As in training; TensorFlow's messages would quote what it could not parse.
            dataset = dataset.apply(tf.data.experimental.ignore_errors())
            dataset = dataset.batch(tf.size(self._records, out_type=tf.int64))
            self._fit = tf.data.experimental.get_single_element(dataset)
            self._encoded = tf.placeholder(tf.string, [])
            self._pixels = _num_pixels(self._encoded)
        self._session = CpuSession(graph)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._session.close()

    def check(self, records: Sequence[bytes]) -> List[CheckedRecord]:
        """Checks some records; a call costs 20 ms, so that hundreds should share it."""
        try:
            columns = self._session.run(self._fit, {self._records: records})
        except tf.errors.InvalidArgumentError:  # None is fit.
            columns = []
        fit = {
            number: CheckedRecord(None, int(label), _image_format(start))
            for number, label, start, _ in zip(*columns)
        }
        return [
            fit.get(number) or CheckedRecord(self._problem(record))
            for number, record in enumerate(records)
        ]

    def _read(self, number, record):
        encoded, label = parse_record(record, self._num_label_classes)
        start = tf.strings.substr(encoded, 0, _LONGEST_SIGNATURE)
        return number, label, start, _num_pixels(encoded)

    def _problem(self, record: bytes) -> str:
        """Why a record that is unfit is so."""
        try:
            feature = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            return "is not a tf.train.Example"
        labels = feature["image/class/label"].int64_list.value
        if len(labels) != 1:
            return f"has {len(labels)} integers as image/class/label; 1 is expected"
        if not 1 <= labels[0] < self._num_label_classes:
            return f"has label {labels[0]}; 1..{self._num_label_classes - 1} are legal"
        images = feature["image/encoded"].bytes_list.value
        if len(images) != 1 or not images[0]:
            return "has no image: image/encoded is not there or empty"
        try:
            self._session.run(self._pixels, {self._encoded: images[0]})
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0]
            return f"has an image ({_image_format(images[0])}) that cannot be decoded: {reason}"
        return "is not a tf.train.Example of one image and one label"


def find_problem(record: bytes, num_label_classes: int) -> Optional[str]:
    """What makes a record unfit for training, as the end of a sentence, or None."""
    with RecordChecker(num_label_classes) as checker:
        return checker.check([record])[0].problem


def _num_pixels(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes all of an image, as training decodes parts: the number of its pixels times three."""
    return tf.size(inception_preprocessing.decode_window(encoded, inception_preprocessing.whole))


def _image_format(encoded: bytes) -> str:
    return next((k for s, k in _SIGNATURES.items() if encoded.startswith(s)), "unknown format")


def _known_counts(data_dir: str, files: Sequence[str]) -> Dict[str, int]:
    """Numbers of records of the files that are as large as dataset.json says, by path."""
    info = tfrecords.read_dataset_info(data_dir)
    splits = info["splits"].values() if info else ()
    shards = {shard["name"]: shard for split in splits for shard in split["shards"]}
    known = {}
    for path in files:
        shard = shards.get(os.path.basename(path), {})
        if shard.get("images") and tf.io.gfile.stat(path).length == shard.get("bytes"):
            known[path] = shard["images"]
    return known


def _call(function: Callable, dtype: tf.DType, *args: tf.Tensor) -> tf.Tensor:
    """A Python function's answer, a scalar."""
    answer = tf.numpy_function(function, args, dtype)
    answer.set_shape([])
    return answer
