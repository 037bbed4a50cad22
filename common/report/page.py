"""The page of a report: one file that needs nothing else, and no network."""

import base64
import hashlib
import os
from typing import Any, Dict, List, NamedTuple, Sequence

import jinja2
from markupsafe import Markup

from common import spreadsheet
from common.curves import Curve
from common.report import charts, statistics
from common.report.accumulate import SUSPECTS, Accumulator, Example

_TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
# A matrix of more classes could not be read.
MOST_IN_MATRIX = 25
# Confusions that the page knows, and that it shows at a time.
_MOST_CONFUSIONS = 50_000
_CONFUSIONS_SHOWN = 100
# Rows of the table that helps to choose a threshold.
_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Contents(NamedTuple):
    """What a page shows.

    Attributes:
        title: of the page.
        tiles: {name: text} of the most important figures.
        facts: {name: text} of where they come from.
        command: that made the evaluation.
        hparams: {name: value}.
        found: counts and examples.
        names: of the classes.
        curves: {title: curves} of the training.
    """

    title: str
    tiles: Dict[str, str]
    facts: Dict[str, str]
    command: str
    hparams: Dict[str, Any]
    found: Accumulator
    names: Sequence[str]
    curves: Dict[str, List[Curve]]


def render(contents: Contents) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=_percent, jpeg=_jpeg_uri, place=_place)
    script = _read("report.js")
    style = _read("../../base.css") + _read("report.css")
    found = contents.found
    suspects = statistics.suspected_labels(found)
    confusions = statistics.confusions(found)
    return environment.get_template("report.html").render(
        **contents._asdict(),
        script=script,
        style=style,
        # Nothing but this script runs, whatever the names of classes and files are.
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode(),
        classes=statistics.classes(found),
        class_images=found.confusion.sum(axis=1).tolist(),
        mistakes=list(found.mistakes),
        least_certain=list(found.least_certain),
        matrix=_matrix(found),
        confusions=confusions[:_CONFUSIONS_SHOWN],
        most_shown=_CONFUSIONS_SHOWN,
        num_confusions=len(confusions),
        confusion_data=[list(row) for row in confusions[:_MOST_CONFUSIONS]],
        curve_charts=_curve_charts(contents.curves),
        calibration_error=statistics.calibration_error(found),
        reliability=charts.reliability("Reliability diagram", statistics.reliability(found)),
        threshold_chart=_threshold_chart(found),
        thresholds=statistics.thresholds(found, _THRESHOLDS),
        suspects=suspects,
        # Of the examples that were kept, others may be no suspects.
        may_be_more=len(found.suspects.items()) == SUSPECTS,
        suspects_csv=_data_uri("text/csv;charset=utf-8", suspects_csv(suspects, contents.names)),
    )


def _threshold_chart(found: Accumulator) -> Markup:
    curve = [(t.confidence, t) for t in statistics.thresholds(found, statistics.HUNDREDTHS)]
    accuracy = [(x, t.accuracy) for x, t in curve if t.accuracy is not None]
    answered = [(x, t.answered) for x, t in curve]
    return charts.lines(
        "Accuracy and share of images over the confidence",
        [charts.Series("accuracy", accuracy), charts.Series("share of images", answered)],
        *("least confidence", "share"),
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def suspects_csv(suspects: Sequence[Example], names: Sequence[str]) -> bytes:
    """Suspected labels for a spreadsheet, which will execute none of the cells."""
    rows = [["image", "file", "record", "label", "label name", "label probability"]]
    rows[0] += ["suggested", "suggested name", "suggested probability"]
    for one in suspects:
        source = one.source
        row = [source.name, source.file, source.record]
        row += [one.label, names[one.label], f"{one.label_probability:.6f}"]
        row += [one.given, names[one.given], f"{one.confidence:.6f}"]
        rows.append(row)
    # Without the mark Excel would not read it as UTF-8.
    return spreadsheet.as_csv(rows, line_end="\r\n").encode("utf-8-sig")


def _matrix(found: Accumulator) -> Dict[str, Any]:
    """The confusion matrix of the classes that occur: labels, and rows of (images, share)."""
    labels = [row.label for row in statistics.classes(found)]
    if len(labels) > MOST_IN_MATRIX:
        return {"labels": labels, "rows": None}
    counts = found.confusion[labels][:, labels]
    totals = counts.sum(axis=1)
    rows = [
        [(n, n / total if total else 0.0) for n in row.tolist()]
        for row, total in zip(counts, totals.tolist())
    ]
    return {"labels": labels, "rows": rows}


def _curve_charts(curves: Dict[str, List[Curve]]) -> List[dict]:
    """Charts of the parts that have a curve with two points."""
    found = []
    for title, part in curves.items():
        series = [charts.Series(c.name, c.points, c.is_evaluation) for c in part]
        if any(len(one.points) > 1 for one in series):
            chart = charts.lines(f"{title} of the training", series, "step", title)
            found.append({"title": title, "names": [s.name for s in series], "chart": chart})
    return found


def _read(name: str) -> str:
    with open(os.path.join(_TEMPLATES, name), encoding="utf-8") as file:
        return file.read()


# Filters -----------------------------------------------------------------------------------------


def _percent(value, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _jpeg_uri(picture: bytes) -> str:
    return _data_uri("image/jpeg", picture)


def _place(example: Example) -> str:
    """Where an image comes from, in words."""
    source = example.source
    record = f"record {source.record}"
    if source.file:
        record = f"{os.path.basename(source.file)}, {record}"
    return f"{source.name} ({record})" if source.name else record
