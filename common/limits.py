"""How much one file from elsewhere may cost in memory and time, and reading within that.

All bounds are here; docs/faults.md, "Damaged input", lists them. What is larger is refused with a
sentence, before it is read or decoded.
"""

import json
import os
import stat
from typing import Any, BinaryIO, Optional

from common import files
from common.errors import UserError

MEBIBYTE = 1 << 20

# Images ------------------------------------------------------------------------------------------

# TensorFlow decodes less than 2**29 bytes, three a pixel; Pillow by default refuses more than that.
IMAGE_PIXELS = (1 << 29) // 3
IMAGE_BYTES = 256 * MEBIBYTE
# Of the library that reads and writes JPEG; for images that are converted to it.
JPEG_SIDE = 65_500
# Decoding a progressive JPEG takes a pass over all of it for each scan; encoders make about ten.
JPEG_SCANS = 100
# The first picture of a GIF, which is all that is decoded, has to end within these.
GIF_BYTES = 16 * MEBIBYTE
# The demo takes images from strangers. Decoding takes up to 20 bytes a pixel: Pillow's copies of an
# image with transparent parts.
UPLOAD_BYTES = 20_000_000
UPLOAD_PIXELS = 50_000_000
UPLOAD_PICTURES = 1000

# Other files -------------------------------------------------------------------------------------

# A tf.train.Example with an image. TensorFlow reserves what a record's header claims.
RECORD_BYTES = 512 * MEBIBYTE
# The numbers of a set of shards, in their names.
SHARDS = 100_000
# Images and classes of a data set, as its dataset.json counts them.
IMAGES = 1 << 40
CLASSES = 1_000_000
# dataset.json, results.json, rank tables: parsing takes up to 30 times their size.
JSON_BYTES = 32 * MEBIBYTE
_DIGITS = 30
# labels.txt, lists of synsets, ground truth.
TEXT_BYTES = 16 * MEBIBYTE
CHECKPOINT_INDEX_BYTES = 64 * MEBIBYTE
TAR_MEMBERS = 2_000_000


def open_file(path: str, name: Optional[str] = None) -> BinaryIO:
    """Opens a local regular file: a pipe or a device could be read for ever.

    Args:
        path: of the file.
        name: how messages call it, if not by its path.

    Raises:
        UserError: it is no regular file.
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{name or path} is not a regular file.")
    return open(path, "rb")


def read_bytes(path: str, most: int, name: Optional[str] = None) -> bytes:
    """Reads a file of any file system that TensorFlow knows.

    Args:
        path: of the file.
        most: how many bytes it may have.
        name: how messages call it, if not by its path.

    Raises:
        UserError: it is no regular file, or has more than `most` bytes.
        OSError, tf.errors.OpError: it cannot be read.
    """
    if files.is_remote(path):
        from common.runtime import tf  # Slow, and needed for remote paths only.

        file = tf.io.gfile.GFile(path, "rb")
        size = file.size()
    else:
        file = open_file(path, name)
        size = os.fstat(file.fileno()).st_size
    with file:
        if size > most:
            raise UserError(
                f"{name or path} is too large: {size} bytes, and at most {most} are read."
            )
        return file.read()


def read_text(path: str, most: int = TEXT_BYTES) -> str:
    """Reads a UTF-8 file; see `read_bytes`, and UserError if it is not UTF-8."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}.") from error


def read_json(path: str) -> Any:
    """Reads a JSON file; see `read_text`, and UserError if it is not JSON."""
    text = read_text(path, JSON_BYTES)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error


def parse_json(text: str) -> Any:
    """Parses JSON; raises ValueError, also where Python's parser would fail otherwise or hang."""
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_count(value: Any, most: int) -> bool:
    """Whether a value of JSON is an integer from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _integer(digits: str) -> int:
    # Python takes quadratic time, or refuses in its own words.
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)
