#!/usr/bin/env python
"""Draws a network's normal and reduction cell from model_specs.py.

    python scripts/docs/draw_cells.py --cell_name=amoeba_net_d --output=docs/amoeba_net_d.png

Read from left to right: a column holds the combinations whose inputs are all further left. Each
hidden state has a colour of its own, and a lane through the columns in which nobody reads it.
"""

import argparse
import itertools
import os
import re
import sys
from typing import Dict, Iterator, List, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path

import model_specs

# Lengths are in pixels of a page as wide as code hosts show; files have twice as many.
_PAGE_WIDTH = 830
_BOX_WIDTH, _BOX_HEIGHT, _BOX_GAP = 108, 25, 4
_SUM_RADIUS = 9
_COMBINATION_WIDTH = _BOX_WIDTH + 14 + 2 * _SUM_RADIUS
_END_WIDTH, _END_HEIGHT = 86, 40
_LANE_HEIGHT = 8
_ROW_GAP = 18
_MARGIN, _TITLE_HEIGHT, _LEGEND_HEIGHT = 4, 36, 30

_OUTPUT = -1  # As a state, that reads all unused ones.
_ENDS = {0: "previous\ncell", 1: "the one\nbefore it", _OUTPUT: "concatenate"}
_STATE_COLOURS = ("#4c4c4c", "#a05a00", "#0063a6", "#b01c5a", "#00735c", "#7a3eb1", "#b3261e")
_KIND_COLOURS = {"convolution": "#d6e6f8", "pooling": "#fbe5c8", "identity": "#eeeeee"}

Point = Tuple[float, float]
Columns = List[List[int]]  # The states that stand in each column, from the top.


class CellGraph:
    """A cell's states and the column each is made in.

    Args:
        spec: as `model_specs` returns it.
        stride: 2 for a reduction cell: of the operations that read state 0 or 1.
    """

    def __init__(self, spec: model_specs.CellSpec, stride: int):
        self._operations, self._indices, used = spec
        self._stride = stride
        self._unused = [state for state, is_used in enumerate(used) if not is_used]
        self.column = {0: 0, 1: 0}
        for state in range(2, len(used)):
            self.column[state] = 1 + max(self.column[s] for s in self.sources(state))
        self.column[_OUTPUT] = 1 + max(self.column.values())

    def sources(self, state: int) -> List[int]:
        """The states that one is made of."""
        if state == _OUTPUT:
            return self._unused
        return [] if state < 2 else self._indices[2 * state - 4 : 2 * state - 2]

    def operations(self, state: int) -> List[str]:
        """The two operations whose results are added."""
        return self._operations[2 * state - 4 : 2 * state - 2]

    def labels(self, state: int) -> List[str]:
        """Their names in the picture."""
        return [
            operation_label(operation) + (" /2" if self._stride == 2 and source < 2 else "")
            for operation, source in zip(self.operations(state), self.sources(state))
        ]

    def columns(self) -> Columns:
        """Each column's states: those made there and those that only pass."""
        columns = [[] for _ in range(self.column[_OUTPUT] + 1)]
        for state, made in self.column.items():
            readers = [column for s, column in self.column.items() if state in self.sources(s)]
            for column in range(made, max([made + 1, *readers])):
                columns[column].append(state)
        return columns


def operation_label(operation: str) -> str:
    """'separable_3x3_2' as '2 sep. 3x3', 'max_pool_3x3' as 'max pool 3x3'."""
    text = re.sub(r"^dil_\d_", "", operation)  # The network ignores that dilation.
    text = re.sub(r"^separable_(\w+)_(\d)$", r"\2 sep. \1", text)
    text = {"none": "identity", "1x7_7x1": "1x7, 7x1", "1x3_3x1": "1x3, 3x1"}.get(text, text)
    return text.replace("_", " ")


def operation_kind(operation: str) -> str:
    """One of the legend's kinds."""
    if operation == "none":
        return "identity"
    return "pooling" if "pool" in operation else "convolution"


# Layout ------------------------------------------------------------------------------------------


