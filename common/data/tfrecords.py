"""TFRecord shards of labelled images: names, listing, counting, writing, and the files beside them.

A data set is a directory with

    train-00000-of-01024 ...       shards, flat or in train/ and validation/
    validation-00000-of-00128 ...
    labels.txt                     optional: line i is the name of class i, line 0 is background
    dataset.json                   optional: what scripts/build_tfrecords.py wrote, as follows

    {"format_version": 1,
     "source": "folders",          where the images came from
     "seed": 0,
     "num_classes": 3,             without background; labels are 1..num_classes
     "num_label_classes": 4,       with background: the size of the network's output
     "classes": ["ant", "bee", "cat"],
     "splits": {"train": {"images": 90, "bytes": 123456, "num_shards": 1,
                          "converted": {"PNG": 2},
                          "skipped": [{"name": "cat/broken.jpg", "reason": "is empty"}],
                          "shards": [{"name": "train-00000-of-00001", "images": 90,
                                      "bytes": 123456, "sha256": "..."}]}}}

A record is framed as: length (8 bytes), masked CRC of the length (4), data, masked CRC of the
data (4); integers are little-endian, CRCs are CRC-32C.
"""

import hashlib
import json
import os
import re
import struct

from tensorboard.summary.writer.record_writer import masked_crc32c

from common import files, limits
from common.errors import UserError
from common.runtime import tf

DATASET_INFO = "dataset.json"
LABELS = "labels.txt"
SPLITS = ("train", "validation")

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_SHARD_NAME = re.compile("(?P<split>.+)-(?P<index>[0-9]{1,18})-of-(?P<total>[0-9]{1,18})")
_CHECKSUM_BLOCK = 1 << 20


class NoShardsError(UserError):
    """There is a data directory, but it has no shards of a split."""


def shard_name(split, index, total):
    """Returns the file name of a shard: `train-00000-of-01024`."""
    return f"{split}-{index:05d}-of-{total:05d}"


def find_shards(data_dir, split):
    """Returns the sorted paths of a split's shards, whether or not the set is complete.

    Shards are `<split>-<digits>-of-<digits>`, in `data_dir` or in `data_dir/<split>/`.

    Args:
      data_dir: directory, local or of any file system that TensorFlow knows.
      split: 'train' or 'validation'.

    Raises:
      UserError: no such directory; no shards (NoShardsError); or shards in both places, where
        taking either could train on a half-moved or outdated copy.
    """
    if not tf.io.gfile.isdir(data_dir):
        raise UserError(f"The data directory {data_dir} does not exist.")
    directories = (data_dir, os.path.join(data_dir, split))
    flat, nested = (_shards_in(directory, split) for directory in directories)
    patterns = [os.path.join(directory, f"{split}-*-of-*") for directory in directories]
    if flat and nested:
        raise UserError(
            f"The data directory {data_dir} has {split} shards twice: {len(flat)} as "
            f"{patterns[0]} and {len(nested)} as {patterns[1]}; remove one set."
        )
    if not flat and not nested:
        raise NoShardsError(
            f"The data directory {data_dir} has no {split} shards: "
            f"neither {patterns[0]} nor {patterns[1]} matches a file."
        )
    return flat or nested


def missing_shards(paths):
    """Returns the sorted names of the shards that a set of shards of one split lacks.

    The names themselves say how many there should be: `-of-00128`.

    Raises:
      UserError: the names disagree about how many there are, or tell of too many, or one is not a
        shard's.
    """
    sets = {}
    for path in paths:
        match = _SHARD_NAME.fullmatch(os.path.basename(path))
        if not match:
            raise UserError(f"{path} is not named like a shard, train-00000-of-01024.")
        if int(match.group("total")) > limits.SHARDS:
            raise UserError(f"{path}: a set has {limits.SHARDS} shards at most.")
        key = match.group("split"), match.group("total")
        sets.setdefault(key, set()).add(int(match.group("index")))
    if len(sets) > 1:
        found = ", ".join(f"{len(v)} of {s}-*-of-{t}" for (s, t), v in sorted(sets.items()))
        raise UserError(
            f"{os.path.dirname(paths[0]) or '.'} holds shards of several sets: {found}; keep one."
        )
    return [
        f"{split}-{index:05d}-of-{total}"
        for (split, total), found in sets.items()
        for index in range(int(total))
        if index not in found
    ]


