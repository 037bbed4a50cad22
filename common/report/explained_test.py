"""Pictures of answers: their names, and what is drawn."""

import numpy as np
import pytest
from PIL import Image

from common.report import explained


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/photos/holiday.jpg", "0007_holiday.jpg"),
        ("photos/holiday", "0007_holiday.jpg"),
        ("../..", "0007_image.jpg"),
        ("a/..png", "0007_png.jpg"),
        ("/photos/my <b>photo</b>; rm -rf.JPG", "0007_b_rm_-rf.jpg"),
        ("/photos/\u6587\u4ef6 1.png", "0007_\u6587\u4ef6_1.jpg"),
        ("/photos/\udcff\n.png", "0007_xff_n.jpg"),
        ("/photos/.hidden", "0007_hidden.jpg"),
    ],
)
def test_file_names(path, expected):
    assert explained.file_name(7, path) == expected


def test_long_file_names_are_cut():
    name = explained.file_name(7, "\u6587" * 200 + ".jpg")
    assert name.startswith("0007_\u6587") and len(name.encode("utf-8")) <= 100


def test_picture():
    image = Image.new("RGB", (40, 40), (0, 0, 250))
    activation = np.array([[0.0, 0.0], [0.0, 1.0]])
    names = ["<script>", "\u6587\u5b57", "a\nb", "x" * 500, ""]
    answers = list(zip(names, (0.9, 0.05, 0.03, 0.02, 0.0)))
    pixels = np.asarray(explained.draw(image, activation, answers), np.int64)
    assert pixels[100, 100].tolist() == [0, 0, 250]
    assert pixels[320, 650].sum() > pixels[20, 360].sum() + 200
    # The bar of the first answer is longer than the second one's.
    assert pixels[360, 590].tolist() != [255, 255, 255] == pixels[386, 590].tolist()
