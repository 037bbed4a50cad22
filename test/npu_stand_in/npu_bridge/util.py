"""How many ranks there are, as the adapter's Python has it (estimator/npu/util.py)."""

import os

from . import RELEASE

if RELEASE >= (1, 11):
    # r1.11.0 has it misspelt.
    _WORKERS = "CM_WORKER_SIZE" if RELEASE >= (1, 12) else "CM_WORK_SIZE"

    def get_ranksize() -> str:
        size, workers = os.environ.get("RANK_SIZE"), os.environ.get(_WORKERS)
        if size is not None and workers is not None:
            raise ValueError("RANK_SIZE and CM_WORKER_SIZE are both set.")
        return size if size is not None else workers or "1"


def num_ranks() -> int:
    """The number by which gradients are averaged; the older releases know RANK_SIZE alone."""
    if RELEASE >= (1, 12):
        return int(get_ranksize())
    return int(os.environ.get("RANK_SIZE") or 1)
