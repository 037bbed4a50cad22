"""Tables that a spreadsheet shows, and does not execute."""

import csv
import io

import pytest

from common import spreadsheet


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|'x'!A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
)
def test_formulas_become_texts(text):
    assert _read(spreadsheet.as_csv([[text, f"a{text}"]])) == [[f"'{text}", f"a{text}"]]


@pytest.mark.parametrize(
    "text", ["-", "-1.5", "+3", "-1e-05", "plain", "a, \"b\"\n'c'", "中文", ""]
)
def test_other_texts_stay(text):
    assert _read(spreadsheet.as_csv([[text]])) == [[text]]


def test_texts_are_in_quotes_and_numbers_are_not():
    rows = [["a;=1+1", 1, -2.5], ["not UTF-8: \udcff", 0, 1]]
    expected = '"a;=1+1",1,-2.5\r\n"not UTF-8: \\xff",0,1\r\n'
    assert spreadsheet.as_csv(rows, line_end="\r\n") == expected


def _read(text):
    return list(csv.reader(io.StringIO(text, newline="")))
