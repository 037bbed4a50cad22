"""What is said about records; imagenet_input_test.py compares it with what training takes."""

from helpers import many_scans

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
        "has an image (JPEG) that cannot be decoded: it has 110 scans, and at most 100 are decoded"
    )
