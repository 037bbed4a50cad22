#!/usr/bin/env python
"""Makes a classifier of your own classes from a folder of images and a trained checkpoint.

    python scripts/fine_tune.py --image_dir=PHOTOS --init_checkpoint=MODEL --output_dir=OUT

PHOTOS has one folder a class, or train/ and validation/ of them; without validation images a tenth
of each class is split off. OUT gets the data set (data/), the training (model/), the report of its
evaluation (report/) and the SavedModel (export/). The same command goes on where it was
interrupted.

The network is that of the checkpoint: its flags are read from the results.json beside it. Where
there is none, and to change anything of the recipe, give flags of amoeba_net.py at the end, after
two dashes:

    python scripts/fine_tune.py ... -- --image_size=64 --num_epochs=10
"""

import argparse
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import amoeba_net_model
import evaluation_report
from common import results
from common.arguments import checkpoints_place
from common.checkpoints import selection
from common.data import tfrecords
from common.errors import UserError
from common.hooks import interruption

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# For some hundred to some ten thousand images. The published recipe is for a million: there the
# averages look back over 10,000 steps, more than these trainings have.
RECIPE = {
    "init_exclude": "/FC/",  # Both classifiers: as many classes would still be other ones.
    "num_epochs": 30,
    "num_epochs_per_eval": 30,
    "optimizer": "momentum",
    "lr": 0.1,
    "lr_decay_method": "cosine",
    "moving_average_decay": 0.99,
    "dense_dropout_keep_prob": 1.0,
}
BATCH_SIZE = 32

# Flags of amoeba_net.py that follow from this program's own.
_OWN = ("mode", "data_dir", "model_dir", "report_dir", "export_dir", "init_checkpoint")

# What a network is besides its variables.
_NETWORK = (*amoeba_net_model.ARCHITECTURE, "image_size", "use_aux_head", "batch_norm_epsilon")


def network_flags(checkpoint: str) -> dict:
    """The flags of the network that wrote a checkpoint, as results.json beside it says."""
    hparams = results.hparams_of(checkpoint)
    if not hparams:
        print(
            f"There is no results.json beside {checkpoint}: the network is the default one but for "
            "the flags after --."
        )
    return {name: hparams[name] for name in _NETWORK if name in hparams}


def training_command(options, checkpoint: str, info: dict) -> list:
    """The command that trains, evaluates and exports.

    Args:
        options: the program's.
        checkpoint: whose network is trained.
        info: the data set's dataset.json.
    """
    images = info["splits"]["train"]["images"]
    flags = {
        "mode": "train_and_eval",
        "data_dir": os.path.join(options.output_dir, "data"),
        "model_dir": os.path.join(options.output_dir, "model"),
        "report_dir": os.path.join(options.output_dir, "report"),
        "export_dir": os.path.join(options.output_dir, "export"),
        "init_checkpoint": options.init_checkpoint,
        "train_batch_size": min(BATCH_SIZE, images),
        **RECIPE,
        **network_flags(checkpoint),
    }
    program = os.path.join(_ROOT, "amoeba_net.py")
    # Of a flag that is given twice the last counts.
    given = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, program, *given, *options.flags]


def _run(command: list):
    """Runs a program to its end, also after a signal: training then saves a checkpoint."""
    process = None

    def end(number, frame):
        if process and number != signal.SIGINT:  # That is sent to both programs, by Ctrl-C.
            process.send_signal(number)

    signals = [s for s in interruption.SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
    old = {number: signal.signal(number, end) for number in signals}
    process = subprocess.Popen(command)
    status = process.wait()
    for number, handler in old.items():
        signal.signal(number, handler)
    if status < 0:
        sys.exit(f"fine_tune.py: {os.path.basename(command[1])} was ended by signal {-status}.")
    if status:
        sys.exit(status)  # The program has said why.


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--image_dir", required=True, help="one folder of images a class")
    add(
        "--init_checkpoint",
        type=checkpoints_place,
        required=True,
        help="checkpoint or model directory",
    )
    add(
        "--output_dir",
        type=checkpoints_place,
        required=True,
        help="data set, training and export",
    )
    add(
        "--on_bad_image",
        choices=("fail", "skip"),
        default="fail",
        help="what to do about an image that cannot be decoded",
    )
    add("flags", nargs="*", help="flags of amoeba_net.py, after --")
    options = parser.parse_args()
    for flag in options.flags:
        if flag.lstrip("-").split("=")[0] in _OWN:
            parser.error(f"{flag}: leave this flag out, since fine_tune.py sets it.")
    try:
        # Before the long conversion of images.
        checkpoint = selection.resolve(options.init_checkpoint, "--init_checkpoint")
        data = os.path.join(options.output_dir, "data")
        build = os.path.join(_ROOT, "scripts", "build_tfrecords.py")
        flags = {
            "source_dir": options.image_dir,
            "output_dir": data,
            "on_bad_image": options.on_bad_image,
        }
        _run([sys.executable, build, *(f"--{name}={value}" for name, value in flags.items())])
        info = tfrecords.read_dataset_info(data)
        if "validation" not in info["splits"]:
            raise UserError(
                f"{options.image_dir} has no image to validate on: each class needs two images."
            )
        _run(training_command(options, checkpoint, info))
        report(options.output_dir)
    except UserError as error:
        sys.exit(f"fine_tune.py: {error}")


def report(output_dir: str):
    """Prints the accuracy and where the report and the classifier are."""
    metrics = results.evaluations(os.path.join(output_dir, "model"))[-1]["metrics"]
    export = os.path.join(output_dir, "export")
    # Another --export_format has no version.
    newest = max(filter(str.isdecimal, os.listdir(export)), key=int, default="")
    print(
        f"\n{metrics['top_1_accuracy']:.4f} of the {metrics['images']} validation images are right "
        f"(top-1).\nReport: {os.path.join(output_dir, 'report', evaluation_report.PAGE)}"
        f"\nExported model: {os.path.join(export, newest)}"
    )


if __name__ == "__main__":
    main()
