"""Measures how fast training and evaluation images are made, and in how much memory.

    python scripts/benchmarks/benchmark_input.py
    python scripts/benchmarks/benchmark_input.py --data_dir=DATA --image_size=299 --result=FILE
    python scripts/benchmarks/benchmark_input.py --epochs=100

Without --data_dir the images are cut from scikit-learn's two photographs: 500x375 pixels, about
110 KB, as ImageNet's are. The pipelines take turns, a process each, so that whatever else the
machine does slows all of them; ratios are medians of the turns' own ratios.

- naive training, naive evaluation: what one writes first, and what AmoebaNet's TPU original did.
  All features are parsed, the whole image is decoded, made float32, then cropped, resized, flipped,
  and shifted in colour channel by channel (split and concat); batches are transposed to
  [height, width, channel, batch]; 8 batches are made at a time, and 32 prefetched. Threads and
  allocator are as TensorFlow has them.
- training, evaluation: `imagenet_input.InputPipeline`.
- decoding: each image is decoded whole, and that is all.

With --epochs the training images are read so many times, to see whether time and memory stay flat.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np

import amoeba_net_model
import imagenet_input
from common import files
from common.arguments import Parser, integer
from common.data import allocator, tfrecords
from common.errors import UserError
from common.runtime import tf
from scripts.benchmarks import photos, turns

NAIVE_PREFETCH = 32
NAIVE_PARALLEL = 8  # Batches at a time.
# Naive pipeline each is compared with.
BASELINES = {"training": "naive training", "evaluation": "naive evaluation"}


def main(argv=None):
    options = parse_arguments(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        if options.worker:
            work(options)
            return
        with tempfile.TemporaryDirectory() as directory:
            if not options.data_dir:
                photos.make_photos(directory, options.photos)
                options.data_dir = directory
            if options.epochs:
                read_epochs(options)
            else:
                report(compare(options), options)
    except UserError as error:
        sys.exit(f"benchmark_input.py: {error}")


def parse_arguments(argv):
    parser = Parser(__doc__)
    parser.add_argument(
        "--data_dir", help="TFRecords; both splits are needed. Default: made photos."
    )
    for name, low, default, text in (
        ("image_size", 1, 224, "Width and height of the images made."),
        ("batch_size", 1, 64, "Images of a batch."),
        ("photos", 64, 512, "Number of photographs to make without --data_dir."),
        ("rounds", 1, 7, "Turns of each pipeline."),
        ("batches", 1, 15, "Batches of a turn."),
        ("epochs", 0, 0, "Only read the training images so many times."),
    ):
        parser.add_argument(f"--{name}", type=integer(low), default=default, help=text)
    parser.add_argument("--result", help="JSON file for the figures.")
    parser.add_argument("--worker", choices=PIPELINES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# Pipelines ---------------------------------------------------------------------------------------


def naive_input(options, is_training: bool) -> tf.data.Dataset:
    """The naive pipeline of the module's docstring."""
    files = tfrecords.find_shards(options.data_dir, "train" if is_training else "validation")
    dataset = tf.data.Dataset.from_tensor_slices(files)
    if is_training:
        dataset = dataset.shuffle(len(files)).repeat()
    dataset = dataset.apply(
        tf.data.experimental.parallel_interleave(
            lambda path: tf.data.TFRecordDataset(path, buffer_size=8 << 20),
            cycle_length=min(64, len(files)),
            sloppy=True,
        )
    )
    dataset = dataset.shuffle(1024) if is_training else dataset
    dataset = dataset.repeat().apply(
        tf.data.experimental.map_and_batch(
            lambda record: _naive_example(record, options.image_size, is_training),
            options.batch_size,
            num_parallel_batches=NAIVE_PARALLEL,
            drop_remainder=True,
        )
    )
    dataset = dataset.map(
        lambda images, labels: (tf.transpose(images, [1, 2, 3, 0]), labels),
        num_parallel_calls=NAIVE_PARALLEL,
    )
    return dataset.prefetch(NAIVE_PREFETCH)


