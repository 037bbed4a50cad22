#!/usr/bin/env python
"""Measures which share of the time of evaluation and of predictions the network takes.

    python scripts/benchmarks/benchmark_evaluation.py
    python scripts/benchmarks/benchmark_evaluation.py --batch_size=40 --turns=7

The network is the program's default one, but for what is given here, with random weights; the
images are photographs of ImageNet's size, cut from scikit-learn's. Each part is a process of its
own, and the processes take turns, so that whatever else the machine does slows all of them; shares
are medians of the turns' own shares.

- network: the graph of `--mode=eval` on a batch that is in memory.
- evaluation: the same graph, which reads TFRecords as `--mode=eval` does.
- prediction: what `--mode=predict --image_paths=FOLDER` does with a folder of JPEG files.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np

import amoeba_net_model
import imagenet_input
import prediction
from common import files
from common.arguments import integer
from common.data import allocator, tfrecords
from common.devices.cpu import Cpu
from common.runtime import tf
from scripts.benchmarks import benchmark_train, photos, turns

_FOLDER = "folder"


def main(argv=None):
    arguments = parse_arguments(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    if arguments.worker:
        work(arguments.worker, arguments.configuration)
        return
    with tempfile.TemporaryDirectory() as directory:
        make_data(directory, arguments.photos)
        rows = compare(arguments, directory)
    print_table(rows, arguments)
    if arguments.result:
        files.write_text(arguments.result, json.dumps(rows, indent=2))


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", default=8, type=integer(1), help="images a step")
    benchmark_train.add_network(parser)
    parser.add_argument("--photos", default=256, type=integer(1), help="number of photographs")
    parser.add_argument("--turns", default=5, type=integer(1), help="turns each process takes")
    parser.add_argument("--steps", default=15, type=integer(1), help="steps of a turn")
    parser.add_argument("--result", help="JSON file for the figures")
    parser.add_argument("--worker", choices=_STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--configuration", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def make_data(directory: str, count: int):
    """Writes photographs twice: as TFRecords, and as JPEG files in a folder."""
    photos.make_photos(directory, count)
    os.mkdir(os.path.join(directory, _FOLDER))
    shards = tfrecords.find_shards(directory, "validation")
    records = itertools.chain.from_iterable(map(tf.io.tf_record_iterator, shards))
    for i, record in enumerate(records):
        features = tf.train.Example.FromString(record).features.feature
        (encoded,) = features["image/encoded"].bytes_list.value
        files.write_bytes(os.path.join(directory, _FOLDER, f"{i:05}.jpg"), encoded)


# Measuring ---------------------------------------------------------------------------------------


def work(part, configuration):
    """A worker, see `turns.serve`; the configuration has its directory."""
    directory = configuration.pop("directory")
    hparams = benchmark_train.hparams_of(configuration)
    turns.serve(_STEPS[part](hparams, directory))


def _network(hparams, directory):
    step, _ = benchmark_train.step_of_mode(hparams, directory, "eval")
    return step


def _evaluation(hparams, directory):
    allocator.keep_large_buffers()
    shards = tfrecords.find_shards(directory, "validation")
    hparams.num_eval_images = tfrecords.count_records(shards)
    hparams.eval_drop_remainder = True
    pipeline = imagenet_input.InputPipeline(False, directory, hparams)
    iterator = tf.data.make_initializable_iterator(pipeline.input_fn().repeat())
    device = Cpu()
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None, device)
    tf.train.get_or_create_global_step()
    spec = model.model_fn(*iterator.get_next(), tf.estimator.ModeKeys.EVAL)
    updates = [update for _, update in spec.eval_metric_ops.values()]
    session = tf.Session(config=device.session_config())
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    session.run(iterator.initializer)
    operation = tf.group(spec.loss, *updates)
    return lambda: session.run(operation)


def _prediction(hparams, directory):
    allocator.keep_large_buffers()
    device = Cpu()
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None, device)
    estimator = device.estimator(model.model_fn, directory, save_checkpoints_steps=1)
    checkpoint = benchmark_train.random_checkpoint(hparams, directory)
    paths = 100_000 * prediction.find_images([os.path.join(directory, _FOLDER)])
    answers = prediction.classify(estimator, checkpoint, hparams, paths)

    def step():
        for _ in range(hparams.eval_batch_size):
            assert not next(answers).error

    return step


_STEPS = {"network": _network, "evaluation": _evaluation, "prediction": _prediction}


def compare(arguments, directory):
    """Lets all parts take turns: a list of rows of figures."""
    configuration = {
        "num_cells": arguments.num_cells,
        "reduction_size": arguments.filters,
        "image_size": arguments.image_size,
        "batch_size": arguments.batch_size,
        "directory": directory,
    }
    command = [sys.executable, os.path.abspath(__file__)]
    command.append(f"--configuration={json.dumps(configuration)}")
    seconds = {part: [] for part in _STEPS}
    with turns.workers() as workers:
        for part in _STEPS:
            workers[part] = turns.Worker(part, [*command, f"--worker={part}"])
            workers[part].answer()
        for _ in range(arguments.turns):
            for part, worker in workers.items():
                worker.take_turn(_BUFFERED)  # What was made in other parts' time does not count.
                seconds[part].append(worker.take_turn(arguments.steps)["seconds"])
    return _rows(seconds, arguments.batch_size)


_BUFFERED = 4  # Batches that a part may have ready, or nearly.


def _rows(seconds, batch_size):
    rows = []
    for part, turns_of_part in seconds.items():
        shares = np.divide(seconds["network"], turns_of_part)
        row = {
            "part": part,
            "seconds_of_turns": turns_of_part,
            "images_per_second": batch_size / float(np.median(turns_of_part)),
            "network_share": float(np.median(shares)),
            "lowest_share": float(np.min(shares)),
            "highest_share": float(np.max(shares)),
        }
        rows.append(row)
    return rows


def print_table(rows, arguments):
    """Prints a table of all that was measured."""
    cores = len(os.sched_getaffinity(0))
    print(
        f"\nTensorFlow {tf.__version__}, {arguments.num_cells} cells, {arguments.filters} filters, "
        f"{arguments.image_size} pixels, batches of {arguments.batch_size}, {cores} cores, "
        f"{arguments.turns} turns of {arguments.steps} steps\n\n"
        "| part | ms/step (lowest to highest) | images/s | network's share (lowest to highest) |"
        "\n|---|---|---|---|"
    )
    for row in rows:
        lowest, median, highest = np.percentile(row["seconds_of_turns"], [0, 50, 100]) * 1000
        print(
            f"| {row['part']} | {median:.1f} ({lowest:.1f} to {highest:.1f}) | "
            f"{row['images_per_second']:.1f} | {row['network_share']:.2f} "
            f"({row['lowest_share']:.2f} to {row['highest_share']:.2f}) |"
        )


if __name__ == "__main__":
    main()
