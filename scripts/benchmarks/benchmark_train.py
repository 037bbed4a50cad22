#!/usr/bin/env python
"""Measures training, evaluation and frozen inference: speed, memory, time to the first step.

    python scripts/benchmarks/benchmark_train.py
    python scripts/benchmarks/benchmark_train.py --batch_sizes=1,8 --filters=64,256 --plot=speed.png
    python scripts/benchmarks/benchmark_train.py --runtime=a=A/bin/python --runtime=b=B/bin/python
    python scripts/benchmarks/benchmark_train.py --parts=train --devices=float32,mixed,mixed+xla

The network is the program's default one, but for what is given here. Images are synthetic: input
costs nothing here, see benchmark_input.py. Each part of each runtime is a process of its own, and
the processes of one configuration take turns, so that whatever else the machine does slows all of
them; ratios are medians of the turns' own ratios.

- train: the training step, gradients, averages and all.
- eval: the evaluation graph as `--mode=eval` runs it, with moving averages.
- frozen: the exported frozen graph, with batch normalisation folded into the convolutions.

A runtime is a Python that has the project's requirements, with some release and build of
TensorFlow; without --runtime there is the one this runs in. --devices compares the CPU and the
precisions of a GPU instead. --beside names another program whose training step takes turns with
these, like original_step.py. What is named first, programs before runtimes, is the baseline of the
others. The peak is what a large matrix product reaches on the same cores, with the best runtime.
"""

import argparse
import functools
import json
import os
import shlex
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
import tqdm

import amoeba_net_model
import model_builder
import serving
from common import files
from common.arguments import integer, integers, some_of
from common.data import allocator
from common.devices.cpu import Cpu, CpuSession
from common.hparams import HParams
from common.runtime import tf
from scripts.benchmarks import devices, turns

PARTS = ("train", "eval", "frozen")
# Multiply-adds beside those of the forward pass: gradients of inputs and of weights cost as many.
_PASSES = {"train": 3, "eval": 1, "frozen": 1}


def main(argv=None):
    arguments = parse_arguments(argv)
    if arguments.worker:
        work(arguments.worker, HParams(**arguments.hparams), devices.make(arguments.device))
        return
    rows = []
    try:
        for configuration in tqdm.tqdm(list(configurations(arguments)), unit="configuration"):
            rows += compare(configuration, arguments)
            if arguments.result:
                files.write_text(arguments.result, json.dumps(rows, indent=2))
    finally:  # An interruption loses nothing of what was measured.
        if rows:
            print_table(rows, arguments)
    if arguments.plot:
        plot(rows, arguments.plot)


def add_network(parser: argparse.ArgumentParser):
    """Adds the sizes of one network; those of the program's default, unless they are given."""
    default = amoeba_net_model.default_hparams()
    parser.add_argument(
        "--num_cells", default=default.num_cells, type=integer(1), help="normal cells"
    )
    parser.add_argument(
        "--filters", default=default.reduction_size, type=integer(1), help="reduction_size"
    )
    parser.add_argument("--image_size", default=default.image_size, type=integer(1), help="pixels")


