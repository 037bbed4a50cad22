#!/usr/bin/env python
"""Trains for thousands of steps with checkpoints, evaluations, signals and a damaged record.

    python scripts/faults/soak.py --steps=20000

Watches the process: resident memory, open files, threads, and what the model directory takes. A
SIGTERM ends it every --signal_steps steps; it is started again, and goes on. In the end, the
figures around a tenth of the steps are compared with those of the last tenth; the time of a step
is from results.json. Ends with status 1 if one of them is larger at the end by more than
--tolerance. Nothing else should compute meanwhile. Flags after `--` go to amoeba_net.py.
"""

import argparse
import collections
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import tqdm

from common import results
from common.arguments import integer
from common.data import tfrecords
from common.runtime import tf
from scripts import make_digits

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# A small network, since steps are what counts here.
_NETWORK = [
    *["--num_cells=2", "--reduction_size=4", "--stem_reduction_size=4", "--image_size=19"],
    *["--use_aux_head=False", "--augment=False", "--train_batch_size=16", "--eval_batch_size=60"],
    *["--optimizer=momentum", "--lr=0.1", "--lr_decay_method=cosine"],
]
_EXIT_STATUS = 75  # Of a training that a signal ended.
_STEP = re.compile(r"INFO:tensorflow:loss = \S+, step = (\d+)")
_LOG_STEPS = 10


class Usage(NamedTuple):
    """What a training takes at a step: MB, numbers, and MB in its model directory."""

    step: int
    memory: float
    files: int
    threads: int
    checkpoints: float
    other_files: float


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # There is a result each 450 steps, and the trend needs one around the first tenth.
    parser.add_argument("--steps", type=integer(3000), default=20000)
    parser.add_argument(
        "--signal_steps", type=integer(1), default=1000, help="steps between signals"
    )
    parser.add_argument("--interval", type=integer(1), default=50, help="steps between two looks")
    parser.add_argument("--tolerance", type=float, default=0.02, help="largest growth (0.02)")
    parser.add_argument(
        "--output",
        default=os.path.join(ROOT, "quickstart_run", "soak"),
        help="directory, in which digits/ and model/ are made anew",
    )
    parser.add_argument("flags", nargs="*", help="of amoeba_net.py, after --")
    arguments = parser.parse_args(argv)
    data = os.path.join(arguments.output, "digits")
    for name in ("digits", "model"):
        shutil.rmtree(os.path.join(arguments.output, name), ignore_errors=True)
    make_digits.make_digits(data)
    damage_one_record(data)
    training = Training(arguments, data)
    training.run()
    trend = training.trend()
    print_trend(training, trend, arguments.tolerance)
    sys.exit(1 if growing(trend, arguments.tolerance) else 0)


def damage_one_record(data_dir: str):
    """Makes the image of one of the 1,437 training records undecodable."""
    path = tfrecords.find_shards(data_dir, "train")[0]
    records = list(tf.io.tf_record_iterator(path))
    example = tf.train.Example.FromString(records[0])
    encoded = example.features.feature["image/encoded"].bytes_list.value
    encoded[0] = b"no image"
    with tf.io.TFRecordWriter(path) as writer:
        for record in [example.SerializeToString(), *records[1:]]:
            writer.write(record)


