#!/usr/bin/env python
"""Measures transfer learning: digits 0-4 first, then 5-9, against 5-9 from scratch.

    python scripts/benchmarks/benchmark_transfer.py [--output_dir=DIR] [--seeds=1,2,3]

Of 5-9 there are 20 images each to train on. For each seed: a training on all images of 0-4; a
training on 5-9 from scratch, with the quick start's recipe; a fine-tuning of the first on 5-9 in a
fifth of these steps; and the same from scratch. Each learning rate falls over the training's own
steps. Prints a table of top-1 accuracies over the 180 held-out images.
Trainings that are there already are only evaluated once more.
"""

import argparse
import os
import subprocess
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

from common import results
from common.arguments import integers
from scripts import fine_tune, make_digits

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Network and training; flags after it overrule it.
_QUICK_START = os.path.join(_ROOT, "scripts", "quickstart.flags")
_WHOLE_BATCHES = {"train_batch_size": 50}  # Of 100 images: the schedule counts no others.
# Its rate falls as often over these 240 steps as over the quick start's.
_SCRATCH = {
    **_WHOLE_BATCHES,
    "num_epochs": 120,
    "lr_num_epochs_per_decay": 10,
    "lr_warmup_epochs": 10,
}
_FINE_TUNING = {**fine_tune.RECIPE, **_WHOLE_BATCHES, "num_epochs": 24, "lr": 0.3}


def train(data_dir: str, model_dir: str, seed: int, flags: dict):
    """(steps, top-1 accuracy) of a training in a process of its own."""
    flags = {**flags, "num_epochs_per_eval": 1000}
    command = [sys.executable, os.path.join(_ROOT, "amoeba_net.py"), f"--flagfile={_QUICK_START}"]
    command += [f"--data_dir={data_dir}", f"--model_dir={model_dir}", f"--random_seed={seed}"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    os.makedirs(model_dir, exist_ok=True)
    with open(os.path.join(model_dir, "log.txt"), "a") as log:
        if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
            sys.exit(f"benchmark_transfer.py: a training failed; see {log.name}")
    last = results.evaluations(model_dir)[-1]
    return last["global_step"], last["metrics"]["top_1_accuracy"]


def measure(directory: str, seed: int) -> dict:
    """{training: (steps, accuracy)} of one seed."""
    first, second = os.path.join(directory, "digits_0-4"), os.path.join(directory, "digits_5-9")
    run = os.path.join(directory, f"seed_{seed}")
    source = os.path.join(run, "digits_0-4")
    short = {name: value for name, value in _FINE_TUNING.items() if name != "init_exclude"}
    trainings = [
        ("digits 0-4", first, source, {}),
        ("from scratch", second, os.path.join(run, "scratch"), _SCRATCH),
        ("from scratch, a fifth", second, os.path.join(run, "scratch_a_fifth"), short),
        (
            "fine-tuned, a fifth",
            second,
            os.path.join(run, "fine_tuned"),
            {**_FINE_TUNING, "init_checkpoint": source},
        ),
    ]
    measured = {}
    for name, data_dir, model_dir, flags in trainings:
        measured[name] = train(data_dir, model_dir, seed, flags)
        print(
            f"seed {seed}, {name}: {measured[name][0]} steps, {measured[name][1]:.4f}", flush=True
        )
    return measured


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", default=os.path.join(_ROOT, "quickstart_run", "transfer"))
    parser.add_argument("--seeds", type=integers(0), default=[1, 2, 3])
    options = parser.parse_args()
    for name, *values in (("digits_0-4", "01234"), ("digits_5-9", "56789", 20)):
        make_digits.make_digits(os.path.join(options.output_dir, name), *values)
    measured = [measure(options.output_dir, seed) for seed in options.seeds]
    seeds = ", ".join(map(str, options.seeds))
    print(f"\n| training | steps | top-1, seeds {seeds} | mean |\n|---|---|---|---|")
    for name in measured[0]:
        accuracies = [100 * m[name][1] for m in measured]
        each = ", ".join(f"{a:.1f}" for a in accuracies)
        print(f"| {name} | {measured[0][name][0]} | {each} | {np.mean(accuracies):.1f} |")


if __name__ == "__main__":
    main()