def scan_shard(path):
    """Counts the records of one shard from their headers alone, without reading their data.

    Returns:
      (records, problem): how many whole records come before the end or before the first damage,
      and None or one sentence that names the file, the record and the byte offset. Damage inside
      a record's data is not seen. An empty file is a problem: no writer leaves a shard empty.
      No more than these records may be read by TensorFlow, which reserves as much memory as the
      header of the next one claims, or ends the process.
    """
    records, offset = 0, 0
    with _open_unbuffered(path) as file:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        if not size:
            return 0, f"{path} is empty (0 bytes)."
        while offset < size:
            file.seek(offset)
            length, problem = _parse_header(file.read(_HEADER.size))
            end = offset + _HEADER.size + (length or 0) + _FOOTER_BYTES
            if not problem and end > size:
                problem = f"is truncated: it should end at byte {end}"
            if not problem and length > limits.RECORD_BYTES:
                problem = f"has {length} bytes; up to {limits.RECORD_BYTES} are read"
            if problem:
                return records, f"{path}: record {records} at byte {offset} of {size} {problem}."
            offset = end
            records += 1
    return records, None


def count_records(paths):
    """Returns how many records the shards hold, from their headers alone.

    Raises:
      UserError: a shard is empty, truncated or corrupt; names the file and the byte offset.
    """
    total = 0
    for path in paths:
        records, problem = scan_shard(path)
        if problem:
            raise UserError(problem)
        total += records
    return total


def image_example(
    encoded,
    label,
    *,
    height,
    width,
    text="",
    filename="",
    synset="",
    colorspace="RGB",
    channels=3,
):
    """Returns the tf.train.Example of one image, with the keys ImageNet's TFRecords have.

    Args:
      encoded: bytes of the encoded image; all numbers are those of the decoded one.
      label: int; 0 is background.
      text: human-readable class name.
      filename: base name of the image's file, as text or bytes.
      synset: WordNet ID, or another short name of the class.
    """
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image/encoded": _bytes(encoded),
                "image/format": _bytes("JPEG"),
                "image/height": _int64(height),
                "image/width": _int64(width),
                "image/colorspace": _bytes(colorspace),
                "image/channels": _int64(channels),
                "image/filename": _bytes(filename),
                "image/class/label": _int64(label),
                "image/class/synset": _bytes(synset),
                "image/class/text": _bytes(text),
            }
        )
    )


def write_shard(path, examples):
    """Writes one shard; the file appears whole or not at all, and any old one is replaced.

    The same examples always make the same bytes.

    Args:
      examples: iterable of tf.train.Example, or of bytes to be written as they are.

    Returns:
      (records, bytes, sha256): number of records, size of the file, and its hexadecimal digest.
    """
    records = 0
    with files.replacing(path) as temporary:
        with tf.io.TFRecordWriter(temporary) as writer:
            for example in examples:
                if not isinstance(example, bytes):
                    # A proto's map has no order of its own.
                    example = example.SerializeToString(deterministic=True)
                writer.write(example)
                records += 1
        return (records, *file_checksum(temporary))


def write_split(directory, split, examples, shards):
    """Writes a split, its list of examples dealt to shards; returns its entry of dataset.json."""
    entries = []
    for index in range(shards):
        name = shard_name(split, index, shards)
        images, size, digest = write_shard(os.path.join(directory, name), examples[index::shards])
        entries.append({"name": name, "images": images, "bytes": size, "sha256": digest})
    return {
        "images": len(examples),
        "bytes": sum(entry["bytes"] for entry in entries),
        "num_shards": shards,
        "shards": entries,
        "skipped": [],
    }


def file_checksum(path):
    """Returns (bytes, sha256) of a file, the digest in hexadecimal."""
    digest, size = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while True:
            block = file.read(_CHECKSUM_BLOCK)
            if not block:
                return size, digest.hexdigest()
            digest.update(block)
            size += len(block)


def read_dataset_info(data_dir):
    """Returns what dataset.json says, as a dict, or None if there is none.

    Raises:
      UserError: the file is not what the module's docstring describes; names the file.
    """
    path = os.path.join(data_dir, DATASET_INFO)
    if not tf.io.gfile.exists(path):
        return None
    info = limits.read_json(path)
    problem = _info_problem(info)
    if problem:
        raise UserError(f"{path} is not a data set's description: {problem}.")
    return info


