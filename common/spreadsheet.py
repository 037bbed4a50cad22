"""Tables as CSV, for spreadsheets, which execute none of their cells."""

import csv
import io
from typing import Iterable, Sequence, Union

from common import files

Cell = Union[str, int, float]

# A spreadsheet takes a cell that starts with one of these for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_csv(rows: Iterable[Sequence[Cell]], line_end: str = "\n") -> str:
    """Rows as CSV: texts in quotes, numbers without.

    A text that a spreadsheet would take for a formula gets an apostrophe in front. The quotes keep
    a semicolon, which separates cells where the comma is decimal, from starting another cell.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=line_end, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return file.getvalue()


def _harmless(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    is_formula = cell.startswith(_FORMULA_STARTS) and not is_value(cell)
    return ("'" if is_formula else "") + files.valid_text(cell)


def is_value(text: str) -> bool:
    """Whether a text is a number or a dash, which is nothing to execute."""
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True
