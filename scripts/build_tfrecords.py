"""Makes a data set of TFRecord shards from ImageNet as it is distributed, or from image folders.

    python scripts/build_tfrecords.py --source_dir=/data/ILSVRC2012 --output_dir=/data/imagenet
    python scripts/build_tfrecords.py --source_dir=/data/photos --output_dir=/data/photos_shards

The source directory holds one of:

- ImageNet: ILSVRC2012_img_train.tar or train/<synset>/*.JPEG; and ILSVRC2012_img_val.tar,
  val/*.JPEG or val/<synset>/*.JPEG. The labels of a validation set without folders come from a text
  file with one synset an image, or from the development kit's file with one number an image. These
  numbers are the kit's own ILSVRC2012_ID, not labels: they need the kit's meta.mat or another list
  of their synsets. Labels are 1..1000 in the order of the synsets.
- Folders: train/<class>/** and validation/<class>/** (or val/), or just <class>/**, of which
  --validation_fraction becomes the validation set, class by class. Labels are 1..N in the order of
  the folders' names.

Label 0 is background, which no image has. What the output holds is in common/data/tfrecords.py.

JPEG files that are RGB or grey are stored as they are, byte for byte. PNG, GIF (its first frame),
BMP, WebP, TIFF, PPM and CMYK JPEG become RGB JPEG of quality 95, whatever the file's name says;
transparent parts turn white, 16 bits become 8. An EXIF orientation is not applied, neither here nor
in training; that of a TIFF is. Every image is decoded once; a broken one stops the program with its
name, or is left out, listed and counted (--on_bad_image=skip).

The same source, seed and numbers of shards make the same bytes, with any number of workers. A
program that was interrupted, however hard, goes on where it was when called again: what has been
finished is checked against its SHA-256 and kept. Shards that are not of the same job are an error,
unless --overwrite says to replace them.
"""

import os
import shutil
import sys
import time
import warnings

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from common.arguments import Parser, integer, local_place
from common.data import dataset_builder, image_sources, tfrecords
from common.errors import UserError
from common.runtime import tf

# Of a split: dataset.json says something of each, in at most `limits.JSON_BYTES`.
_MOST_SHARDS = 30_000


def _check_flags(options):
    """Raises UserError for a flag that is wrong whatever the source holds."""
    if not os.path.isdir(options.source_dir):
        raise UserError(f"--source_dir={options.source_dir} is not a directory.")
    if os.path.isfile(options.output_dir):
        raise UserError(f"--output_dir={options.output_dir} must be a directory.")
    source, output = (os.path.realpath(p) for p in (options.source_dir, options.output_dir))
    if os.path.commonpath([source, output]) == source:
        raise UserError(
            f"--output_dir={options.output_dir} must be outside of --source_dir={source}."
        )
    for name in ("validation_ground_truth", "synset_list"):
        path = getattr(options, name)
        if path is not None and not os.path.isfile(path):
            raise UserError(f"--{name}={path} is not a file.")
    fraction = options.validation_fraction
    if fraction is not None and not 0 <= fraction < 1:
        raise UserError(f"--validation_fraction={fraction} must be at least 0 and below 1.")
    for split in tfrecords.SPLITS:
        nested = os.path.join(output, split)
        if os.path.isdir(nested) and any("-of-" in name for name in os.listdir(nested)):
            raise UserError(
                f"--output_dir={output} has shards in {split}/ already; move them away."
            )


def _warn_of_full_disk(source, output_dir):
    needed = sum(image.size for images in source.splits.values() for image in images)
    free = shutil.disk_usage(output_dir).free
    if needed > free:
        print(f"{output_dir} has {free / 1e9:.1f} GB free for {needed / 1e9:.1f} GB of images.")


def _report(info, output_dir, seconds):
    for split, contents in sorted(info["splits"].items()):
        converted = ", ".join(f"{n} {kind}" for kind, n in sorted(contents["converted"].items()))
        print(
            f"{split}: {contents['images']} images in {contents['num_shards']} shards, "
            f"{contents['bytes'] / 1e6:.1f} MB; made JPEG: {converted or 'none'}; "
            f"bad and left out: {len(contents['skipped'])}"
        )
    print(f"{info['num_classes']} classes; {output_dir} is complete, in {seconds:.0f} s.")


