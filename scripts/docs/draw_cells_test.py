"""The pictures of the cells: everything is there, nothing lies on anything else."""

import os

import pytest
from matplotlib.patches import FancyBboxPatch
from PIL import Image

import model_specs
from scripts.docs import draw_cells

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.mark.parametrize("cell_name", model_specs.CELL_NAMES[:4])
def test_every_operation_has_a_box_its_text_fits_in(cell_name, tmp_path):
    figure = draw_cells.draw_cells(cell_name, str(tmp_path / "cells.png"))
    (axes,) = figure.axes
    boxes = [p.get_window_extent() for p in axes.patches if isinstance(p, FancyBboxPatch)]
    labels = []
    for text in axes.texts:
        if not text.get_text() or text.get_text().isdigit():  # Legend; circle on a box's edge.
            continue
        extent = text.get_window_extent(figure.canvas.get_renderer())
        touched = [box for box in boxes if box.overlaps(extent)]
        if touched:
            labels.append(text.get_text().replace(" /2", ""))
            (box,) = touched
            assert box.x0 < extent.x0 and extent.x1 < box.x1, text.get_text()
            assert box.y0 < extent.y0 and extent.y1 < box.y1, text.get_text()
    specs = (model_specs.get_normal_cell(cell_name), model_specs.get_reduction_cell(cell_name))
    for operation in specs[0][0] + specs[1][0]:
        labels.remove(draw_cells.operation_label(operation))
    assert sorted(labels) == sorted(list(draw_cells._ENDS.values()) * 2)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    assert all(box.x0 >= 0 and box.x1 <= 830 for box in boxes)


def test_lines_are_the_specification(tmp_path):
    """Followed from box to box, the lines lead from each state to those that read it."""
    operations, indices, used = spec = model_specs.get_normal_cell("amoeba_net_d")
    graph = draw_cells.CellGraph(spec, stride=1)
    columns = draw_cells.arrange(graph)
    points = draw_cells.place(graph, columns)
    read = {state: [] for state in graph.column}
    for state, _, (x, y) in draw_cells.segments(graph, columns):
        (reader,) = [
            s for (column, s), point in points.items() if point[0] == x and abs(point[1] - y) < 20
        ]
        read[reader].append(state)
    for state in range(2, 7):
        assert [s for s in read[state] if s != state] == indices[2 * state - 4 : 2 * state - 2]
    assert sorted(read[draw_cells._OUTPUT]) == [s for s in range(7) if not used[s]]
    assert graph.operations(6) == operations[8:] == ["avg_pool_3x3", "1x1"]


def test_committed_picture_is_as_wide_as_it_would_be_drawn(tmp_path):
    path = str(tmp_path / "cells.png")
    draw_cells.main(["--cell_name=amoeba_net_d", f"--output={path}"])
    with Image.open(path) as drawn, Image.open(
        os.path.join(_ROOT, "docs", "amoeba_net_d.png")
    ) as committed:
        assert committed.size == drawn.size
        # Other versions of the fonts may move an edge, other cells change whole boxes.
        pixels = [list(i.convert("L").resize((166, 107)).getdata()) for i in (drawn, committed)]
    different = sum(abs(a - b) > 40 for a, b in zip(*pixels))
    assert different < 0.01 * len(pixels[0])


@pytest.mark.parametrize(
    "operation, label",
    [
        ("separable_7x7_2", "2 sep. 7x7"),
        ("dil_2_separable_5x5_2", "2 sep. 5x5"),
        ("max_pool_2x2", "max pool 2x2"),
        ("1x7_7x1", "1x7, 7x1"),
        ("none", "identity"),
    ],
)
def test_labels(operation, label):
    assert draw_cells.operation_label(operation) == label
