"""A picture of a training: its loss, accuracy and learning rate, as its files tell of them.

Training draws it after each round; to draw it at another time:

    python -m common.curves --model_dir=MODEL [--output=curves.png]
"""

import argparse
import contextlib
import io
import math
import os
import re
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

from common import files, results
from common.arguments import output_file
from common.errors import UserError
from common.runtime import tf

FILE_NAME = "curves.png"

# Title of each part -> (directory of the event files, tag, name of the curve).
_PARTS = {
    "loss": [("", "loss", "training"), ("eval", "loss", "evaluation")],
    "accuracy": [("eval", "top_1_accuracy", "top-1"), ("eval", "top_5_accuracy", "top-5")],
    "learning rate": [("", "learning_rate", "learning rate")],
}
# Of several runs: title of each part, and the part and the name of the curve above.
_PARTS_OF_RUNS = [
    ("training loss", "loss", "training"),
    ("evaluation loss", "loss", "evaluation"),
    ("top-1 accuracy", "accuracy", "top-1"),
    ("learning rate", "learning rate", "learning rate"),
]
_LINES = ["-", "--", ":", "-."]


class Curve(NamedTuple):
    """One curve of a training: its (step, value) points."""

    name: str
    points: List[Tuple[int, float]]
    is_evaluation: bool


def read_parts(model_dir: str) -> Dict[str, List[Curve]]:
    """Returns the curves of a model directory by the title of their part.

    They are those in the event files; of evaluations, from the first one in results.json on, those
    that can be compared.
    """
    scalars = {"": read_scalars(model_dir), "eval": _evaluations(model_dir)}
    return {
        title: [
            Curve(label, scalars[name][tag], bool(name))
            for name, tag, label in curves
            if scalars[name].get(tag)
        ]
        for title, curves in _PARTS.items()
    }


def _evaluations(model_dir: str) -> Dict[str, List[Tuple[int, float]]]:
    """As `read_scalars`."""
    events = read_scalars(os.path.join(model_dir, "eval"))
    records = []
    with contextlib.suppress(UserError):  # A curve is less than what damage the file has.
        records = results.comparable(results.read_results(model_dir))
    first = min((record.get("global_step", 0) for record in records), default=math.inf)
    found = {}
    for tag, points in events.items():
        recorded = [(r.get("global_step", 0), r.get("metrics", {}).get(tag)) for r in records]
        by_step = {step: value for step, value in points if step < first}
        by_step.update((step, value) for step, value in recorded if isinstance(value, float))
        found[tag] = sorted(by_step.items())
    return found


def draw(model_dir: str, path: Optional[str] = None) -> str:
    """Draws the curves into a PNG, by default in the model directory; returns its path.

    Raises:
        UserError: there is nothing to draw, or matplotlib is not installed.
    """
    path = path or os.path.join(model_dir, FILE_NAME)
    with _picture(path, 8, 9) as figure:
        parts = read_parts(model_dir)
        if not any(parts.values()):
            raise UserError(f"The event files in {model_dir} tell of no loss and no accuracy.")
        all_axes = figure.subplots(len(parts), 1, sharex=True)
        for axes, (title, curves) in zip(all_axes, parts.items()):
            axes.set_title(title)
            for curve in curves:
                _plot(axes, curve, label=curve.name)
                axes.legend()
            axes.grid(True, alpha=0.3)
        axes.set_xlabel("step")
    return path


def draw_runs(model_dirs: Dict[str, str], path: str):
    """Draws the curves of several trainings into one PNG.

    Args:
        model_dirs: the trainings' directories, by the names that the legend shows.
        path: of the picture.

    Raises:
        UserError: there is nothing to draw, or matplotlib is not installed.
    """
    columns = min(len(model_dirs), 150 // (max(map(len, model_dirs)) + 8) or 1)
    legend_height = 0.25 * math.ceil(len(model_dirs) / columns) + 0.2
    height = 8 + legend_height
    with _picture(path, 12, height, bottom=legend_height / height) as figure:
        runs = [read_parts(directory) for directory in model_dirs.values()]
        if not any(any(parts.values()) for parts in runs):
            raise UserError("The event files of the runs tell of no loss and no accuracy.")
        for axes, (title, part, name) in zip(figure.subplots(2, 2).flat, _PARTS_OF_RUNS):
            axes.set_title(title)
            lines = []
            for i, parts in enumerate(runs):
                found = [curve for curve in parts[part] if curve.name == name]
                curve = found[0] if found else Curve(name, [], False)
                # Ten colours, then these with another style of line.
                style = {"color": f"C{i % 10}", "linestyle": _LINES[i // 10 % len(_LINES)]}
                lines.append(_plot(axes, curve, alpha=0.8, **style))
            axes.set_xlabel("step")
            axes.grid(True, alpha=0.3)
        # A dollar sign would start a formula.
        names = [files.printable(name).replace("$", r"\$") for name in model_dirs]
        figure.legend(lines, names, loc="lower center", ncol=columns, frameon=False)


@contextlib.contextmanager
def _picture(path: str, width: float, height: float, bottom: float = 0):
    """An empty figure of a size in inches, which is written to a PNG at the end of the block.

    Args:
        bottom: the fraction of the height that is kept free at the bottom.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # Slow, and needed here only.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"Curves need matplotlib: {error}.") from error
    figure = Figure(figsize=(width, height))
    canvas = FigureCanvasAgg(figure)
    yield figure
    figure.tight_layout(rect=(0, bottom, 1, 1))
    picture = io.BytesIO()
    canvas.print_png(picture)
    files.write_bytes(path, picture.getvalue())


def _plot(axes, curve: Curve, **style):
    """Plots a curve, which may be empty; returns its line."""
    marker = "o" if curve.is_evaluation else None  # Evaluations are few.
    steps, values = zip(*curve.points) if curve.points else ((), ())
    (line,) = axes.plot(steps, values, marker=marker, markersize=3, **style)
    return line


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
    names = sorted(name for name in files.list_directory(directory) if "tfevents" in name)
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
    parser.add_argument(
        "--output", type=output_file, help=f"default: {FILE_NAME} in the model directory"
    )
    arguments = parser.parse_args(argv)
    try:
        print(draw(arguments.model_dir, arguments.output))
    except (UserError, OSError) as error:
        sys.exit(f"curves.py: {error}")


if __name__ == "__main__":
    main()
