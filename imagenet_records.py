"""One TFRecord of ImageNet's layout: its image and its label, and what is wrong with a bad one."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

from google.protobuf.message import DecodeError

import inception_preprocessing
from common import limits, runtime
from common.data import image_files
from common.devices.cpu import CpuSession
from common.runtime import tf

_FEATURES = {
    # Of any length, since a string of a fixed one can crash the process if the record is cut short.
    "image/encoded": tf.VarLenFeature(tf.string),
    "image/class/label": tf.FixedLenFeature([], tf.int64),
}
_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_LONGEST_SIGNATURE = 4


def parse(serialized: tf.Tensor, num_label_classes: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """One record -> (encoded image, int32 label []); fails where it has no legal label."""
    features = tf.parse_single_example(serialized, _FEATURES)
    # Fails for labels that are not from 1 to num_label_classes - 1, sooner than tf.Assert.
    legal_labels = tf.range(1, num_label_classes)
    label = tf.gather(legal_labels, features["image/class/label"] - 1)
    return tf.reshape(features["image/encoded"].values, []), label  # Fails unless there is one.


def file_name(serialized: tf.Tensor) -> tf.Tensor:
    """Name of the file that a record's image was in, as bytes; '' if the record has none."""
    key = "image/filename"
    feature = tf.parse_single_example(serialized, {key: tf.VarLenFeature(tf.string)})[key]
    return tf.strings.reduce_join(feature.values)


class CheckedRecord(NamedTuple):
    """What was found in a record.

    Attributes:
        problem: what is wrong with it, as the end of a sentence; None if it is good.
        label: its class, if it is good.
        image_format: 'JPEG', 'PNG', 'GIF' or 'BMP', if it is good.
    """

    problem: Optional[str]
    label: Optional[int] = None
    image_format: Optional[str] = None


class Checker:
    """Checks records with the operations that training reads them with.

    It refuses exactly those that training could fail on. Training decodes only a part of each JPEG
    and therefore meets damage in the rest of it only now and then; the checker decodes it all. It
    also refuses JPEGs of more scans than `limits` allow, for which training would take long.

    May be used as a context manager, which closes its session.

    Args:
        num_label_classes: legal labels are 1..num_label_classes - 1.
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
            self._good = tf.data.experimental.get_single_element(dataset)
            self._encoded = tf.placeholder(tf.string, [])
            self._pixels = _num_pixels(self._encoded)
        self._session = CpuSession(graph)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._session.close()

    def check(self, records: Sequence[bytes]) -> List[CheckedRecord]:
        """Checks records; each call takes 20 ms besides, so pass hundreds of them."""
        decoded = [b"" if _many_scans(record) else record for record in records]
        try:
            columns = self._session.run(self._good, {self._records: decoded})
        except tf.errors.InvalidArgumentError:  # None of them is good.
            columns = []
        good = {
            number: CheckedRecord(None, int(label), _image_format(start))
            for number, label, start, _ in zip(*columns)
        }
        return [
            good.get(number) or CheckedRecord(self._problem(record))
            for number, record in enumerate(records)
        ]

    def _read(self, number, record):
        encoded, label = parse(record, self._num_label_classes)
        start = tf.strings.substr(encoded, 0, _LONGEST_SIGNATURE)
        return number, label, start, _num_pixels(encoded)

    def _problem(self, record: bytes) -> str:
        """What is wrong with a record that is not good."""
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
            image_files.check_scans(images[0])
            self._session.run(self._pixels, {self._encoded: images[0]})
        except (ValueError, tf.errors.OpError) as error:
            reason = runtime.first_line(error)
            return f"has an image ({_image_format(images[0])}) that cannot be decoded: {reason}"
        return "is not a tf.train.Example of one image and one label"


def find_problem(record: bytes, num_label_classes: int) -> Optional[str]:
    """What is wrong with a record, as the end of a sentence; None if it is good."""
    with Checker(num_label_classes) as checker:
        return checker.check([record])[0].problem


def _num_pixels(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes all of an image in the way that training decodes its parts; counts its numbers."""
    return tf.size(inception_preprocessing.decode_window(encoded, inception_preprocessing.whole))


def _many_scans(record: bytes) -> bool:
    """Whether decoding a record's image would take very long."""
    if record.count(image_files.SCAN) <= limits.JPEG_SCANS:
        return False
    try:
        feature = tf.train.Example.FromString(record).features.feature
        for encoded in feature["image/encoded"].bytes_list.value:
            image_files.check_scans(encoded)
    except DecodeError:  # TensorFlow takes names of features that Python does not.
        return b"\xff\xd8\xff" in record
    except ValueError:
        return True
    return False


def _image_format(encoded: bytes) -> str:
    return next((k for s, k in _SIGNATURES.items() if encoded.startswith(s)), "unknown format")
