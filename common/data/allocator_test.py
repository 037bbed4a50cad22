"""What the allocator keeps, and what it gives back."""

import subprocess
import sys

from helpers import ROOT

_PROGRAM = """
import re
import numpy as np
from common.data import allocator

def memory():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmRSS:\\s+(\\d+) kB", file.read()).group(1)) // 1024

assert allocator.keep_large_buffers()
buffers = [np.ones(2**20, np.uint8) for _ in range(200)]
full = memory()
del buffers
kept = memory()
allocator.return_free_memory()
print(full, kept, memory())
"""


def test_free_buffers_are_kept_until_they_are_returned():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    full, kept, returned = map(int, done.stdout.split())
    assert kept > full - 50
    assert returned < full - 150
