"""3,000 damaged and hostile inputs, in a process of their own: a crash is a failure."""

import ast

import pytest
from helpers import run


@pytest.mark.slow
def test_bad_inputs_are_errors_and_neither_crash_nor_hang():
    # A hang ends after twenty minutes; it takes 20 seconds.
    ended = run("scripts/faults/fuzz_input.py", "--inputs=3000", errors="replace")
    *_, last, end = ended.out.splitlines()
    assert end == "No crash, no hang."
    counts = ast.literal_eval(last[last.index("{") : last.index("}") + 1])
    assert counts["inputs"] == 3000
    # Twice each, for training and evaluation; some of the damage is where it does not matter.
    assert 300 < counts["became images"] < 3000
    assert counts["refused alone"] > 150 and counts["explained as bad"] > 3
    assert counts["shards found damaged"] >= 5