def arrange(graph: CellGraph) -> Columns:
    """The columns, each in an order that keeps the lines between them level."""
    columns = graph.columns()

    def slope(i, order):
        lines = segments(graph, [*columns[:i], list(order), *columns[i + 1 :]])
        return sum((start[1] - end[1]) ** 2 for _, start, end in lines)

    for _ in range(3):
        for i, column in enumerate(columns):
            orders = itertools.permutations(column)
            columns[i] = list(min(orders, key=lambda order, i=i: slope(i, order)))
    return columns


def item_height(graph: CellGraph, column: int, state: int) -> float:
    if state in _ENDS and graph.column[state] == column:
        return _END_HEIGHT
    if graph.column[state] == column:
        return 2 * _BOX_HEIGHT + _BOX_GAP
    return _LANE_HEIGHT


def column_height(graph: CellGraph, column: int, states: List[int]) -> float:
    heights = [item_height(graph, column, state) for state in states]
    return sum(heights) + _ROW_GAP * (len(heights) - 1)


def place(graph: CellGraph, columns: Columns) -> Dict[Tuple[int, int], Point]:
    """(column, state) -> its left edge and its middle; y grows downwards from the cell's middle."""
    inner = len(columns) - 2
    gap = _PAGE_WIDTH - 2 * (_MARGIN + _END_WIDTH) - inner * _COMBINATION_WIDTH
    step = gap / (inner + 1) + _COMBINATION_WIDTH
    points = {}
    for column, states in enumerate(columns):
        x = _MARGIN + (column and _END_WIDTH - _COMBINATION_WIDTH + column * step)
        y = -column_height(graph, column, states) / 2
        for state in states:
            height = item_height(graph, column, state)
            points[column, state] = x, y + height / 2
            y += height + _ROW_GAP
    return points


def segments(graph: CellGraph, columns: Columns) -> Iterator[Tuple[int, Point, Point]]:
    """The lines between neighbouring columns: (state, start, end)."""
    points = place(graph, columns)
    for (column, state), (x, y) in points.items():
        if graph.column[state] != column:
            ends = [(state, y)]
        else:
            sources, spread = graph.sources(state), _BOX_HEIGHT + _BOX_GAP
            if state == _OUTPUT:
                sources = [s for s in columns[column - 1] if s in sources]
                spread = _END_HEIGHT / (len(sources) + 1)
            ends = [
                (source, y + (i - (len(sources) - 1) / 2) * spread)
                for i, source in enumerate(sources)
            ]
        for source, end_y in ends:
            start_x, start_y = points[column - 1, source]
            width = _END_WIDTH if column == 1 else _COMBINATION_WIDTH
            yield source, (start_x + width, start_y), (x, end_y)


# Drawing -----------------------------------------------------------------------------------------


