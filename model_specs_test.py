"""The cells: entries that make none are refused."""

import pytest

import model_specs

_OPERATIONS = "1x1 none  none 3x3  1x1 none  none none  none 1x1"
_INDICES = "0 1  1 0  0 2  3 3  1 2"
_USED = "0 1 1 1 0 0 0"


def _get(monkeypatch, cells, operations=_OPERATIONS, indices=_INDICES, used=_USED):
    """Reads a normal or reduction cell that somebody has added."""
    cell = model_specs._Cell(operations, indices, used)
    monkeypatch.setitem(getattr(model_specs, cells), "amoeba_net_e", cell)
    monkeypatch.setattr(model_specs, "CELL_NAMES", (*model_specs.CELL_NAMES, "amoeba_net_e"))
    get = {
        "_NORMAL_CELLS": model_specs.get_normal_cell,
        "_REDUCTION_CELLS": model_specs.get_reduction_cell,
    }
    return get[cells]("amoeba_net_e")


def test_state_that_is_concatenated_may_be_read_as_well(monkeypatch):
    operations, indices, used = _get(monkeypatch, "_NORMAL_CELLS")
    assert operations == _OPERATIONS.split()
    assert 0 in indices and used[0] == 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"operations": _OPERATIONS + " 1x1"}, "11 operations read 10 states: expected 10 of both"),
        ({"indices": "0 1  1 0"}, "10 operations read 4 states"),
        ({"indices": "0 1  1 0  0 2  3 3  1 6"}, r"operation 9, 1x1, reads state 6: .* 0 to 5"),
        ({"indices": "0 2  1 0  0 2  3 3  1 2"}, r"operation 1, none, reads state 2: .* 0 to 1"),
        ({"indices": "0 1  1 0  0 2  3 3  1 -1"}, "reads state -1"),
        ({"used": "0 1 1 1 0 0"}, r"is \[0, 1, 1, 1, 0, 0\]: expected 7 of 0 or 1"),
        ({"used": "0 1 1 1 0 0 2"}, "expected 7 of 0 or 1"),
        # As if 1 stood for the states that are concatenated.
        ({"used": "1 0 0 0 1 1 1"}, "state 4 is read by no combination, .* expected a 0"),
        ({"used": "1 1 1 1 1 1 1"}, "state 4 is read by no combination"),
    ],
)
@pytest.mark.parametrize("cells, kind", [("_NORMAL_CELLS", "normal"), ("_REDUCTION_CELLS", "red")])
def test_wrong_cell(monkeypatch, cells, kind, wrong, message):
    with pytest.raises(ValueError, match=rf"The {kind}\w* cell of amoeba_net_e: .*{message}"):
        _get(monkeypatch, cells, **wrong)


def test_unknown_cell():
    with pytest.raises(
        ValueError, match="Unknown cell 'amoeba_net_z': expected one of amoeba_net_a"
    ):
        model_specs.get_normal_cell("amoeba_net_z")
