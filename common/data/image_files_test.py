"""Image files of all formats, and hostile ones."""

import io
import struct

import numpy as np
import pytest
from helpers import encode, many_scans
from PIL import Image

from common import limits
from common.data import image_files


def _gradient(height=16, width=24):
    """Returns a smooth uint8 RGB image, which JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 8, 128 + 0 * x], -1).astype(np.uint8)


def _decode(jpeg):
    assert jpeg.encoded[:2] == b"\xff\xd8"
    with Image.open(io.BytesIO(jpeg.encoded)) as image:
        assert image.size == (jpeg.width, jpeg.height)
        assert len(image.getbands()) == jpeg.channels
        return np.asarray(image).astype(int)


class TestToJpeg:
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_usual_jpeg_is_kept_byte_for_byte(self, mode):
        encoded = encode(Image.fromarray(_gradient()).convert(mode), "JPEG", quality=70)
        jpeg = image_files.to_jpeg(encoded)
        assert jpeg.encoded == encoded
        assert (jpeg.height, jpeg.width, jpeg.converted_from) == (16, 24, "")
        assert jpeg.channels == len(mode)

    @pytest.mark.parametrize("format_", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
    def test_other_formats(self, format_):
        jpeg = image_files.to_jpeg(encode(_gradient(), format_))
        assert jpeg.converted_from == format_
        assert np.abs(_decode(jpeg) - _gradient()).mean() < 8

    def test_cmyk_jpeg(self):
        encoded = encode(Image.fromarray(_gradient()).convert("CMYK"), "JPEG", quality=95)
        jpeg = image_files.to_jpeg(encoded)
        assert jpeg.converted_from == "CMYK JPEG"
        assert np.abs(_decode(jpeg) - _gradient()).mean() < 8

    def test_sixteen_bits_are_scaled_not_clipped(self):
        grey = _gradient()[..., 0].astype(np.uint16) * 257
        jpeg = image_files.to_jpeg(encode(Image.fromarray(grey.astype(np.int32)), "PNG"))
        assert np.abs(_decode(jpeg) - _gradient()[..., :1]).max() < 8

    def test_transparent_turns_white(self):
        pixels = np.dstack([_gradient(), np.zeros((16, 24), np.uint8)])
        assert _decode(image_files.to_jpeg(encode(pixels, "PNG"))).min() > 250
        palette = Image.new("P", (16, 16))
        encoded = encode(palette, "PNG", transparency=0)
        assert _decode(image_files.to_jpeg(encoded)).min() > 250

    def test_orientation_is_not_applied(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # Turn by 90 degrees.
        encoded = encode(_gradient(), "JPEG", exif=exif)
        jpeg = image_files.to_jpeg(encoded)
        assert jpeg.encoded == encoded
        assert (jpeg.height, jpeg.width) == (16, 24)

    @pytest.mark.parametrize(
        ("encoded", "reason"),
        [
            (b"", "is empty"),
            (b"no image" * 10, "cannot identify image file"),
            (encode(_gradient(), "JPEG")[:-1], "truncated"),
            (encode(_gradient(), "JPEG")[:200], "."),
            (encode(_gradient(), "PNG")[:60], "."),
            (encode(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
        ],
    )
    def test_broken(self, encoded, reason):
        with pytest.raises(ValueError, match=reason):
            image_files.to_jpeg(encoded)


def _tiff(tile, data):
    """A grey TIFF of 100 x 100 pixels, deflated in one tile of any size."""
    tags = [(256, 100), (257, 100), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile), (323, tile), (324, 200), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + data


def _claiming(encoded, old, new):
    """An image whose header claims another size."""
    assert old in encoded
    return encoded.replace(old, new, 1)


class TestHostile:
    @pytest.mark.parametrize(
        ("encoded", "reason"),
        [
            (many_scans(limits.JPEG_SCANS), "more than 100 scans"),
            (_tiff(40_000, b"x" * 5000), "tiles have 40000 x 40000 pixels"),
            # Ghostscript would run it.
            (
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
                "cannot identify",
            ),
            (encode(_gradient(), "PCX"), "cannot identify"),
            (
                _claiming(
                    encode(_gradient(), "BMP"),
                    struct.pack("<ii", 24, 16),
                    struct.pack("<ii", 50_000, 50_000),
                ),
                "decompression bomb",
            ),
            (
                _claiming(
                    encode(_gradient(), "GIF"), struct.pack("<HH", 24, 16), b"\xff\xff\xff\xff"
                ),
                "decompression bomb",
            ),
            (b"P6 99999 99999 255 \0", "decompression bomb"),
            (b"P5 65501 1 255 \0", "65501 x 1 pixels, and a JPEG has at most 65500 a side"),
        ],
        ids=["scans", "tiles", "EPS", "PCX", "BMP", "GIF", "PPM", "side"],
    )
    def test_refused(self, encoded, reason):
        with pytest.raises(ValueError, match=reason):
            image_files.to_jpeg(encoded)

    @pytest.mark.parametrize("marker", [0x01, 0x02, 0xBF, 0xD0, 0x00])
    def test_no_marker_hides_scans(self, marker):
        """A decoder passes over these, and reads no length behind them."""
        encoded = many_scans(limits.JPEG_SCANS)
        start = encoded.index(image_files.SCAN)
        hidden = encoded[:start] + bytes([0xFF, marker, 0xFF, 0xFF]) + encoded[start:]
        with pytest.raises(ValueError, match="more than 100 scans"):
            image_files.check_scans(hidden)

    def test_pillows_limit_is_the_projects(self):
        assert 2 * Image.MAX_IMAGE_PIXELS == limits.IMAGE_PIXELS

    def test_usual_number_of_scans(self):
        assert many_scans(0).count(b"\xff\xda") == 10
        assert image_files.to_jpeg(many_scans(10)).converted_from == ""

    def test_what_follows_a_jpeg_has_no_scans(self):
        """As in a phone's motion photo, behind whose JPEG there is a film."""
        photo = encode(_gradient()) + b"\xff\xda\x00\x02" * 1000
        assert image_files.to_jpeg(photo).encoded == photo

    def test_long_comment(self):
        """A GIF's may be longer than a JPEG's."""
        jpeg = image_files.to_jpeg(encode(_gradient(), "GIF", comment=b"x" * 70_000))
        assert jpeg.converted_from == "GIF" and len(jpeg.encoded) < 5000
