"""Images that strangers send: refused by their headers, before anything is decoded."""

import io
import warnings
from typing import NamedTuple

from PIL import Image

from common import limits
from common.data import image_files
from common.errors import UserError

# Width and height of what the page shows.
_SHOWN = (640, 640)


class Upload(NamedTuple):
    """An image that has been decoded once.

    Attributes:
        encoded: the file as it came.
        jpeg: the file in a format that TensorFlow reads.
        width, height: in pixels.
    """

    encoded: bytes
    jpeg: bytes
    width: int
    height: int

    def shown(self) -> bytes:
        """A small JPEG of the image as the network sees it: not turned as EXIF says."""
        with Image.open(io.BytesIO(self.jpeg)) as image:
            image.draft("RGB", _SHOWN)
            image = image.convert("RGB")
            image.thumbnail(_SHOWN, Image.BICUBIC)
            return image_files.encode_jpeg(image, quality=85)


def read(encoded: bytes) -> Upload:
    """Checks an image, and decodes it.

    Raises:
        UserError: it is no image, is damaged, or is too large.
    """
    if not encoded:
        raise UserError("The file is empty.")
    if len(encoded) > limits.UPLOAD_BYTES:
        raise UserError(too_many_bytes())
    with warnings.catch_warnings():
        # Pillow's are about images that it decodes all the same.
        warnings.simplefilter("ignore")
        _check_size(encoded)
        try:
            jpeg = image_files.to_jpeg(encoded)
        except ValueError as error:
            raise UserError(f"The image cannot be decoded: {error}.") from error
    return Upload(encoded, jpeg.encoded, jpeg.width, jpeg.height)


def too_many_bytes() -> str:
    return f"The file is too large: at most {limits.UPLOAD_BYTES // 1_000_000} MB are accepted."


def _check_size(encoded: bytes):
    try:
        with Image.open(io.BytesIO(encoded), formats=image_files.FORMATS) as image:
            width, height = image.size
            if width * height > limits.UPLOAD_PIXELS:
                raise UserError(_too_many_pixels(f"{width} x {height} pixels"))
            if image.format == "GIF":
                _check_pictures(image)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(_too_many_pixels("far more pixels than that")) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            "This is no image, or a damaged one: JPEG, PNG, GIF, BMP, TIFF, WebP, PPM, and PGM "
            "files are accepted."
        ) from error
    except Exception as error:  # Whatever Pillow's parsers stumble over.
        raise UserError(f"The image cannot be decoded: {error}.") from error


def _check_pictures(image: Image.Image):
    most = min(limits.UPLOAD_PICTURES, limits.UPLOAD_PIXELS // (image.width * image.height))
    try:
        image.seek(most)
    except EOFError:
        return
    raise UserError(
        _too_many_pixels(f"more than {most} pictures of {image.width} x {image.height}")
    )


def _too_many_pixels(found: str) -> str:
    most = limits.UPLOAD_PIXELS // 1_000_000
    return f"The image is too large: it has {found}, and at most {most} megapixels are accepted."
