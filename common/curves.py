"""A picture of a training: its loss, accuracy and learning rate, drawn from the event files.

Training draws it after each round; to draw it at another time:

    python -m common.curves --model_dir=MODEL [--output=curves.png]
"""

import argparse
import io
import os
import re
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

from common import files
from common.errors import UserError
from common.runtime import tf

FILE_NAME = "curves.png"

# Title of each part -> (directory of the event files, tag, name of the curve).
_PARTS = {
    "loss": [("", "loss", "training"), ("eval", "loss", "evaluation")],
    "accuracy": [("eval", "top_1_accuracy", "top-1"), ("eval", "top_5_accuracy", "top-5")],
    "learning rate": [("", "learning_rate", "learning rate")],
}


class Curve(NamedTuple):
    """One curve of a training: its (step, value) points."""

    name: str
    points: List[Tuple[int, float]]
    is_evaluation: bool


def read_parts(model_dir: str) -> Dict[str, List[Curve]]:
    """Returns the curves in a model directory's event files by the title of their part."""
    scalars = {name: read_scalars(os.path.join(model_dir, name)) for name in ("", "eval")}
    return {
        title: [
            Curve(label, scalars[name][tag], bool(name))
            for name, tag, label in curves
            if scalars[name].get(tag)
        ]
        for title, curves in _PARTS.items()
    }


def draw(model_dir: str, path: Optional[str] = None) -> str:
    """Draws the curves into a PNG, by default in the model directory; returns its path.

    Raises:
        UserError: there is nothing to draw, or matplotlib is not installed.
    """
    path = path or os.path.join(model_dir, FILE_NAME)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # Slow, and needed here only.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"Curves need matplotlib: {error}.") from error

    parts = read_parts(model_dir)
    if not any(parts.values()):
        raise UserError(f"The event files in {model_dir} tell of no loss and no accuracy.")
    figure = Figure(figsize=(8, 9), tight_layout=True)
    canvas = FigureCanvasAgg(figure)
    for axes, (title, curves) in zip(figure.subplots(len(parts), 1, sharex=True), parts.items()):
        axes.set_title(title)
        for curve in curves:
            marker = "o" if curve.is_evaluation else None  # Evaluations are few.
            axes.plot(*zip(*curve.points), marker=marker, markersize=3, label=curve.name)
            axes.legend()
        axes.grid(True, alpha=0.3)
    axes.set_xlabel("step")
    picture = io.BytesIO()
    canvas.print_png(picture)
    files.write_bytes(path, picture.getvalue())
    return path


def draw_or_warn(model_dir: str):
    """Draws the curves into the model directory; a failure is only logged."""
    try:
        draw(model_dir)
    except Exception as error:  # Training is more important than any error of a library.
        tf.logging.warning("The curves could not be drawn: %s", error)


def read_scalars(directory: str) -> Dict[str, List[Tuple[int, float]]]:
    """Returns {tag: [(step, value), ...]} of the scalars in all event files of a directory.

    If a resumed run repeated a step, its last value counts. A damaged file is read in part.
    """
    if not tf.io.gfile.isdir(directory):
        return {}
    names = sorted(name for name in tf.io.gfile.listdir(directory) if "tfevents" in name)
    found = {}
    for name in names:
        try:
            for event in tf.train.summary_iterator(os.path.join(directory, name)):
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        # TensorFlow may have numbered a tag: learning_rate_1.
                        tag = re.sub(r"_\d+$", "", value.tag)
                        found.setdefault(tag, {})[event.step] = value.simple_value
        except (tf.errors.DataLossError, tf.errors.NotFoundError):
            continue
    return {tag: sorted(points.items()) for tag, points in found.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True, help="directory of the training")
    parser.add_argument("--output", help=f"default: {FILE_NAME} in the model directory")
    arguments = parser.parse_args(argv)
    try:
        print(draw(arguments.model_dir, arguments.output))
    except UserError as error:
        sys.exit(f"curves.py: {error}")


if __name__ == "__main__":
    main()
