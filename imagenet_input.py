"""TFRecord files of ImageNet's layout -> batches."""

from typing import Callable, Optional, Sequence, Tuple

import tensorflow.compat.v1 as tf

import inception_preprocessing
from common import tfrecords
from common.errors import UserError
from common.hparams import HParams

# Label of the images that only fill up the last batch of an evaluation.
PADDING_LABEL = -1

_READ_BUFFER_BYTES = 256 * 1024
_FILES_OPEN = 16
_SHUFFLE_IMAGES = 1024


def find_shards(data_dir: str, split: str):
    """`tfrecords.find_shards` with a message for the user where there is none."""
    try:
        return tfrecords.find_shards(data_dir, split)
    except ValueError as error:
        raise UserError(f"--data_dir: {error}") from error


def check_num_eval_images(data_dir: str, num_eval_images: int):
    """Checks that the validation files hold as many images as are to be evaluated."""
    files = find_shards(data_dir, "validation")
    try:
        found = tfrecords.count_records(files)
    except ValueError as error:
        raise UserError(f"--data_dir: {error}") from error
    if found < num_eval_images:
        raise UserError(
            f"--num_eval_images={num_eval_images}: the {len(files)} validation files in "
            f"{data_dir} hold {found} images. Set it to {found}, or complete the files."
        )
    if found > num_eval_images:
        tf.logging.warning("Evaluating the first %d of %d images.", num_eval_images, found)


class InputPipeline:
    """Batches of the training or of the validation images.

    Training batches repeat forever, in another order each epoch. Evaluation has each image once,
    in the order of the files; its last batch is filled up with black images of `PADDING_LABEL`.

    Args:
        is_training: which split, and which preprocessing.
        data_dir: directory of the TFRecord files; unused with `hparams.synthetic_data`.
        hparams: see `amoeba_net_model.build_hparams`.
        eval_from_hub: images in [0, 1], as TF-Hub modules take them, not in [-1, 1].
        sharding: where several processes train together, gives their number and this one's index;
            each reads a share of the training images, and a share of every batch.
    """

    def __init__(
        self,
        is_training: bool,
        data_dir: str,
        hparams: HParams,
        eval_from_hub: bool = False,
        sharding: Optional[Callable[[], Tuple[int, int]]] = None,
    ):
        self.is_training = is_training
        self.data_dir = data_dir
        self.hparams = hparams
        self.eval_from_hub = eval_from_hub
        self._sharding = sharding if is_training and sharding else lambda: (1, 0)

    @property
    def batch_size(self) -> int:
        if self.is_training:
            return self.hparams.train_batch_size // self._sharding()[0]
        return self.hparams.eval_batch_size

    def input_fn(self, params=None) -> tf.data.Dataset:
        """Dataset of (float32 images [batch, size, size, 3], int32 labels [batch])."""
        batch_size = (params or {}).get("batch_size", self.batch_size)
        if self.hparams.synthetic_data:
            return self._synthetic(batch_size)
        dataset = self._examples()
        if self.is_training:
            dataset = dataset.batch(batch_size, drop_remainder=True)
        else:
            dataset = self._padded_batches(dataset, batch_size)
        return dataset.prefetch(2)

    def _examples(self) -> tf.data.Dataset:
        """Single examples; in training shuffled and repeated."""
        hparams = self.hparams
        files = find_shards(self.data_dir, "train" if self.is_training else "validation")
        dataset = tf.data.Dataset.from_tensor_slices(files)
        if self.is_training:
            dataset, files, read = self._share(dataset, files)
            dataset = dataset.shuffle(len(files), seed=hparams.random_seed)
            dataset = dataset.interleave(read, cycle_length=min(_FILES_OPEN, len(files)))
            dataset = dataset.shuffle(_SHUFFLE_IMAGES, seed=hparams.random_seed).repeat()
        else:
            dataset = dataset.flat_map(_read_file).take(hparams.num_eval_images)
        return dataset.map(self.parse_example, num_parallel_calls=tf.data.experimental.AUTOTUNE)

    def _share(self, dataset: tf.data.Dataset, files: Sequence[str]):
        """What to read of this process's share: (dataset of files, the files, reader of a file).

        Shares are disjoint and together are all images: whole files where they divide evenly, else
        of each file its own records, so that no share is much larger than another.
        """
        shares, index = self._sharding()
        if shares == 1:
            return dataset, files, _read_file
        if len(files) % shares == 0:
            return dataset.shard(shares, index), files[index::shares], _read_file
        # Another part of each file, since a file's first parts may have a record more.
        parts = [(index + i) % shares for i in range(len(files))]
        dataset = tf.data.Dataset.from_tensor_slices((files, tf.constant(parts, tf.int64)))
        return dataset, files, lambda file, part: _read_file(file).shard(shares, part)

    def parse_example(self, serialized: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """One record -> (float32 image [size, size, 3], int32 label [])."""
        hparams = self.hparams
        features = tf.parse_single_example(
            serialized,
            {
                "image/encoded": tf.FixedLenFeature([], tf.string),
                "image/class/label": tf.FixedLenFeature([], tf.int64),
            },
        )
        label = tf.cast(features["image/class/label"], tf.int32)
        legal = tf.Assert(
            tf.logical_and(label >= 0, label < hparams.num_label_classes),
            ["A label of the data set is not in [0, num_label_classes):", label],
        )
        with tf.control_dependencies([legal]):
            label = tf.identity(label)
        image = inception_preprocessing.preprocess_image(
            tf.image.decode_jpeg(features["image/encoded"], channels=3),
            hparams.image_size,
            hparams.image_size,
            is_training=self.is_training and hparams.augment,
            scaled_images=not self.eval_from_hub,
            use_fast_color_distort=hparams.use_fast_color_distort,
            cb_distortion_range=hparams.cb_distortion_range,
            cr_distortion_range=hparams.cr_distortion_range,
        )
        image.set_shape([hparams.image_size, hparams.image_size, 3])
        return image, label

    def _padded_batches(self, dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Batches of static shape; what is missing of the last one is padding, or the batch is."""
        if not self.hparams.eval_drop_remainder:
            size = self.hparams.image_size
            padding = tf.data.Dataset.from_tensors(
                (tf.zeros([size, size, 3]), tf.constant(PADDING_LABEL, tf.int32))
            )
            missing = -self.hparams.num_eval_images % batch_size
            dataset = dataset.concatenate(padding.repeat(missing))
        return dataset.batch(batch_size, drop_remainder=True)

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


def _read_file(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
