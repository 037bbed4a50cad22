#!/usr/bin/env python
"""Validation images for offline inference runners, and the accuracy of what they answer.

    python scripts/offline_inference.py write --data_dir=DATA --batches_dir=BATCHES --batch_size=64
    <the runner, on each BATCHES/<n>.bin, writes OUTPUTS/<n>_output_0.bin>
    python scripts/offline_inference.py score --batches_dir=BATCHES --outputs_dir=OUTPUTS

Runners such as those of Ascend's inference cards take a model of fixed batch size and read one raw
file a batch: little-endian float32 [batch, size, size, 3], preprocessed as in evaluation. What they
write is little-endian float32 [batch, classes], probabilities or logits. The last batch is filled
up with images that do not count. `run` stands in for a runner: it puts the batches through an
exported frozen graph on the CPU.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import tqdm
from google.protobuf.message import DecodeError

import amoeba_net_model
import imagenet_input
import serving
from common import files, limits
from common.arguments import integer, local_place, place
from common.data import tfrecords
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.runtime import tf

INDEX = "batches.json"
_FLOAT32 = np.dtype("<f4")


def write_batches(data_dir: str, batches_dir: str, batch_size: int, image_size: int, images: int):
    """Writes the first `images` validation images as 0.bin, 1.bin, ..., and batches.json.

    Args:
        data_dir: directory of the TFRecord shards.
        batches_dir: where to; what is there of the same names is replaced.
        batch_size: images a file.
        image_size: width and height in pixels.
        images: how many; 0 for all.

    Raises:
        UserError: there are no shards, or not so many images.
    """
    hparams = amoeba_net_model.build_hparams()
    found = tfrecords.count_records(imagenet_input.find_shards(data_dir, "validation", hparams))
    if images > found:
        raise UserError(f"--num_images={images}: {data_dir} has {found} validation images.")
    images = images or found
    info = tfrecords.read_dataset_info(data_dir) or {}
    for name, value in {
        "eval_batch_size": batch_size,
        "image_size": image_size,
        "num_eval_images": images,
        "num_label_classes": info.get("num_label_classes", hparams.num_label_classes),
    }.items():
        hparams.set_hparam(name, value)
    os.makedirs(batches_dir, exist_ok=True)
    index = os.path.join(batches_dir, INDEX)
    if os.path.exists(index):
        os.remove(index)  # It is true of the old files, and comes back when all new ones are there.
    all_labels = []
    pipeline = amoeba_net_model.InputPipeline(False, data_dir, hparams)
    with tf.Graph().as_default(), CpuSession() as session:
        with pipeline.naming_bad_records():
            iterator = tf.data.make_initializable_iterator(pipeline.input_fn())
            batch = iterator.get_next()
            session.run(iterator.initializer)
            for i in tqdm.trange(amoeba_net_model.num_eval_batches(hparams), unit="batch"):
                values, labels = session.run(batch)
                _write_floats(os.path.join(batches_dir, f"{i}.bin"), values)
                all_labels += labels.tolist()
    contents = {
        "batch_size": batch_size,
        "image_size": image_size,
        "labels": all_labels[:images],
    }
    files.write_text(index, json.dumps(contents) + "\n")


def run_batches(frozen_graph: str, batches_dir: str, outputs_dir: str):
    """Writes <n>_output_0.bin for each batch: what a frozen graph answers on the CPU."""
    index = _read_index(batches_dir)
    shape = [index["batch_size"], index["image_size"], index["image_size"], 3]
    os.makedirs(outputs_dir, exist_ok=True)
    with tf.Graph().as_default() as graph, CpuSession() as session:
        try:
            with tf.io.gfile.GFile(frozen_graph, "rb") as file:
                tf.import_graph_def(tf.GraphDef.FromString(file.read()), name="")
            images, predictions = (
                graph.get_tensor_by_name(f"{name}:0")
                for name in (serving.FROZEN_INPUT, serving.FROZEN_OUTPUT)
            )
        except (DecodeError, KeyError, ValueError) as error:
            raise UserError(
                f"--frozen_graph={frozen_graph} is not a graph that --mode=export wrote: {error}."
            ) from error
        if not images.shape.is_compatible_with(shape):
            raise UserError(
                f"{batches_dir} has batches of shape {list(shape)}, and {frozen_graph} takes "
                f"{images.shape}: write them with the --image_size of the network."
            )
        for i in tqdm.trange(_num_batches(index), unit="batch"):
            values = _read_floats(os.path.join(batches_dir, f"{i}.bin"))
            answers = session.run(predictions, {images: values.reshape(shape)})
            _write_floats(os.path.join(outputs_dir, _output_name(i)), answers)


def score(batches_dir: str, outputs_dir: str):
    """Counts right answers.

    Returns:
        {"images", "top_1_correct", "top_5_correct", "top_1_accuracy", "top_5_accuracy"}.

    Raises:
        UserError: an output is missing, or has another size than the first, or than a whole
            number of classes.
    """
    index = _read_index(batches_dir)
    labels = np.array(index["labels"])
    batch_size, scores = index["batch_size"], []
    for i in range(_num_batches(index)):
        path = os.path.join(outputs_dir, _output_name(i))
        values = _read_floats(path)
        classes = values.size // batch_size
        if values.size != batch_size * classes or classes <= labels.max():
            raise UserError(
                f"{path} holds {values.size} float32 numbers: expected {batch_size} times the "
                f"number of classes, which is above {labels.max()}."
            )
        if scores and classes != scores[0].shape[1]:
            raise UserError(
                f"{path} holds answers for {classes} classes, {_output_name(0)} for "
                f"{scores[0].shape[1]}."
            )
        scores.append(values.reshape(batch_size, classes))
    scores = np.concatenate(scores)[: len(labels)]
    correct = {k: count_top_k(scores, labels, k) for k in (1, 5)}
    return {
        "images": len(labels),
        **{f"top_{k}_correct": count for k, count in correct.items()},
        **{f"top_{k}_accuracy": count / len(labels) for k, count in correct.items()},
    }


def count_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many labels [n] are among the k highest of scores [n, classes], as evaluation counts.

    Of equal scores the first is the highest for k = 1; for larger k the label's is.
    """
    own = scores[np.arange(len(labels)), labels][:, np.newaxis]
    hits = scores.argmax(axis=1) == labels if k == 1 else (scores > own).sum(axis=1) < k
    return int((hits & np.isfinite(own[:, 0])).sum())