def draw_cells(cell_name: str, output: str):
    """Writes the picture of a network's two cells; the file's ending is its format."""
    graphs = {
        "Normal cell": CellGraph(model_specs.get_normal_cell(cell_name), stride=1),
        "Reduction cell": CellGraph(model_specs.get_reduction_cell(cell_name), stride=2),
    }
    arranged = {title: arrange(graph) for title, graph in graphs.items()}
    heights = {
        title: max(column_height(graphs[title], i, states) for i, states in enumerate(columns))
        for title, columns in arranged.items()
    }
    page_height = sum(heights.values()) + 2 * _TITLE_HEIGHT + _LEGEND_HEIGHT + _MARGIN
    figure = Figure(figsize=(_PAGE_WIDTH / 100, page_height / 100), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes([0, 0, 1, 1])
    axes.set(xlim=(0, _PAGE_WIDTH), ylim=(page_height, 0))
    axes.axis("off")
    top = 0
    for title, columns in arranged.items():
        write(axes, _MARGIN, top + _TITLE_HEIGHT / 2, title, size=15, weight="bold", align="left")
        top += _TITLE_HEIGHT
        draw_cell(axes, graphs[title], columns, top + heights[title] / 2)
        top += heights[title]
    draw_legend(axes, top + _LEGEND_HEIGHT / 2 + _MARGIN)
    figure.savefig(output, dpi=200)
    return figure


def draw_cell(axes, graph: CellGraph, columns: Columns, middle: float):
    for state, (x0, y0), (x1, y1) in segments(graph, columns):
        y0, y1, bend = y0 + middle, y1 + middle, (x1 - x0) / 2
        path = Path(
            [(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        draw_line(axes, path, state)
    for (column, state), (x, y) in place(graph, columns).items():
        if graph.column[state] != column:
            lane = Path([(x, y + middle), (x + _COMBINATION_WIDTH, y + middle)])
            draw_line(axes, lane, state)
        elif state in _ENDS:
            draw_end(axes, state, x, y + middle)
        else:
            draw_combination(axes, graph, state, x, y + middle)


def draw_end(axes, state: int, x: float, y: float):
    """An input with its number, or the output."""
    if state == _OUTPUT:
        draw_box(axes, x, y, _ENDS[state], "white", _END_WIDTH, _END_HEIGHT)
        return
    width = _END_WIDTH - _SUM_RADIUS
    draw_box(axes, x, y, _ENDS[state], "white", width, _END_HEIGHT, width - _SUM_RADIUS)
    draw_number(axes, x + width, y, state)


def draw_combination(axes, graph: CellGraph, state: int, x: float, y: float):
    """Two operations and the sum of their results, with the number of the state."""
    sum_x = x + _COMBINATION_WIDTH - _SUM_RADIUS
    branches = zip((-1, 1), graph.operations(state), graph.labels(state))
    for side, operation, label in branches:
        box_y = y + side * (_BOX_HEIGHT + _BOX_GAP) / 2
        draw_line(axes, Path([(x + _BOX_WIDTH, box_y), (sum_x, y)]), state)
        draw_box(axes, x, box_y, label, _KIND_COLOURS[operation_kind(operation)])
    draw_number(axes, sum_x, y, state)


def draw_number(axes, x: float, y: float, state: int):
    colour = _STATE_COLOURS[state]
    axes.add_patch(Circle((x, y), _SUM_RADIUS, facecolor=colour, edgecolor=colour, zorder=3))
    write(axes, x, y, str(state), colour="white", weight="bold")


def draw_line(axes, path: Path, state: int):
    axes.add_patch(PathPatch(path, fill=False, edgecolor=_STATE_COLOURS[state], linewidth=1.3))


def draw_box(axes, x, y, text, colour, width=_BOX_WIDTH, height=_BOX_HEIGHT, text_width=None):
    """A box from its left edge and its middle; the text may be centred on its left part."""
    style = "round,pad=0,rounding_size=4"
    corner = (x, y - height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner, width, height, style, facecolor=colour, edgecolor="#8a8a8a", linewidth=0.8,
            zorder=2,
        )
    )  # fmt: skip
    write(axes, x + (text_width or width) / 2, y, text)


def draw_legend(axes, y: float):
    x = _MARGIN
    for kind, colour in _KIND_COLOURS.items():
        draw_box(axes, x, y, "", colour, width=18, height=14)
        write(axes, x + 24, y, kind, align="left")
        x += 110
    notes = "/2: stride 2      numbers: hidden states, from 2 on sums of two operations"
    write(axes, x, y, notes, align="left")


def write(axes, x, y, text, size=11.5, colour="#1a1a1a", weight="normal", align="center"):
    """Text of a size in pixels."""
    axes.text(
        x, y, text, fontsize=size * 0.72, color=colour, weight=weight, ha=align,
        va="center_baseline", linespacing=1.15, zorder=4,
    )  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell_name", default="amoeba_net_d", choices=model_specs.CELL_NAMES)
    parser.add_argument("--output", required=True, help="File to write: .png, .svg or .pdf.")
    arguments = parser.parse_args(argv)
    draw_cells(arguments.cell_name, arguments.output)


if __name__ == "__main__":
    main()