def _naive_example(record, size, is_training):
    features = tf.parse_single_example(
        record,
        {
            "image/encoded": tf.FixedLenFeature([], tf.string, ""),
            "image/format": tf.FixedLenFeature([], tf.string, "jpeg"),
            "image/class/label": tf.FixedLenFeature([], tf.int64, -1),
            "image/class/text": tf.FixedLenFeature([], tf.string, ""),
            "image/object/bbox/xmin": tf.VarLenFeature(tf.float32),
            "image/object/bbox/ymin": tf.VarLenFeature(tf.float32),
            "image/object/bbox/xmax": tf.VarLenFeature(tf.float32),
            "image/object/bbox/ymax": tf.VarLenFeature(tf.float32),
            "image/object/class/label": tf.VarLenFeature(tf.int64),
        },
    )
    image = tf.image.decode_jpeg(features["image/encoded"], channels=3)
    image = naive_preprocessing(image, size, is_training)
    return image, tf.cast(features["image/class/label"], tf.int32)


def naive_preprocessing(
    image: tf.Tensor, size: int, is_training: bool, chroma_range: float = 0.1
) -> tf.Tensor:
    """A whole uint8 image -> float32 [size, size, 3] in [-1, 1], as the module's docstring says."""
    image = tf.image.convert_image_dtype(image, tf.float32)
    if is_training:
        seed, seed2 = tf.get_seed(None)  # Not all releases ask for the graph's seed here.
        begin, crop_size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            seed=seed,
            seed2=seed2,
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.1,
            aspect_ratio_range=(3.0 / 4.0, 4.0 / 3.0),
            area_range=(0.1, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.slice(image, begin, crop_size)
    else:
        image = tf.image.central_crop(image, 0.875)
    image = tf.image.resize_bilinear(tf.expand_dims(image, 0), [size, size], align_corners=False)
    image = tf.reshape(image, [size, size, 3])
    if is_training:
        image = tf.image.random_flip_left_right(image)
        red, green, blue = tf.split(image, 3, axis=2)
        brightness = tf.random_uniform([], -32.0 / 255.0, 32.0 / 255.0)
        blueness = tf.random_uniform([], -chroma_range, chroma_range)
        redness = tf.random_uniform([], -chroma_range, chroma_range)
        red = red + brightness + 1.402 * redness
        green = green + brightness - 0.344136 * blueness - 0.714136 * redness
        blue = blue + brightness + 1.772 * blueness
        image = tf.clip_by_value(tf.concat([red, green, blue], axis=2), 0.0, 1.0)
    return (image - 0.5) * 2.0


def project_input(options, is_training: bool) -> tf.data.Dataset:
    """The project's pipeline; evaluation images over and over, too."""
    hparams = amoeba_net_model.build_hparams()
    hparams.image_size = options.image_size
    hparams.train_batch_size = hparams.eval_batch_size = options.batch_size
    files = tfrecords.find_shards(options.data_dir, "train" if is_training else "validation")
    images = tfrecords.count_records(files)
    hparams.num_train_images = hparams.num_eval_images = images
    hparams.eval_drop_remainder = True
    pipeline = imagenet_input.InputPipeline(is_training, options.data_dir, hparams)
    return pipeline.input_fn() if is_training else pipeline.input_fn().repeat()


def decoding(options) -> tf.data.Dataset:
    """Decodes the training images, a thread a core, and gives only their shapes."""
    cores = len(os.sched_getaffinity(0))

    def decode(record):
        encoded = tf.parse_single_example(
            record, {"image/encoded": tf.FixedLenFeature([], tf.string)}
        )
        return tf.shape(tf.image.decode_jpeg(encoded["image/encoded"], channels=3))

    files = tfrecords.find_shards(options.data_dir, "train")
    dataset = tf.data.TFRecordDataset(files, buffer_size=256 * 1024).repeat()
    dataset = (
        dataset.map(decode, num_parallel_calls=2 * cores).batch(options.batch_size).prefetch(2)
    )
    options = tf.data.Options()
    options.experimental_threading.private_threadpool_size = cores
    options.experimental_threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


PIPELINES = {
    "naive training": lambda options: naive_input(options, True),
    "training": lambda options: project_input(options, True),
    "naive evaluation": lambda options: naive_input(options, False),
    "evaluation": lambda options: project_input(options, False),
    "decoding": decoding,
}


# Measuring ---------------------------------------------------------------------------------------


def work(options):
    """A worker: a turn for each line of input.

    Prints images/s, seconds of CPU time an image, and the peak memory so far in MB.
    """
    is_naive = options.worker.startswith("naive")
    if not is_naive:
        allocator.keep_large_buffers()
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_initializable_iterator(PIPELINES[options.worker](options))
        batch = tf.group(iterator.get_next())
        session.run(iterator.initializer)
        # What was made while other pipelines had their turn is not to be counted.
        stored = (NAIVE_PREFETCH if is_naive else 2) + 2
        for _ in sys.stdin:
            _run(session, batch, stored)
            cpu_seconds = -time.process_time()
            seconds = _run(session, batch, options.batches)
            cpu_seconds += time.process_time()
            images = options.batches * options.batch_size
            answer = {
                "images_per_second": images / seconds,
                "cpu_seconds": cpu_seconds / images,
                "peak_memory_mb": turns.peak_memory(),
            }
            print(json.dumps(answer), flush=True)


def _run(session, operation, times):
    start = time.perf_counter()
    for _ in range(times):
        session.run(operation)
    return time.perf_counter() - start


def compare(options) -> dict:
    """Lets all pipelines take turns.

    Returns:
        {name: {'images_per_second': [...], 'cpu_seconds': [...], 'peak_memory_mb': n}}.
    """
    command = [sys.executable, os.path.abspath(__file__), f"--data_dir={options.data_dir}"]
    for flag in ("image_size", "batch_size", "batches"):
        command.append(f"--{flag}={getattr(options, flag)}")
    figures = {name: {"images_per_second": [], "cpu_seconds": []} for name in PIPELINES}
    with turns.workers() as workers:
        for name in PIPELINES:
            workers[name] = turns.Worker(name, [*command, f"--worker={name}"])
        for turn in range(options.rounds + 1):
            for name, worker in workers.items():
                answer = worker.take_turn()
                figures[name]["peak_memory_mb"] = answer.pop("peak_memory_mb")
                if turn:  # The first fills caches and buffers.
                    for what, value in answer.items():
                        figures[name][what].append(value)
    return figures


def report(figures: dict, options):
    """Prints a table, and writes --result."""
    for name, row in figures.items():
        row["median"] = float(np.median(row["images_per_second"]))
        for what, other in (("speedup", BASELINES.get(name)), ("of_decoding", "decoding")):
            if other:
                ratios = np.divide(row["images_per_second"], figures[other]["images_per_second"])
                row[what] = float(np.median(ratios))
        if name in BASELINES:
            naive = figures[BASELINES[name]]["peak_memory_mb"]
            row["part_of_memory"] = row["peak_memory_mb"] / naive
    print(
        f"{options.image_size} pixels, batches of {options.batch_size}, "
        f"{len(os.sched_getaffinity(0))} cores, {options.rounds} turns\n\n"
        "| pipeline | images/s, median | lowest to highest | against naive | of decoding | "
        "CPU time an image | peak memory |\n|---|---|---|---|---|---|---|"
    )
    for name, row in figures.items():
        speeds = row["images_per_second"]
        speedup = f"{row['speedup']:.2f}" if "speedup" in row else ""
        memory = f"{row['peak_memory_mb'] / 1000:.2f} GB"
        if "part_of_memory" in row:
            memory += f" ({row['part_of_memory']:.2f} of naive)"
        print(
            f"| {name} | {row['median']:.0f} | {min(speeds):.0f} to {max(speeds):.0f} | "
            f"{speedup} | {row['of_decoding']:.2f} | "
            f"{np.median(row['cpu_seconds']) * 1e3:.2f} ms | {memory} |"
        )
    if options.result:
        files.write_text(options.result, json.dumps(figures, indent=2, sort_keys=True) + "\n")


def read_epochs(options):
    """Prints time and memory of each epoch of the training pipeline, at most twenty lines."""
    allocator.keep_large_buffers()
    files = tfrecords.find_shards(options.data_dir, "train")
    batches = tfrecords.count_records(files) // options.batch_size
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_initializable_iterator(project_input(options, True))
        batch = tf.group(iterator.get_next())
        session.run(iterator.initializer)
        for epoch in range(1, options.epochs + 1):
            seconds = _run(session, batch, batches)
            if epoch % max(1, options.epochs // 20) == 0 or epoch == 1:
                speed = batches * options.batch_size / seconds
                print(f"epoch {epoch}: {speed:.0f} images/s, {_memory():.0f} MB", flush=True)


def _memory() -> float:
    """Resident memory now, in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