def parse_arguments(argv):
    default = amoeba_net_model.default_hparams()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value, text in (
        ("batch_sizes", 8, "images a step"),
        ("num_cells", default.num_cells, "normal cells"),
        ("filters", default.reduction_size, "reduction_size"),
    ):
        numbers = {"default": [value], "type": integers(1), "metavar": "N[,N...]"}
        parser.add_argument(f"--{name}", help=text, **numbers)
    parser.add_argument("--image_size", default=default.image_size, type=integer(1), help="pixels")
    parser.add_argument(
        "--parts",
        default=list(PARTS),
        type=some_of(PARTS),
        metavar="PART[,PART...]",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument("--turns", default=5, type=integer(1), help="turns each process takes")
    parser.add_argument("--steps", default=3, type=integer(1), help="steps of a turn")
    parser.add_argument(
        "--runtime", action="append", metavar="NAME=PYTHON", help="may be given several times"
    )
    parser.add_argument(
        "--devices",
        default="cpu",
        type=some_of(devices.NAMES),
        metavar="DEVICE[,DEVICE...]",
        help=f"of {', '.join(devices.NAMES)}; the precisions are a GPU's",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another program's training step; may be given several times",
    )
    parser.add_argument("--result", help="JSON file for the figures")
    parser.add_argument("--plot", help="PNG file: images/s over batch sizes; needs matplotlib")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--hparams", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", choices=devices.NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    runtimes = dict(text.partition("=")[::2] for text in arguments.runtime or [])
    arguments.beside = {
        name: shlex.split(command)
        for name, _, command in (text.partition("=") for text in arguments.beside)
    }
    for name, python in runtimes.items():
        if not os.access(python, os.X_OK):
            parser.error(f"--runtime={name}={python}: expected NAME=PYTHON, a Python to run")
    arguments.runtimes = _commands(runtimes, arguments.devices)
    return arguments


def _commands(runtimes, device_names):
    """{name: command} for each runtime, this one if there is none, on each device."""
    commands = {}
    for runtime, python in (runtimes or {"": sys.executable}).items():
        for device in device_names:
            name = f"{runtime} {device if len(device_names) > 1 else ''}".strip() or "this"
            commands[name] = [python, os.path.abspath(__file__), f"--device={device}"]
    return commands


def configurations(arguments):
    """The networks and batch sizes to measure."""
    for cells in arguments.num_cells:
        for filters in arguments.filters:
            for batch_size in arguments.batch_sizes:
                yield {
                    "num_cells": cells,
                    "reduction_size": filters,
                    "image_size": arguments.image_size,
                    "batch_size": batch_size,
                }


# Measuring ---------------------------------------------------------------------------------------


def work(part, hparams, device):
    """A worker: says how it is, then takes a turn of so many steps for each line of input."""
    with tempfile.TemporaryDirectory() as directory:
        step, multiply_adds = _STEPS[part](hparams, directory, device)
        memory = functools.partial(devices.peak_memory, device)
        turns.serve(step, memory, multiply_adds=multiply_adds)


def step_of_mode(hparams, directory, mode, device=None):
    """A function that runs one step of a mode's graph, and the graph's multiply-adds an image."""
    allocator.keep_large_buffers()
    device = device or Cpu()
    model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None, device)
    size, batch_size = hparams.image_size, hparams.train_batch_size
    tf.train.get_or_create_global_step()
    # Variables, so that nothing is folded and nothing is copied in.
    images = tf.Variable(tf.random_uniform([batch_size, size, size, 3], -1.0, 1.0), trainable=False)
    labels = tf.Variable(tf.ones([batch_size], tf.int32), trainable=False)
    spec = model.model_fn(images, labels, mode)
    fetch = [spec.train_op, spec.loss]
    if mode != tf.estimator.ModeKeys.TRAIN:
        fetch = [spec.loss, *(update for _, update in spec.eval_metric_ops.values())]
    session = tf.Session(config=device.session_config(training=mode == "train"))
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    operation = tf.group(fetch)
    return lambda: session.run(operation), _multiply_adds(hparams)


def _multiply_adds(hparams):
    """The network's, an image; the frozen graph has folded a few of them."""
    size = hparams.image_size
    with tf.Graph().as_default() as forward:
        model_builder.build_network(
            tf.zeros([1, size, size, 3]), hparams.num_label_classes, False, hparams
        )
    return model_builder.count_multiply_adds(forward)


def _step_of_frozen(hparams, directory, device):
    """A function that runs one batch of the frozen graph, and the network's multiply-adds."""
    graph_def = serving.freeze(random_checkpoint(hparams, directory), hparams)
    step = step_of_frozen_graph(graph_def, random_images(hparams), device)
    return step, _multiply_adds(hparams)