def build(options):
    """Makes the data set that the flags describe; returns the contents of dataset.json.

    Raises:
      UserError: it cannot be made; says why in one sentence.
    """
    start = time.time()
    _check_flags(options)
    source = image_sources.find_source(
        options.source_dir,
        options.source_kind,
        options.seed,
        options.validation_fraction,
        options.validation_ground_truth,
        options.synset_list,
    )
    if not source.splits:
        raise UserError(f"{options.source_dir} has no images.")
    num_shards = {split: getattr(options, f"num_{split}_shards") for split in tfrecords.SPLITS}
    shards = dataset_builder.plan_shards(source, options.seed, num_shards)
    os.makedirs(options.output_dir, exist_ok=True)
    with dataset_builder.work_dir(options.output_dir):
        job = dataset_builder.Job(shards, options.output_dir, options.workers, options.on_bad_image)
        job.resume(options.overwrite)
        if job.entries:
            print(f"{len(job.entries)} of {len(shards)} shards are finished and intact.")
        else:
            _warn_of_full_disk(source, options.output_dir)
        job.run()
        info = job.finish(source, options.seed)
    _report(info, options.output_dir, time.time() - start)
    return info


def parse_arguments(argv=None):
    parser = Parser(__doc__)
    _add_source_flags(parser.add_argument)
    _add_shard_flags(parser.add_argument)
    parser.add_boolean("overwrite", False, "Replace shards in output_dir that are not of this job.")
    return parser.parse_args(argv)


def _add_source_flags(add):
    add("--source_dir", required=True, help="Directory of the images; see above.")
    add(
        "--source_kind",
        default="auto",
        choices=["auto", "imagenet", "folders"],
        help="What source_dir holds. auto: imagenet if it has ImageNet's tars or train/ has "
        "exactly ImageNet's 1,000 synsets, else folders.",
    )
    add(
        "--validation_ground_truth",
        help="ImageNet: text file with a synset, or an ILSVRC2012_ID, a line for each validation "
        "image. Default: the usual files' names in source_dir.",
    )
    add(
        "--synset_list",
        help="ImageNet: what the numbers in validation_ground_truth mean: the development kit's "
        "meta.mat, or a text file whose line i begins with the synset of number i, or with both. "
        "Default: meta.mat beside validation_ground_truth or in source_dir.",
    )
    add(
        "--validation_fraction",
        type=float,
        help="Folders without a validation set: the part of each class that becomes one, "
        "0 <= x < 1. Default: 0.1.",
    )
    add(
        "--on_bad_image",
        default="fail",
        choices=["fail", "skip"],
        help="fail: stop at an image that cannot be decoded. skip: leave it out, list it, "
        "and count it.",
    )


def _add_shard_flags(add):
    add(
        "--output_dir",
        type=local_place,
        required=True,
        help="Local directory for the shards; made if need be.",
    )
    add(
        "--num_train_shards",
        type=integer(1, _MOST_SHARDS),
        help="Default: 1024 for ImageNet; else shards of about 128 MB, but at least 16 so that "
        "eight devices have two each, and at least 16 images in a shard.",
    )
    add(
        "--num_validation_shards",
        type=integer(1, _MOST_SHARDS),
        help="Default: 128 for ImageNet; else as for num_train_shards.",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="Of the order of the images and of the validation set's choice.",
    )
    cores = len(os.sched_getaffinity(0))
    add("--workers", type=integer(1), default=cores, help="Processes. Default: one a core.")


def main():
    """Runs the program."""
    options = parse_arguments()
    # Pillow's warnings are about images that it decodes all the same.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        build(options)
    except (UserError, OSError, tf.errors.OpError) as error:
        sys.exit(f"build_tfrecords.py: {error}")
    except KeyboardInterrupt:
        sys.exit("build_tfrecords.py: interrupted; the same command goes on from here.")


if __name__ == "__main__":
    main()
