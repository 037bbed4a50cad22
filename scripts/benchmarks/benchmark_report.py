#!/usr/bin/env python
"""Makes a report of made-up answers, and measures its memory, its time and its size.

python scripts/benchmarks/benchmark_report.py [--classes=1001] [--images=50000] --output_dir=OUT
"""

import argparse
import os
import sys
import time

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

import amoeba_net_model
import evaluation_report
from common import results
from common.arguments import integer
from common.data.class_names import class_names
from common.report.accumulate import Accumulator, Batch, Source
from scripts.benchmarks import turns

_BATCH = 64
_SIZE = 224
_RECORDS_PER_FILE = 391
_TOP = 5


def answer(random, labels, num_classes: int, first: int, variety: int = 3) -> Batch:
    """Answers of which three quarters are right; wrong ones are mostly a neighbouring class."""
    count = len(labels)
    near = np.clip(labels + random.randint(-variety, variety + 1, count), 1, num_classes - 1)
    anywhere = random.randint(1, num_classes, count)
    wrong = np.where(random.uniform(size=count) < 0.7, near, anywhere)
    given = np.where(random.uniform(size=count) < 0.75, labels, wrong)
    right = given == labels
    top = min(_TOP, num_classes)
    confidences = random.beta(np.where(right, 4, 2), 2)
    rest = (1 - confidences)[:, np.newaxis] * 0.5 ** np.arange(1, top + 1)
    classes = (given[:, np.newaxis] + np.arange(top)) % num_classes
    images = random.uniform(-1, 1, (2, _SIZE, _SIZE, 3)).astype(np.float32)
    maps = random.normal(size=(2, 2, 7, 7)).astype(np.float32)
    return Batch(
        labels,
        given,
        right | (random.uniform(size=count) < 0.6),
        confidences,
        np.where(right, confidences, (1 - confidences) * random.uniform(size=count)),
        classes,
        np.concatenate([confidences[:, np.newaxis], rest[:, :-1]], axis=1),
        [_source(number) for number in range(first, first + count)],
        lambda i: evaluation_report.pictures(images[i % 2], maps[i % 2], not right[i]),
    )


def _source(number: int) -> Source:
    file, record = divmod(number, _RECORDS_PER_FILE)
    name = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
    return Source(f"validation/validation-{file:05d}-of-00128", record, name)


def fill(found: Accumulator, num_images: int):
    """Adds made-up answers to what a report gathers."""
    random = np.random.RandomState(0)
    labels = 1 + np.arange(num_images) % (found.num_classes - 1)
    for first in range(0, num_images, _BATCH):
        batch = labels[first : first + _BATCH]
        found.add(answer(random, batch, found.num_classes, first))


def write(output_dir: str, num_classes: int, num_images: int) -> evaluation_report.EvaluationReport:
    """Writes the report; returns it."""
    hparams = amoeba_net_model.default_hparams()
    hparams.num_label_classes = num_classes
    names = class_names(None, num_classes)
    report = evaluation_report.EvaluationReport(output_dir, None, hparams, names)
    report.found = Accumulator(num_classes)
    fill(report.found, num_images)
    found = report.found
    metrics = {
        "top_1_accuracy": found.num_right / num_images,
        "top_5_accuracy": int(found.in_top_5.sum()) / num_images,
        "loss": 1.0,
        "images": num_images,
    }
    record = {"checkpoint": "made_up", "global_step": 0, "metrics": metrics, "time": "-"}
    record.update(images_per_second=None, accelerator="cpu", num_devices=1)
    record.update(versions=results.versions(), hparams=hparams.values())
    report.write(record, output_dir)
    return report


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=integer(2), default=1001)
    parser.add_argument("--images", type=integer(1), default=50_000)
    parser.add_argument("--output_dir", required=True)
    options = parser.parse_args(argv)
    os.makedirs(options.output_dir, exist_ok=True)
    write(options.output_dir, 10, 100)  # What is loaded once does not count.
    before, start = turns.peak_memory(), time.perf_counter()
    write(options.output_dir, options.classes, options.images)
    seconds = time.perf_counter() - start
    print(f"{options.images} answers of {options.classes} classes: {seconds:.1f} s,")
    print(f"at most {turns.peak_memory() - before:.0f} MiB more memory,")
    for name in (evaluation_report.PAGE, evaluation_report.FIGURES):
        size = os.path.getsize(os.path.join(options.output_dir, name))
        print(f"{name} of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