def _num_batches(index) -> int:
    return -(-len(index["labels"]) // index["batch_size"])


def _output_name(i: int) -> str:
    return f"{i}_output_0.bin"


def _read_index(batches_dir: str):
    path = os.path.join(batches_dir, INDEX)
    try:
        index = limits.read_json(path)
        if not {"batch_size", "image_size", "labels"} <= set(index):
            raise UserError(f"{path} is not a file that `write` made.")
        return index
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: `write` makes it when all batches are there."
        ) from None


def _read_floats(path: str) -> np.ndarray:
    try:
        return np.fromfile(path, _FLOAT32)
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None


def _write_floats(path: str, values: np.ndarray):
    files.write_bytes(path, values.astype(_FLOAT32).tobytes())


def parse_args(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write the validation images as batches")
    run = commands.add_parser("run", help="put the batches through a frozen graph on the CPU")
    scoring = commands.add_parser("score", help="top-1 and top-5 accuracy of the outputs")
    write.add_argument(
        "--data_dir", type=place, required=True, help="directory of the TFRecord shards"
    )
    for command in (write, run, scoring):
        command.add_argument(
            "--batches_dir", type=local_place, required=True, help="<n>.bin and batches.json"
        )
    for command in (run, scoring):
        command.add_argument(
            "--outputs_dir", type=local_place, required=True, help="<n>_output_0.bin"
        )
    write.add_argument("--batch_size", type=integer(1), default=64, help="default: 64")
    write.add_argument("--image_size", type=integer(1), default=224, help="default: 224")
    write.add_argument("--num_images", type=integer(1), default=0, help="default: all")
    run.add_argument("--frozen_graph", type=place, required=True, help="frozen_graph.pb")
    scoring.add_argument("--result", help="JSON file for the counts and accuracies")
    return parser.parse_args(args)


def main():
    """Runs the program."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    args = parse_args()
    try:
        if args.command == "write":
            write_batches(
                args.data_dir, args.batches_dir, args.batch_size, args.image_size, args.num_images
            )
        elif args.command == "run":
            run_batches(args.frozen_graph, args.batches_dir, args.outputs_dir)
        else:
            counts = score(args.batches_dir, args.outputs_dir)
            for k in (1, 5):
                correct, accuracy = counts[f"top_{k}_correct"], counts[f"top_{k}_accuracy"]
                print(f"top_{k}_accuracy = {accuracy:.7f} ({correct} of {counts['images']})")
            if args.result:
                files.write_text(args.result, json.dumps(counts) + "\n")
    except (UserError, OSError, tf.errors.OpError) as error:
        sys.exit(f"offline_inference.py: {error}")


if __name__ == "__main__":
    main()
