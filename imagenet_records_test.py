"""What is said about records; imagenet_input_test.py compares it with what training takes."""

from helpers import encode, many_scans, noise
from PIL.PngImagePlugin import PngInfo

import imagenet_records
from common import limits
from common.data import tfrecords


def test_jpegs_that_take_very_long_are_not_decoded():
    images = [many_scans(count) for count in (10, limits.JPEG_SCANS, 10)]
    records = [
        tfrecords.image_example(image, 1, height=32, width=32).SerializeToString()
        for image in images
    ]
    with imagenet_records.Checker(11) as checker:
        sound, bad, last = checker.check(records)
    assert not sound.problem and not last.problem
    assert bad.problem == (
        "has an image (JPEG) that cannot be decoded: it has more than 100 scans, and no more are "
        "decoded"
    )


def test_bytes_like_those_of_scans_are_no_scans_elsewhere():
    text = PngInfo()
    text.add_text("comment", "\xff\xd8\xff" + "\xff\xda" * 1000)  # Which PNG has as Latin-1.
    png = encode(noise(0), "PNG", pnginfo=text)
    assert png.count(b"\xff\xda") == 1000 and b"\xff\xd8\xff" in png
    record = tfrecords.image_example(png, 1, height=16, width=16).SerializeToString()
    assert imagenet_records.find_problem(record, 11) is None
