"""Evaluation by several ranks: each evaluates a share of the images, and rank 0 adds them up.

The ranks of an NPU training open their sessions together, and the collectives' links are built anew
for each of them: if rank 0 evaluated alone, the others would wait for it at the next training's
start, until their time-out. Sums are exchanged through files in the model directory, which the
ranks share, since a rank that has delivered its share need not wait for anybody.
"""

import json
import os
import time
from typing import Any, Callable, Dict, Optional

from common import files
from common.errors import UserError
from common.runtime import tf

_POLL_SECONDS = 0.2
_LOG_EVERY_SECONDS = 30


class Shares:
    """The shares of one training's evaluations.

    Args:
        model_dir: rank 0's model directory, which all ranks see.
        size: number of ranks.
        rank: this process's.
        timeout: seconds to wait for another rank.
        check: is called while this process waits; ends that by an exception.
    """

    def __init__(
        self,
        model_dir: str,
        size: int,
        rank: int,
        timeout: float,
        check: Callable[[], None] = lambda: None,
    ):
        self._directory = os.path.join(model_dir, "evaluation_shares")
        self._size, self._rank = size, rank
        self._timeout = timeout
        self._check = check

    def checkpoint(self, path: str) -> str:
        """Waits until rank 0 has saved a checkpoint; returns its path.

        Args:
            path: the prefix of the checkpoint that is to be evaluated.
        """
        self._wait_for(f"{path}.index", "rank 0 to save")
        return path

    def deliver(self, checkpoint: str, images: int, metrics: Dict[str, float], details=None):
        """Leaves what this rank found for rank 0: means over `images` images, and any JSON."""
        files.make_directory(self._directory)
        share = {"images": images, "metrics": metrics, "details": details}
        files.write_text(self._path(checkpoint, self._rank), json.dumps(share))

    def collect(
        self,
        checkpoint: str,
        images: int,
        metrics: Dict[str, float],
        take_details: Optional[Callable[[Any], None]] = None,
    ):
        """(number of images, means over them) of all ranks together; rank 0 has those given.

        `take_details` is called with the `details` of each other rank.
        """
        shares = [{"images": images, "metrics": metrics}]
        for rank in range(self._size):
            if rank != self._rank:
                shares.append(self._take(checkpoint, rank))
                if take_details:
                    take_details(shares[-1]["details"])
        total = sum(share["images"] for share in shares)
        means = {
            name: sum(share["images"] * share["metrics"][name] for share in shares) / total
            for name in metrics
        }
        return total, means

    def _take(self, checkpoint: str, rank: int) -> dict:
        """Another rank's share, once it is there."""
        path = self._path(checkpoint, rank)
        self._wait_for(path, f"rank {rank} to evaluate its share in")
        with tf.io.gfile.GFile(path) as f:
            share = json.load(f)
        tf.io.gfile.remove(path)
        return share

    def _path(self, checkpoint: str, rank: int) -> str:
        """Where a rank's share is; that of an earlier checkpoint of the same name is elsewhere."""
        stat = tf.io.gfile.stat(f"{checkpoint}.index")
        name = f"{os.path.basename(checkpoint)}-{stat.length}-{stat.mtime_nsec}.rank_{rank}.json"
        return os.path.join(self._directory, name)

    def _wait_for(self, path: str, whom: str):
        logged = time.monotonic()
        deadline = logged + self._timeout
        while not tf.io.gfile.exists(path):
            self._check()
            now = time.monotonic()
            if now > deadline:
                raise UserError(
                    f"Rank {self._rank} waited {self._timeout:.0f} s for {whom} {path}: see that "
                    "rank's log. All ranks must share rank 0's model directory; "
                    "--cluster_timeout sets how long they wait."
                )
            if now - logged > _LOG_EVERY_SECONDS:
                tf.logging.info("Waiting for %s %s.", whom, path)
                logged = now
            time.sleep(_POLL_SECONDS)
