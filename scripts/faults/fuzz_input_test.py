"""10,000 damaged and hostile inputs, in a process of their own: a crash is a failure."""

import ast
import os
import subprocess
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_bad_inputs_are_errors_and_neither_crash_nor_hang():
    process = subprocess.run(
        [
            sys.executable,
            os.path.join(_ROOT, "scripts", "faults", "fuzz_input.py"),
            "--inputs=10000",
        ],
        capture_output=True,
        timeout=1200,  # A hang; it takes half a minute.
        check=False,
    )
    output = process.stdout.decode()
    assert process.returncode == 0, output + process.stderr.decode(errors="replace")[-3000:]
    *_, last, end = output.splitlines()
    assert end == "No crash, no hang."
    counts = ast.literal_eval(last[last.index("{") : last.index("}") + 1])
    assert counts["inputs"] == 10000
    # Twice each, for training and evaluation; some of the damage is where it does not matter.
    assert 1000 < counts["became images"] < 10000
    assert counts["refused alone"] > 500 and counts["explained as bad"] > 10
    assert counts["shards found damaged"] >= 18
