"""The page of a report: it is one file, it executes nothing of the data, and stays small."""

import base64
import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from common.curves import Curve
from common.report import charts, heat, page
from common.report.accumulate import Accumulator, Source
from common.report.accumulate_test import batch

_EVIL = "<script>alert(1)</script>\"'&"


def _contents(names, found, **values):
    return page.Contents(
        **{
            **{
                "title": "t",
                "tiles": {},
                "facts": {},
                "command": _EVIL,
                "hparams": {},
                "curves": {},
            },
            **values,
            "found": found,
            "names": names,
        }
    )


def _mistaken(num_classes, source=None):
    """Of each class one image that is right and one that is taken for the next class."""
    labels = np.tile(np.arange(num_classes), 2)
    given = np.where(np.arange(2 * num_classes) < num_classes, labels, (labels + 1) % num_classes)
    found = Accumulator(num_classes)
    one = batch(labels, given, np.linspace(0.55, 0.99, 2 * num_classes))
    found.add(one if source is None else one._replace(sources=[source] * len(labels)))
    return found


def _csv_of(html):
    uri = re.search(r'download="suspected_labels.csv" href="data:text/csv[^,]*,([^"]*)"', html)
    return list(csv.reader(io.StringIO(base64.b64decode(uri.group(1)).decode("utf-8-sig"))))


@pytest.mark.parametrize("num_classes", [3, 40])
def test_names_are_text(num_classes):
    """Also where the matrix has too many classes."""
    found = _mistaken(num_classes, Source(f"/data/{_EVIL}", 7, f"{_EVIL}.jpg"))
    names = [f"{_EVIL}{i}" for i in range(num_classes)]
    texts = {"evil": _EVIL}
    html = page.render(
        _contents(names, found, title=_EVIL, tiles=texts, facts=texts, hparams=texts)
    )
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert len(re.findall("<script", html)) == 2  # Ours, and the data for it.
    assert f'src="{_EVIL[:5]}' not in html and "'&\"" not in html
    assert ("Confusion matrix" in html) == (num_classes == 3)


def test_page_needs_no_network():
    html = page.render(_contents(["a", "b", "c"], _mistaken(3)))
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', html)
    assert addresses and all(a.startswith(("data:", "#")) for a in addresses)
    assert "url(" not in html and "@import" not in html and "default-src 'none'" in html


def test_csv_is_safe_for_spreadsheets():
    names = ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\tx", "plain, with comma", "中文"]
    source = Source("=file", 3, "-name.jpg")
    rows = _csv_of(page.render(_contents(names, _mistaken(len(names), source))))
    assert rows[0][:4] == ["image", "file", "record", "label"]
    found = {row[4]: row for row in rows[1:]}
    assert "plain, with comma" in found and "中文" in found and "'=1+1" in found
    for row in rows[1:]:
        assert row[:3] == ["'-name.jpg", "'=file", "3"]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row)


def test_names_that_are_not_utf_8():
    found = _mistaken(3, Source("/data/\udcff", 0, "\udcfe.jpg"))
    html = page.render(_contents(["a\udcff", "b", "c"], found))
    assert b"a?" in html.encode("utf-8", "replace")
    assert _csv_of(html)[1][0] == "\\xfe.jpg"


def test_pages_of_perfect_and_of_hopeless_networks():
    perfect, hopeless = Accumulator(2), Accumulator(2)
    perfect.add(batch([0, 1], [0, 1], [0.9, 0.9]))
    hopeless.add(batch([0, 1], [1, 0], [0.9, 0.9]))
    for found, missing in ((perfect, "all answers are right"), (hopeless, "no answer is right")):
        html = page.render(_contents(["a", "b"], found))
        assert f"There are none: {missing}." in html
    page.render(_contents(["a", "b"], Accumulator(2)))


def test_curves_of_the_training():
    curves = {
        "loss": [Curve("training", [(0, 2.0), (10, float("nan")), (20, 1.0)], False)],
        "accuracy": [Curve("top-1", [(20, 0.5)], True)],
    }
    html = page.render(_contents(["a", "b"], _mistaken(2), curves=curves))
    assert 'aria-label="loss of the training"' in html
    assert 'aria-label="accuracy of the training"' not in html  # A point is no curve.
    assert "nan" not in re.search("<polyline[^>]*>", html).group(0)


@pytest.mark.parametrize(
    "low, high", [(0, 1), (0, 276), (-3.7, 0.02), (0, 2e-4), (1e-5, 3e-5), (5e6, 6e6)]
)
def test_ticks_are_few_and_in_the_range(low, high):
    found = charts.ticks(low, high)
    assert len(set(map(charts._number, found))) == len(found)
    assert 2 <= len(found) <= 7 and min(found) >= low - 1e-9 and max(found) <= high * (1 + 1e-9)


def test_heat_is_bright_where_the_map_is_high():
    image = Image.new("RGB", (60, 40), (128, 128, 128))
    seen = np.asarray(heat.heat(image, np.array([[0.0, -1.0], [0.0, 4.0]])), np.int64)
    assert seen.shape == (40, 60, 3)
    assert seen[35, 55].sum() > 400 > 200 > seen[5, 5].sum()
    dark = np.asarray(heat.heat(image, np.array([[-1.0, -2.0], [-1.0, -1.0]])))
    assert dark.max() < 80
    weak = np.asarray(heat.heat(image, np.array([[0.0, 0.0], [0.0, 4.0]]), scale=40.0), np.int64)
    assert weak[35, 55].sum() < 250