class Training:
    """One training, however many processes it takes."""

    def __init__(self, arguments, data: str):
        self.model_dir = os.path.join(arguments.output, "model")
        self.usages: List[Usage] = []
        self._arguments = arguments
        self._log = os.path.join(arguments.output, "soak.log")
        self._command = [
            *[sys.executable, os.path.join(ROOT, "amoeba_net.py"), "--mode=train_and_eval"],
            *[f"--data_dir={data}", f"--model_dir={self.model_dir}", *_NETWORK],
            *[f"--train_steps={arguments.steps}", "--num_epochs_per_eval=5"],
            *["--on_bad_record=skip", "--save_checkpoints_steps=100", f"--log_steps={_LOG_STEPS}"],
            *arguments.flags,
        ]

    def run(self):
        """Starts the training, and again after each signal, until it has ended by itself."""
        steps = self._arguments.signal_steps
        with tqdm.tqdm(total=self._arguments.steps, unit="step") as bar:
            for stop in range(steps, self._arguments.steps + steps, steps):
                status = self._run_until(stop, bar)
                if status != (_EXIT_STATUS if stop < self._arguments.steps else 0):
                    sys.exit(f"soak.py: the training ended with status {status}; see {self._log}")

    def _run_until(self, stop: int, bar: tqdm.tqdm) -> int:
        """The status of a process that is sent a signal at step `stop`, unless it ends before."""
        with open(self._log, "wb") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        start = step = self.usages[-1].step if self.usages else 0
        while process.poll() is None:
            logged = self._logged_step()
            if logged >= stop and stop < self._arguments.steps:
                process.send_signal(signal.SIGTERM)
                process.wait()
            elif logged >= step + self._arguments.interval and logged > start:
                step = logged
                with contextlib.suppress(OSError, ValueError):  # It has just ended.
                    self.usages.append(usage(step, process.pid, self.model_dir))
            bar.update(max(0, logged - bar.n))
            time.sleep(0.05)
        return process.returncode

    def _logged_step(self) -> int:
        with open(self._log, errors="replace") as log:
            steps = _STEP.findall(log.read())
        return int(steps[-1]) if steps else 0

    def trend(self) -> Dict[str, List[float]]:
        """{what: [around a tenth of the steps, in the last tenth]}, medians."""
        found = collections.defaultdict(list)
        records = [r for r in results.read_results(self.model_dir) if r["kind"] == "train"]
        for first, last in ((0.05, 0.15), (0.9, 1.0)):
            low, high = (round(part * self._arguments.steps) for part in (first, last))
            rows = [row for row in self.usages if low < row.step <= high]
            for name in ("memory", "files", "threads", "checkpoints"):
                found[name].append(statistics.median(getattr(row, name) for row in rows))
            times = [r["seconds_per_step"] for r in records if low < r["global_step"] <= high]
            found["ms a step"].append(1000 * statistics.median(filter(None, times)))
        return dict(found)


def usage(step: int, pid: int, model_dir: str) -> Usage:
    """What a process takes now. Raises OSError or ValueError if it has ended."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip().split(":", 1) for line in file)
    try:
        memory = int(status["VmRSS"].split()[0]) / 1024
    except KeyError:
        raise ValueError("The process has ended.") from None
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(step, memory, files, int(status["Threads"]), *disk(model_dir))


def disk(directory: str) -> Tuple[float, float]:
    """MB of checkpoints, MB of everything else."""
    sizes = {True: 0, False: 0}
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                size = os.path.getsize(os.path.join(place, name))
            except FileNotFoundError:
                continue
            sizes["model.ckpt" in name or "model.ckpt" in place] += size
    return sizes[True] / 2**20, sizes[False] / 2**20


def growing(trend: Dict[str, List[float]], tolerance: float) -> List[str]:
    """The figures that are larger at the end by more than this part of them."""
    return [what for what, (before, after) in trend.items() if after > before * (1 + tolerance)]


def print_trend(training: Training, trend: Dict[str, List[float]], tolerance: float):
    """Prints the figures, and what the other files take, which grow with the steps."""
    print(f"TensorFlow {tf.VERSION}, {len(training.usages)} looks")
    for what, (before, after) in trend.items():
        print(f"{what:>16}{before:>10.2f}{after:>10.2f}{after / before - 1:>+9.1%}")
    last = training.usages[-1]
    print(f"Other files take {last.other_files:.2f} MB at step {last.step}.")
    found = growing(trend, tolerance)
    print(
        f"NOT flat: {', '.join(found)}" if found else f"Nothing grew by more than {tolerance:.0%}."
    )


if __name__ == "__main__":
    main()
