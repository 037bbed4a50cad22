"""TFRecord files of ImageNet's layout -> batches."""

import contextlib
import os
from typing import Callable, Deque, Dict, List, Optional, Sequence, Tuple

import numpy as np

import imagenet_records
import inception_preprocessing
from common import runtime
from common.data import tfrecords
from common.data.bad_records import NO_RECORD, BadRecords, call_python
from common.errors import UserError
from common.files import printable
from common.hparams import HParams
from common.report.accumulate import Source
from common.runtime import tf

# Label of the images that only fill up the last batch of an evaluation.
PADDING_LABEL = -1

_FILES_OPEN = 16
_SHUFFLE_IMAGES = 1024
# Processes that share the cores of a host, at most: the Ascend 910's hosts have eight of them.
_PROCESSES_PER_HOST = 8


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


def description(data_dir: str, split: str, hparams: HParams) -> str:
    """A description of the files of a split by which other ones are noticed."""
    sizes = [tf.io.gfile.stat(file).length for file in find_shards(data_dir, split, hparams)]
    return f"{len(sizes)} files of {sum(sizes):,} bytes"


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


def num_eval_batches(hparams: HParams, batch_size: Optional[int] = None) -> int:
    """Batches of one evaluation: all images, or whole batches only with `eval_drop_remainder`.

    Args:
        hparams: of the evaluation.
        batch_size: if it is another than `hparams.eval_batch_size`.
    """
    whole, rest = divmod(hparams.num_eval_images, batch_size or hparams.eval_batch_size)
    return whole if hparams.eval_drop_remainder or not rest else whole + 1


def num_evaluated_images(hparams: HParams) -> int:
    """Images that count in one evaluation; of synthetic ones all batches are full."""
    in_batches = num_eval_batches(hparams) * hparams.eval_batch_size
    return in_batches if hparams.synthetic_data else min(hparams.num_eval_images, in_batches)


def share_of_evaluation(hparams: HParams, size: int, rank: int) -> HParams:
    """The hyper-parameters of one of `size` ranks that evaluate their shares of the images."""
    share = HParams(**hparams.values())
    share.num_eval_images = len(range(rank, num_evaluated_images(hparams), size))
    share.eval_drop_remainder = False
    return share


