"""The published AmoebaNet cells, as data.

Real et al., "Regularized Evolution for Image Classifier Architecture Search" (AAAI 2019,
arXiv 1802.01548), figure 5 and appendix: AmoebaNet-A to D. Each has a second name, that of the
evolution run it came from.

A cell combines hidden states in pairs. State 0 is the cell's input, state 1 the output of the cell
before it, and combination i adds state 2 + i. The cell's output is a concatenation of some of the
states.
"""

from typing import Dict, List, NamedTuple, Tuple

CellSpec = Tuple[List[str], List[int], List[int]]
_COMBINATIONS = 5


class _Cell(NamedTuple):
    operations: str
    """Operation 2i is applied to the left, 2i + 1 to the right state of combination i."""

    hiddenstate_indices: str
    """The state each operation reads."""

    used_hiddenstates: str
    """For each state 0 if it is concatenated into the output, 1 if it is not.

    The name is the original's and says less: a state with 0 may be read by combinations as well.
    """

    def parse(self) -> CellSpec:
        """Returns the three as lists; raises ValueError if they do not make a cell."""
        operations = self.operations.split()
        indices = [int(i) for i in self.hiddenstate_indices.split()]
        used = [int(i) for i in self.used_hiddenstates.split()]
        if len(operations) != 2 * _COMBINATIONS or len(indices) != 2 * _COMBINATIONS:
            raise ValueError(
                f"{len(operations)} operations read {len(indices)} states: expected "
                f"{2 * _COMBINATIONS} of both, two for each combination."
            )
        if len(used) != 2 + _COMBINATIONS or not set(used) <= {0, 1}:
            raise ValueError(
                f"used_hiddenstates is {used}: expected {2 + _COMBINATIONS} of 0 or 1."
            )
        for position, state in enumerate(indices):
            last = 1 + position // 2
            if not 0 <= state <= last:
                raise ValueError(
                    f"operation {position}, {operations[position]}, reads state {state}: expected "
                    f"0 to {last}, the states before its combination."
                )
        lost = [state for state in range(len(used)) if used[state] and state not in indices]
        if lost:
            raise ValueError(
                f"state {lost[0]} is read by no combination, and its 1 in used_hiddenstates leaves "
                "it out of the output: expected a 0."
            )
        return operations, indices, used


_NORMAL_CELLS = {
    "amoeba_net_a": _Cell(
        "avg_pool_3x3 max_pool_3x3  separable_3x3_2 none  none avg_pool_3x3 "
        "separable_3x3_2 separable_5x5_2  avg_pool_3x3 separable_3x3_2",
        "0 0  1 1  0 1  0 2  5 0",
        "1 0 1 0 0 1 0",
    ),
    "amoeba_net_b": _Cell(
        "1x1 max_pool_3x3  none separable_3x3_2  1x1 separable_3x3_2  1x1 none  avg_pool_3x3 1x1",
        "1 1  1 0  1 0  2 2  1 5",
        "0 1 1 0 0 1 0",
    ),
    "amoeba_net_c": _Cell(
        "avg_pool_3x3 separable_3x3_2  none separable_3x3_2  avg_pool_3x3 separable_3x3_2 "
        "none separable_3x3_2  avg_pool_3x3 separable_3x3_2",
        "0 0  0 0  2 1  0 1  3 0",
        "1 0 0 1 0 0 0",
    ),
    "amoeba_net_d": _Cell(
        "1x1 max_pool_3x3  none 1x7_7x1  1x1 1x7_7x1  max_pool_3x3 none  avg_pool_3x3 1x1",
        "1 1  1 0  0 0  2 2  1 5",
        "0 1 1 0 0 1 0",
    ),
}

_REDUCTION_CELLS = {
    "amoeba_net_a": _Cell(
        "separable_3x3_2 avg_pool_3x3  max_pool_3x3 separable_7x7_2  max_pool_3x3 max_pool_3x3 "
        "separable_3x3_2 1x7_7x1  avg_pool_3x3 separable_7x7_2",
        "1 0  0 2  1 0  4 0  1 0",
        "1 1 0 0 0 0 0",
    ),
    "amoeba_net_b": _Cell(
        "max_pool_2x2 max_pool_3x3  none 3x3  dil_2_separable_5x5_2 max_pool_3x3 "
        "none separable_3x3_2  avg_pool_3x3 1x1",
        "0 0  2 1  2 2  3 1  4 3",
        "1 1 1 1 1 0 0",
    ),
    "amoeba_net_c": _Cell(
        "max_pool_3x3 max_pool_3x3  separable_7x7_2 separable_3x3_2  separable_7x7_2 max_pool_3x3 "
        "separable_5x5_2 separable_5x5_2  max_pool_3x3 separable_3x3_2",
        "0 0  2 0  0 1  4 4  1 1",
        "0 1 0 0 0 0 0",
    ),
    "amoeba_net_d": _Cell(
        "max_pool_2x2 max_pool_3x3  none 3x3  1x7_7x1 max_pool_3x3 "
        "none max_pool_2x2  avg_pool_3x3 1x1",
        "0 0  2 1  2 2  3 1  2 3",
        "1 1 1 1 0 0 0",
    ),
}

_ALIASES = {
    "evol_net_g": "amoeba_net_a",
    "evol_net_h": "amoeba_net_b",
    "evol_net_a": "amoeba_net_c",
    "evol_net_x": "amoeba_net_d",
}

CELL_NAMES = tuple(_NORMAL_CELLS) + tuple(_ALIASES)


def get_normal_cell(cell_name: str) -> CellSpec:
    """Returns (operations, hiddenstate_indices, used_hiddenstates): 10 names, 10 and 7 integers.

    Raises:
        ValueError: `cell_name` is none of `CELL_NAMES`, or its entry makes no cell.
    """
    return _read(_NORMAL_CELLS, cell_name)


def get_reduction_cell(cell_name: str) -> CellSpec:
    """The same for the cell that halves width and height."""
    return _read(_REDUCTION_CELLS, cell_name)


def _read(cells: Dict[str, _Cell], cell_name: str) -> CellSpec:
    if cell_name not in CELL_NAMES:
        raise ValueError(f"Unknown cell {cell_name!r}: expected one of {', '.join(CELL_NAMES)}.")
    try:
        return cells[_ALIASES.get(cell_name, cell_name)].parse()
    except ValueError as error:
        kind = "reduction" if cells is _REDUCTION_CELLS else "normal"
        raise ValueError(f"The {kind} cell of {cell_name}: {error}") from error
