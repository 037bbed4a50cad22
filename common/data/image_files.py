"""An image file of any format -> a JPEG that every decoder takes."""

import collections
import io
import re

import numpy as np
from PIL import Image as PilImage

from common import limits

# Of image files, in small or capital letters.
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Those of files with such a suffix. Pillow's others have parsers that are less looked after, and
# EPS runs programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
JPEG_QUALITY = 95
SCAN = b"\xff\xda"  # Starts each scan of a JPEG.
# A marker of a JPEG, with its kind, that may have a length. What decoders pass over has none.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_END = b"\xd9"
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # Tags of TIFF.

# What to_jpeg makes of an image file. converted_from: '' if the bytes were kept as they are.
Jpeg = collections.namedtuple("Jpeg", "encoded height width channels converted_from")


def to_jpeg(encoded):
    """Decodes an image file, and makes it a JPEG that every decoder takes.

    Args:
      encoded: bytes of a file of one of FORMATS.

    Returns:
      A Jpeg: RGB or grey.

    Raises:
      ValueError: it cannot be decoded, or not within `limits`; says why.
    """
    check_scans(encoded)
    try:
        with PilImage.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _check_sides(image)
            _check_tiles(image)
            image.load()
            # A phone's MPO is a JPEG with further pictures behind it.
            is_jpeg = image.format in ("JPEG", "MPO")
            if is_jpeg and image.mode in ("RGB", "L"):
                return Jpeg(encoded, image.height, image.width, len(image.getbands()), "")
            buffer = io.BytesIO()
            # A GIF's comment may be longer than a JPEG's, which is then an error.
            to_rgb(image).save(buffer, "JPEG", quality=JPEG_QUALITY, comment=b"")
            source = f"{image.mode} JPEG" if is_jpeg else image.format
            return Jpeg(buffer.getvalue(), image.height, image.width, 3, source)
    except Exception as error:
        # Pillow raises whatever its parsers stumble over: OSError, SyntaxError, struct.error, ...
        reason = "is empty" if not encoded else str(error) or type(error).__name__
        raise ValueError(re.sub(r" <_io.BytesIO object at \w+>", "", reason)) from error


def encode_jpeg(image, quality):
    """A Pillow image, RGB or grey, as a JPEG of a quality up to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def is_misread(encoded):
    """Whether TensorFlow would show other colours than `to_jpeg`, without an error.

    It takes no notice of a BMP's palette, masks, and transparency, nor of a GIF's transparency.
    """
    bits_per_pixel = int.from_bytes(encoded[28:30], "little")
    return encoded.startswith(b"GIF") or (encoded.startswith(b"BM") and bits_per_pixel != 24)


def check_scans(encoded):
    """Raises ValueError for a JPEG that would take too many passes to decode."""
    # The bytes also occur in what follows the image, like the film of a phone's motion photo.
    if not encoded.startswith(b"\xff\xd8") or encoded.count(SCAN) <= limits.JPEG_SCANS:
        return
    scans, position = 0, 2
    while scans <= limits.JPEG_SCANS:
        marker = _MARKER.search(encoded, position)
        if not marker or marker.group(1) == _END:
            return
        scans += marker.group() == SCAN
        # The length of the marker's segment, which includes its own two bytes.
        position = marker.end() + int.from_bytes(encoded[marker.end() : marker.end() + 2], "big")
    raise ValueError(f"it has more than {limits.JPEG_SCANS} scans, and no more are decoded")


def _check_sides(image):
    """Raises ValueError for an image that no JPEG can hold, before it is decoded for nothing."""
    if max(image.size) > limits.JPEG_SIDE:
        width, height = image.size
        raise ValueError(
            f"it has {width} x {height} pixels, and a JPEG has at most {limits.JPEG_SIDE} a side"
        )


def _check_tiles(image):
    """Raises ValueError for a TIFF with a tile or strip that is larger than images may be."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH, image.width), tags.get(_TILE_LENGTH, 1)
    if not isinstance(width, int) or not isinstance(height, int):
        raise ValueError("its tiles have no size")
    if width * height > limits.IMAGE_PIXELS:
        raise ValueError(f"its tiles have {width} x {height} pixels")


def to_rgb(image):
    """A Pillow image in RGB; what is transparent becomes white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255.
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 0xFFFF:
            raise ValueError("pixels of more than 16 bits have no known range")
        return PilImage.fromarray((array >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PilImage.new("RGBA", image.size, "white")
        return PilImage.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