def random_checkpoint(hparams, directory):
    """Saves an untrained network; returns the checkpoint's prefix."""
    size = hparams.image_size
    with tf.Graph().as_default(), CpuSession() as session:
        tf.train.get_or_create_global_step()
        model = amoeba_net_model.AmoebaNetEstimatorModel(hparams, None)
        spec = model.model_fn(tf.zeros([1, size, size, 3]), None, tf.estimator.ModeKeys.PREDICT)
        session.run(tf.global_variables_initializer())
        return spec.scaffold.saver.save(session, os.path.join(directory, "model.ckpt"))


def random_images(hparams):
    """A batch of noise: float32 [eval_batch_size, size, size, 3] in [-1, 1]."""
    shape = [hparams.eval_batch_size, hparams.image_size, hparams.image_size, 3]
    return np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)


def step_of_frozen_graph(graph_def, images, device=None):
    """A function that runs a frozen graph on a batch."""
    allocator.keep_large_buffers()
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        session = tf.Session(graph=graph, config=(device or Cpu()).session_config())
        feed = {f"{serving.FROZEN_INPUT}:0": images}
        operation = graph.get_operation_by_name(serving.FROZEN_OUTPUT)
    return lambda: session.run(operation, feed)


def matrix_product(hparams, directory, device=None):
    """A function that multiplies two large matrices, which are larger on a GPU; multiply-adds."""
    size = 2048 if device is None or device.name == "cpu" else 8192
    values = tf.random_uniform([size, size])
    a, b = tf.Variable(values, use_resource=True), tf.Variable(values, use_resource=True)
    product = tf.group(tf.matmul(a, b))
    session = tf.Session(config=(device or Cpu()).session_config())
    session.run(tf.global_variables_initializer())
    return lambda: session.run(product), size**3


_STEPS = {
    "train": lambda *args: step_of_mode(*args[:2], "train", *args[2:]),
    "eval": lambda *args: step_of_mode(*args[:2], "eval", *args[2:]),
    "frozen": _step_of_frozen,
    "peak": matrix_product,
}


def hparams_of(configuration):
    """The program's defaults, but for the configuration."""
    hparams = amoeba_net_model.default_hparams()
    for name, value in configuration.items():
        if name != "batch_size":
            hparams.set_hparam(name, value)
    hparams.train_batch_size = hparams.eval_batch_size = configuration["batch_size"]
    hparams.num_eval_images = configuration["batch_size"]
    return hparams


def compare(configuration, arguments):
    """Lets all parts and runtimes take turns: a list of rows of figures."""
    commands = {(name, "train"): command for name, command in arguments.beside.items()}
    for parts in (arguments.parts, ["peak"]):
        for runtime, command in arguments.runtimes.items():
            for part in parts:
                commands[runtime, part] = [*command, f"--worker={part}"]
    figures = {}
    with turns.workers() as workers:
        for (runtime, part), command in commands.items():  # One after another: starts are timed.
            worker = start_worker(runtime, command, part, configuration)
            workers[runtime, part] = worker
            figures[runtime, part] = {**worker.answer(), "seconds": []}
        for _ in range(arguments.turns):
            for name, worker in workers.items():
                answer = worker.take_turn(arguments.steps)
                figures[name]["seconds"].append(answer["seconds"])
                figures[name]["memory_mb"] = answer["memory_mb"]
    return _rows(configuration, figures)


def start_worker(runtime, command, part, configuration):
    """A process of one runtime that measures one part, see `work`."""
    hparams = json.dumps(hparams_of(configuration).values())
    return turns.Worker(f"{runtime} {part}", [*command, f"--hparams={hparams}"])


