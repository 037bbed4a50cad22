"""Compares trainings: a table of their hyper-parameters and results, and a picture of their curves.

    python scripts/compare_runs.py quickstart_run more/seed_4

A DIR is the model directory of a run, or a directory of such directories. The table shows the
hyper-parameters and the settings in which the runs differ, the best top-1 accuracy and its step,
the last accuracies, the steps, and the images per second and seconds of training without the time
of starting and evaluating. On a terminal, a wide table is printed in parts; otherwise, each run is
one line. A dash means that there is no such value.
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from common import compared_runs, curves, files, spreadsheet
from common.arguments import Parser, place
from common.errors import UserError
from common.runtime import tf

_CELL_WIDTH = 24


def parse_arguments(argv):
    parser = Parser(__doc__)
    parser.add_argument(
        "dirs", type=place, nargs="+", metavar="DIR", help="a run, or a directory of runs"
    )
    parser.add_argument(
        "--plot",
        default="compare_runs.png",
        metavar="FILE",
        help="The picture, a PNG that is replaced if it exists; --plot= draws none. Default: "
        "compare_runs.png in the current directory.",
    )
    parser.add_argument(
        "--csv", metavar="FILE", help="Also writes the table, with unshortened values, as CSV."
    )
    options = parser.parse_args(argv)
    for flag in ("plot", "csv"):
        path = getattr(options, flag)
        directory = os.fsencode(os.path.dirname(path or "") or ".")
        if path and not tf.io.gfile.isdir(directory):
            parser.error(f"--{flag}={path}: there is no directory {os.path.dirname(path)}")
    return options


def table_of(runs):
    """Rows of text: the header, then one row for each run."""
    differing = compared_runs.differing(runs)
    header = ["run", *differing, "best top-1", "at step", "last top-1", "last top-5"]
    rows = [[*header, "steps", "images/s", "seconds"]]
    for run in runs:
        settings = [_text(run.settings.get(name)) for name in differing]
        if not run.settings:
            settings = ["not recorded"] * len(differing)
        best, last = run.best or {}, run.last or {}
        figures = [
            _text(best.get("top_1_accuracy"), ".4f"),
            _text(best.get("step")),
            _text(last.get("top_1_accuracy"), ".4f"),
            _text(last.get("top_5_accuracy"), ".4f"),
            _text(run.steps),
            _text(run.images_per_second, ".1f"),
            _text(run.seconds, ".0f"),
        ]
        rows.append([run.name, *settings, *figures])
    return rows


def _text(value, style="") -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and value.is_integer() and not style:
        value = int(value)
    return format(value, style) if style else str(value)


def layout(rows, width=None):
    """Lines of a table that is at most `width` columns wide, in several parts if need be."""
    columns = []
    for header, *cells in zip(*rows):
        cells = [header, *compared_runs.shorten(cells, _CELL_WIDTH)]
        size = max(map(len, cells))
        is_text = header == "run" or not all(spreadsheet.is_value(cell) for cell in cells[1:])
        columns.append([cell.ljust(size) if is_text else cell.rjust(size) for cell in cells])
    names, *columns = columns
    lines = []
    while columns:
        part = [names]
        while columns and (len(part) == 1 or _width(part + columns[:1]) <= (width or 1e9)):
            part.append(columns.pop(0))
        lines += [""] * bool(lines) + ["  ".join(cells).rstrip() for cells in zip(*part)]
    return lines


def _width(columns) -> int:
    return sum(len(column[0]) + 2 for column in columns) - 2


def print_table(runs, rows):
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(layout(rows, width)))
    evaluated = [run for run in runs if run.best]
    if len(evaluated) > 1:
        best = max(evaluated, key=lambda run: run.best["top_1_accuracy"])
        print(f"\nBest: {best.name}, top-1 {best.best['top_1_accuracy']:.4f}.")
    if len(runs) > 1 and any(run.settings for run in runs) and not compared_runs.differing(runs):
        print("The recorded hyper-parameters are all the same.")
    unknown = [run.name for run in runs if not run.settings]
    if unknown:
        print(f"Hyper-parameters are not recorded for: {', '.join(unknown)}.")


def main(argv=None):
    """Runs the program."""
    options = parse_arguments(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        runs = compared_runs.read(options.dirs)
        rows = table_of(runs)
        print_table(runs, rows)
        if options.csv:
            files.write_text(options.csv, spreadsheet.as_csv(rows))
        if options.plot:
            names = compared_runs.shorten([run.name for run in runs], _CELL_WIDTH)
            directories = [run.directory for run in runs]
            curves.draw_runs(dict(zip(names, directories)), options.plot)
            print(f"Curves: {options.plot}")
    except (UserError, OSError, tf.errors.OpError) as error:
        sys.exit(f"compare_runs.py: {error}")


if __name__ == "__main__":
    main()