def write_dataset_info(data_dir, info):
    """Writes dataset.json, whole or not at all.

    Raises:
      UserError: `info` is not what the module's docstring describes.
    """
    problem = _info_problem(info)
    if problem:
        raise UserError(f"Not a data set's description: {problem}.")
    files.write_text(
        os.path.join(data_dir, DATASET_INFO), json.dumps(info, indent=2, sort_keys=True) + "\n"
    )


def write_labels(directory, names):
    """Writes labels.txt, [0] being background; returns its path."""
    path = os.path.join(directory, LABELS)
    files.write_text(path, "".join(f"{name}\n" for name in names))
    return path


def read_labels(data_dir):
    """Returns the class names of labels.txt, [0] being background, or None if there is no file.

    Raises:
      UserError: the file is empty, too large or not UTF-8, or a name is blank; names the file.
    """
    path = os.path.join(data_dir, LABELS)
    if not tf.io.gfile.exists(path):
        return None
    names = limits.read_text(path).splitlines()
    blank = [i for i, name in enumerate(names) if not name.strip()]
    if not names or blank:
        raise UserError(
            f"{path} has no class name in line {blank[0] if blank else 0}; "
            "line i names class i, line 0 the background."
        )
    return names


def _open_unbuffered(path):
    """Opens a file for short reads far apart."""
    if os.path.exists(path):
        # Reading ahead would cost more than the 12 bytes that are wanted.
        return open(path, "rb", buffering=0)
    return tf.io.gfile.GFile(path, "rb")


def _parse_header(header):
    """Returns (length of the record's data, None), or (None, what is wrong)."""
    if len(header) < _HEADER.size:
        return None, "is truncated"
    length, crc = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        return None, "is corrupt, or this is no TFRecord file: its header's CRC is wrong"
    return length, None


def _shards_in(directory, split):
    """Returns the sorted paths of a split's shards in a directory, which need not exist."""
    if not tf.io.gfile.isdir(directory):
        return []
    matches = (_SHARD_NAME.fullmatch(name) for name in sorted(files.list_directory(directory)))
    return [os.path.join(directory, m.group()) for m in matches if m and m.group("split") == split]


def _bytes(value):
    if isinstance(value, str):
        value = value.encode("utf-8")
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _info_problem(info):
    """Returns what is wrong with the contents of dataset.json, or None."""
    if not isinstance(info, dict):
        return "a JSON object is expected"
    if info.get("format_version") != 1:
        return f"format_version is {info.get('format_version')!r}, and 1 is known"
    for key in ("num_classes", "num_label_classes"):
        if not limits.is_count(info.get(key), limits.CLASSES):
            return f"{key} is {info.get(key)!r:.100}, and 1 to {limits.CLASSES} is expected"
    splits = info.get("splits")
    if not isinstance(splits, dict) or not all(isinstance(s, dict) for s in splits.values()):
        return "splits is not an object of objects"
    for split, contents in splits.items():
        images = contents.get("images")
        if not limits.is_count(images, limits.IMAGES):
            return f"splits.{split}.images is {images!r:.100}, and 1 to {limits.IMAGES} is expected"
        shards = contents.get("shards")
        if not isinstance(shards, list):
            return f"splits.{split}.shards is not a list"
        problem = next(filter(None, map(shard_problem, shards)), None)
        if problem:
            return f"splits.{split}.shards: {problem}"
    return None


# What is known about a shard. Others' descriptions may lack all but the name.
_SHARD_TYPES = {
    **{"images": int, "bytes": int, "sha256": str},
    **{"fingerprint": str, "converted": dict, "skipped": list},
}


def shard_problem(entry):
    """Returns what is wrong with the description of a shard in dataset.json, or None."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return "an object with a name is expected"
    if not _SHARD_NAME.fullmatch(entry["name"]) or "/" in entry["name"]:
        return f"{entry['name']!r:.100} is not a shard's name"
    for key, kind in _SHARD_TYPES.items():
        value = entry.get(key)
        if (key in entry or "fingerprint" in entry) and not isinstance(value, kind):
            return f"{key} of {entry['name']} is {value!r:.100}"
    if not all(isinstance(count, int) for count in entry.get("converted", {}).values()):
        return f"converted of {entry['name']} is not an object of numbers"
    return None