def _rows(configuration, figures):
    rows, baselines = [], {}
    for (_, part), row in figures.items():
        baselines.setdefault(part, row["seconds"])
    for (runtime, part), row in figures.items():
        if part == "peak":
            continue
        seconds = np.array(row["seconds"])
        multiply_adds = next(
            f["multiply_adds"]
            for (_, name), f in figures.items()
            if f["multiply_adds"] and name != "peak"
        )
        work_of_step = 2 * _PASSES[part] * multiply_adds * configuration["batch_size"]
        peak = 2 * np.max(
            [
                f["multiply_adds"] / np.array(f["seconds"])
                for (_, name), f in figures.items()
                if name == "peak"
            ],
            axis=0,
        )
        ratios = {"runtime": np.array(baselines[part]) / seconds}
        if part == "frozen" and (runtime, "eval") in figures:
            ratios["eval"] = np.array(figures[runtime, "eval"]["seconds"]) / seconds
        rows.append(
            {
                **configuration,
                "runtime": runtime,
                "part": part,
                "first_step_seconds": row["first_step"],
                "seconds_per_step": float(np.median(seconds)),
                "seconds_of_turns": row["seconds"],
                "images_per_second": configuration["batch_size"] / float(np.median(seconds)),
                "peak_memory_mb": row["memory_mb"],
                "gflops_per_second": work_of_step / float(np.median(seconds)) / 1e9,
                "of_peak": float(np.median(work_of_step / seconds / peak)),
                "against_first_runtime": float(np.median(ratios["runtime"])),
                "against_eval": float(np.median(ratios["eval"])) if "eval" in ratios else None,
            }
        )
    return rows


# Reporting ---------------------------------------------------------------------------------------


def print_table(rows, arguments):
    """Prints a table of all that was measured."""
    cores = len(os.sched_getaffinity(0))
    baseline = [*arguments.beside, *arguments.runtimes][0]
    print(
        f"\n{arguments.image_size} pixels, {cores} cores, {arguments.turns} turns of "
        f"{arguments.steps} steps\n\n| cells/filters | batch | part | runtime | s/step (lowest to "
        "highest) | images/s | of matrix peak | memory | first step | against "
        f"{baseline} |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        turns = row["seconds_of_turns"]
        ratio = f"{row['against_first_runtime']:.2f}"
        if row["against_eval"]:
            ratio += f" ({row['against_eval']:.2f} x eval)"
        print(
            f"| {row['num_cells']}/{row['reduction_size']} | {row['batch_size']} | {row['part']} | "
            f"{row['runtime']} | {row['seconds_per_step']:.3f} ({min(turns):.3f} to "
            f"{max(turns):.3f}) | {row['images_per_second']:.2f} | {row['of_peak']:.0%} | "
            f"{row['peak_memory_mb'] / 1000:.2f} GB | {row['first_step_seconds']:.1f} s | "
            f"{ratio} |"
        )


def plot(rows, path):
    """Draws images/s over batch sizes, a line for each part, runtime and network.

    Bars go from the slowest to the fastest turn; dashed is what the peak would be.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    lines = {}
    several = len({row["runtime"] for row in rows}) > 1
    for row in rows:
        runtime = [row["runtime"]] if several else []
        name = (row["part"], *runtime, f"{row['num_cells']}/{row['reduction_size']}")
        lines.setdefault(name, []).append(row)
    for name, points in lines.items():
        points.sort(key=lambda row: row["batch_size"])
        batch_sizes = [row["batch_size"] for row in points]
        speeds = np.array([row["images_per_second"] for row in points])
        turns = [row["batch_size"] / np.array(row["seconds_of_turns"]) for row in points]
        ranges = [speeds - [t.min() for t in turns], [t.max() for t in turns] - speeds]
        bars = axes.errorbar(
            batch_sizes, speeds, ranges, marker="o", capsize=3, label=", ".join(name)
        )
        peaks = speeds / [row["of_peak"] for row in points]
        axes.plot(batch_sizes, peaks, linestyle="--", color=bars.lines[0].get_color(), alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="batch size", ylabel="images/s (dashed: at the matrix peak)", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