class InputPipeline:
    """Batches of the training or of the validation images.

    Training batches repeat forever, in another order each epoch. Evaluation has each image once,
    in the order of the files; its last batch is filled up with black images of `PADDING_LABEL`.

    Args:
        is_training: which split, and which preprocessing.
        data_dir: directory of the TFRecord files; unused with `hparams.synthetic_data`.
        hparams: see `amoeba_net_model.default_hparams`.
        eval_from_hub: images in [0, 1], as TF-Hub modules take them, not in [-1, 1].
        sharding: if several processes share the images, gives their number and this one's index.
            In training each reads a share of every batch; in evaluation `hparams.num_eval_images`
            are those of its share.
        num_devices: devices that train together; a process may have several, and its batches are
            for one of them after the other.

    Attributes:
        start_step: the global step training goes on from; with `hparams.random_seed` it makes the
            order and the distortions others than from step 0.
        sources: if not None, `input_fn`'s data set appends for each batch, before it gives it out,
            the `Source` of each image, without padding. For evaluation.
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
        self._split = "train" if is_training else "validation"
        self._num_devices = num_devices
        self._sharding = sharding or (lambda: (1, 0))
        self.sources: Optional[Deque[List[Source]]] = None
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
        files = find_shards(self.data_dir, self._split, self.hparams)
        self._bad_records = self._bad_records_of(files, batch_size)
        read = self._shuffled_records if self.is_training else self._all_records
        records = self._bad_records.before_decode(read(len(files)))
        examples = records.map(self._decode, num_parallel_calls=self._parallel_calls())
        examples = examples.apply(tf.data.experimental.ignore_errors())
        if not self.is_training:
            examples = self._padded(examples, batch_size)
        batches = examples.batch(batch_size, drop_remainder=True)
        batches = self._bad_records.after_decode(batches)
        if self.sources is not None:
            batches = self._noting_sources(batches)
        return batches.prefetch(2).with_options(runtime.dataset_options(self._threads()))

    @property
    def num_images(self) -> int:
        """Images in the batches so far, without padding and bad records; 0 for synthetic data."""
        return self._bad_records.num_decoded if self._bad_records else 0

    def description(self) -> str:
        """See `description`."""
        if self.hparams.synthetic_data:
            return "synthetic"
        return description(self.data_dir, self._split, self.hparams)

    @contextlib.contextmanager
    def naming_bad_records(self):
        """Around what reads the batches: raises UserError where bad records ended them."""
        self._bad_records = None
        try:
            yield
        except tf.errors.OpError:
            self.check_records()
            raise
        self.check_records()

    def check_records(self):
        """Raises UserError if bad records have ended the batches."""
        if self._bad_records:
            self._bad_records.check()

    def _bad_records_of(self, files: Sequence[str], batch_size: int) -> BadRecords:
        hparams = self.hparams
        num_images = hparams.num_eval_images  # Of this process's share.
        num_files = len(files)
        if self.is_training:
            num_images = hparams.num_train_images // self._sharding()[0]
            num_files = len(self._share(len(files))[0])
        return BadRecords(
            files,
            lambda record: imagenet_records.find_problem(record, hparams.num_label_classes),
            capacity=batch_size + (self._parallel_calls() or 1),
            on_bad_record=hparams.on_bad_record,
            max_bad_fraction=hparams.max_bad_fraction,
            num_images=num_images,
            known_counts=_known_counts(self.data_dir, files),
            images_per_file=max(1, num_images // num_files),
            raise_errors=not self.is_training,
        )

    # Reading -------------------------------------------------------------------------------------

    def _all_records(self, num_files: int) -> tf.data.Dataset:
        """The `Record`s to evaluate, in the order of the files."""
        records = tf.data.Dataset.range(num_files).flat_map(self._bad_records.read)
        return records.shard(*self._sharding()).take(self.hparams.num_eval_images)

    def _shuffled_records(self, num_files: int) -> tf.data.Dataset:
        """The `Record`s to train on, in another order each epoch, without end."""
        numbers, part_numbers, parts = self._share(num_files)
        files = tf.data.Dataset.from_tensor_slices((numbers, part_numbers))
        files = files.shuffle(len(numbers), seed=self._seed())
        records = files.interleave(
            lambda file, part: self._bad_records.read(file).shard(parts, part),
            cycle_length=min(_FILES_OPEN, len(numbers)),
        )
        return records.shuffle(_SHUFFLE_IMAGES, seed=self._seed()).repeat()

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

    # Decoding ------------------------------------------------------------------------------------

    def _decode(self, number: tf.Tensor, data: tf.Tensor):
        """(number, (image, label)) of a record; fails where that is bad."""
        if self._seed() is not None:
            tf.set_random_seed(self._seed())  # Of this function alone.
        example = self.parse_example(data)
        if self.sources is not None:
            example = (example, imagenet_records.file_name(data))
        return number, example

    def parse_example(self, serialized: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """One record -> (float32 image [size, size, 3], int32 label []); fails where it is bad."""
        hparams = self.hparams
        encoded, label = imagenet_records.parse(serialized, hparams.num_label_classes)
        image = inception_preprocessing.preprocess_bytes(
            encoded,
            hparams.image_size,
            is_training=self.is_training and hparams.augment,
            scaled_images=not self.eval_from_hub,
            use_fast_color_distort=hparams.use_fast_color_distort,
            cb_distortion_range=hparams.cb_distortion_range,
            cr_distortion_range=hparams.cr_distortion_range,
            exportable=False,
        )
        return image, label

    def _padded(self, examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """As many examples as fill all batches, with padding in place of those that lack."""
        image = tf.zeros([self.hparams.image_size, self.hparams.image_size, 3])
        example = (image, PADDING_LABEL)
        if self.sources is not None:
            example = (example, "")
        padding = tf.data.Dataset.from_tensors((NO_RECORD, example)).repeat()
        num_examples = num_eval_batches(self.hparams, batch_size) * batch_size
        return examples.concatenate(padding).take(num_examples)

    def _noting_sources(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of (example, file name) -> of examples; the names go to `sources`."""
        sources, bad_records = self.sources, self._bad_records

        def note(names: np.ndarray) -> np.bool_:
            # The places are the same batch's: nothing reads ahead between the two.
            names = [name.decode("utf-8", "surrogateescape") for name in names.tolist()]
            names = map(printable, names)
            sources.append([Source(*at, name) for at, name in zip(bad_records.places, names)])
            return np.bool_(True)

        noted = tf.data.experimental.take_while(
            lambda example, name: call_python(note, tf.bool, name)
        )
        return batches.apply(noted).map(lambda example, name: example)

    # Settings ------------------------------------------------------------------------------------

    def _seed(self) -> Optional[int]:
        seed = self.hparams.random_seed
        if seed is None:
            return None
        _, index = self._sharding()  # Each process has its own distortions.
        return (seed * 1_000_003 + self.start_step + index * 15_485_863) % 2**31

    def _threads(self) -> int:
        """One a core, where processes of the same training share the cores."""
        processes = min(self._sharding()[0], _PROCESSES_PER_HOST)
        return max(1, len(os.sched_getaffinity(0)) // processes)

    def _parallel_calls(self) -> Optional[int]:
        """Twice the threads: while one call reads or waits, another computes."""
        # One after another, random numbers come in the same order each time.
        return None if self.hparams.deterministic_input else 2 * self._threads()

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
            dataset = dataset.take(num_eval_batches(hparams, batch_size))
        return dataset.prefetch(2)


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
