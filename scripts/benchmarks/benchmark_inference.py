#!/usr/bin/env python
"""Measures inference with everything that an export makes, against this program's evaluation.

    python scripts/benchmarks/benchmark_inference.py
    python scripts/benchmarks/benchmark_inference.py --torch_python=torch_venv/bin/python

The network is the program's default one, but for what is given here, with random weights. All use
the same cores. Each part is a process of its own, and the processes take turns, so that whatever
else the machine does slows all of them; ratios are medians of the turns' own ratios.

- evaluation: the graph of `--mode=eval`, the baseline.
- saved_model: the SavedModel's signature `images`.
- frozen_graph: frozen_graph.pb.
- onnx: amoeba_net.onnx in ONNX Runtime.
- torch: PyTorch's forward pass of the same network, with --torch_python. PyTorch is not among the
  requirements: python3 -m venv torch_venv && torch_venv/bin/pip install torch numpy

The peak is what a large matrix product reaches on the same cores in this TensorFlow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
import tqdm

import serving
from common import files
from common.arguments import integer, integers
from common.devices.cpu import Cpu
from common.runtime import tf
from scripts.benchmarks import benchmark_train, turns

BASELINE = "evaluation"
_TORCH_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch_amoebanet.py")


def main(argv=None):
    arguments = parse_arguments(argv)
    if arguments.worker:
        work(arguments.worker, arguments.configuration)
        return
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        # In a process of its own: what it allocates would be counted as every worker's.
        what = configuration_of(arguments, 1)
        subprocess.run(_command("export", what, directory, arguments), check=True)
        for batch_size in tqdm.tqdm(arguments.batch_sizes, unit="batch size"):
            rows += compare(configuration_of(arguments, batch_size), directory, arguments)
            if arguments.result:
                files.write_text(arguments.result, json.dumps(rows, indent=2))
    print_table(rows, arguments)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--batch_sizes",
        default=[1, 8],
        type=integers(1),
        metavar="N[,N...]",
        help="images a step",
    )
    benchmark_train.add_network(parser)
    parser.add_argument("--turns", default=7, type=integer(1), help="turns each process takes")
    parser.add_argument("--steps", default=5, type=integer(1), help="steps of a turn")
    parser.add_argument("--torch_python", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--result", help="JSON file for the figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--configuration", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    python = arguments.torch_python
    if python and not os.access(python, os.X_OK):
        parser.error(f"--torch_python={python}: expected a Python to run")
    return arguments


def configuration_of(arguments, batch_size):
    return {
        "num_cells": arguments.num_cells,
        "reduction_size": arguments.filters,
        "image_size": arguments.image_size,
        "batch_size": batch_size,
    }


def export(configuration, directory):
    """Exports a network with random weights in all formats."""
    hparams = benchmark_train.hparams_of(configuration)
    checkpoint = benchmark_train.random_checkpoint(hparams, directory)
    labels = [f"class {i}" for i in range(hparams.num_label_classes)]
    for write in (serving.export_saved_model, serving.export_frozen_graph, serving.export_onnx):
        write(checkpoint, hparams, directory, labels)


# Measuring ---------------------------------------------------------------------------------------


def work(part, configuration):
    """A worker, see `turns.serve`, or the export; the configuration has its directory."""
    directory = configuration.pop("directory")
    if part == "export":
        export(configuration, directory)
        return
    hparams = benchmark_train.hparams_of(configuration)
    images = benchmark_train.random_images(hparams)
    facts = {}
    if part == BASELINE:
        step, multiply_adds = benchmark_train.step_of_mode(hparams, directory, "eval")
        facts = {"multiply_adds": multiply_adds, "weights": _num_weights(), "version": _TF}
    elif part == "peak":
        step, facts["multiply_adds"] = benchmark_train.matrix_product(hparams, directory)
    else:
        step, facts["version"] = _STEPS[part](directory, images)
    turns.serve(step, **facts)


_TF = f"TensorFlow {tf.__version__}"


def _num_weights() -> int:
    return sum(v.shape.num_elements() for v in tf.trainable_variables())


def _saved_model(directory, images):
    (version,) = [name for name in os.listdir(directory) if name.isdigit()]
    graph = tf.Graph()
    session = tf.Session(graph=graph, config=Cpu().session_config())
    with graph.as_default():
        loaded = tf.saved_model.load(session, ["serve"], os.path.join(directory, version))
    signature = loaded.signature_def[serving.IMAGES_SIGNATURE]
    outputs = {key: tensor.name for key, tensor in signature.outputs.items()}
    feed = {signature.inputs["images"].name: images}
    return lambda: session.run(outputs, feed), _TF


def _frozen_graph(directory, images):
    with open(os.path.join(directory, serving.FROZEN_GRAPH), "rb") as file:
        graph_def = tf.GraphDef.FromString(file.read())
    return benchmark_train.step_of_frozen_graph(graph_def, images), _TF


def _onnx(directory, images):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        os.path.join(directory, serving.ONNX_MODEL), options, providers=["CPUExecutionProvider"]
    )
    feed = {serving.FROZEN_INPUT: images}
    return lambda: session.run(None, feed), f"ONNX Runtime {onnxruntime.__version__}"


_STEPS = {"saved_model": _saved_model, "frozen_graph": _frozen_graph, "onnx": _onnx}


def _command(part, configuration, directory, arguments):
    if part == "torch":
        hparams = json.dumps(benchmark_train.hparams_of(configuration).values())
        return [arguments.torch_python, _TORCH_PROGRAM, "forward", f"--hparams={hparams}"]
    what = json.dumps({**configuration, "directory": directory})
    program = os.path.abspath(__file__)
    return [sys.executable, program, f"--worker={part}", f"--configuration={what}"]


def compare(configuration, directory, arguments):
    """Lets all parts take turns: a list of rows of figures."""
    parts = [BASELINE, *_STEPS, *(["torch"] if arguments.torch_python else []), "peak"]
    figures = {}
    with turns.workers() as workers:
        for part in parts:
            command = _command(part, configuration, directory, arguments)
            workers[part] = turns.Worker(part, command)
            figures[part] = {**workers[part].answer(), "seconds": []}
        for _ in range(arguments.turns):
            for part, worker in workers.items():
                answer = worker.take_turn(arguments.steps)
                figures[part]["seconds"].append(answer["seconds"])
                figures[part]["memory_mb"] = answer["memory_mb"]
    weights = {figures[part]["weights"] for part in parts if "weights" in figures[part]}
    if len(weights) > 1:
        sys.exit(f"PyTorch's network is another one: {weights} weights.")
    return _rows(configuration, figures)


def _rows(configuration, figures):
    baseline, peak = figures[BASELINE], figures.pop("peak")
    work_of_step = baseline["multiply_adds"] * configuration["batch_size"]
    peak_speed = peak["multiply_adds"] / np.array(peak["seconds"])
    rows = []
    for part, row in figures.items():
        seconds = np.array(row["seconds"])
        rows.append(
            {
                **configuration,
                "part": part,
                "version": row["version"],
                "seconds_per_step": float(np.median(seconds)),
                "seconds_of_turns": row["seconds"],
                "images_per_second": configuration["batch_size"] / float(np.median(seconds)),
                "peak_memory_mb": row["memory_mb"],
                "of_peak": float(np.median(work_of_step / seconds / peak_speed)),
                "against_evaluation": float(np.median(baseline["seconds"] / seconds)),
            }
        )
    return rows


def print_table(rows, arguments):
    """Prints a table of all that was measured."""
    cores = len(os.sched_getaffinity(0))
    print(
        f"\n{arguments.num_cells} cells, {arguments.filters} filters, {arguments.image_size} "
        f"pixels, {cores} cores, {arguments.turns} turns of {arguments.steps} steps\n\n"
        "| batch | part | ms/step (lowest to highest) | images/s | of matrix peak | memory | "
        "against evaluation |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        lowest, median, highest = np.percentile(row["seconds_of_turns"], [0, 50, 100]) * 1000
        print(
            f"| {row['batch_size']} | {row['part']}, {row['version']} | {median:.1f} "
            f"({lowest:.1f} to {highest:.1f}) | {row['images_per_second']:.1f} | "
            f"{row['of_peak']:.0%} | {row['peak_memory_mb'] / 1000:.2f} GB | "
            f"{row['against_evaluation']:.2f} |"
        )


if __name__ == "__main__":
    main()
