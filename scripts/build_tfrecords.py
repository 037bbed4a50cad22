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
BMP, WebP, TIFF and CMYK JPEG become RGB JPEG of quality 95, whatever the file's name says;
transparent parts turn white, 16 bits become 8. An EXIF orientation is not applied, neither here nor
in training. Every image is decoded once; a broken one stops the program with its name, or is left
out, listed and counted (--on_bad_image=skip).

The same source, seed and numbers of shards make the same bytes, with any number of workers. A
program that was interrupted, however hard, goes on where it was when called again: what has been
finished is checked against its SHA-256 and kept. Shards that are not of the same job are an error,
unless --overwrite says to replace them.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import sys
import time
import warnings

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import tqdm
from absl import app, flags

from common import files
from common.data import image_sources, parallel, tfrecords
from common.errors import UserError
from common.runtime import tf

BYTES_PER_SHARD = 128 << 20
MIN_SHARDS = 16
MIN_IMAGES_PER_SHARD = 16
IMAGENET_SHARDS = {"train": 1024, "validation": 128}
# Everything unfinished is in here, and it goes when the job is done.
WORK_DIR = ".build_tfrecords"

# One output file, and the unit of work. fingerprint: of everything that decides its contents.
Shard = collections.namedtuple("Shard", "split name images classes fingerprint")


def plan_shards(source, seed, num_shards):
    """Deals the images of every split out to its shards, in an order that the seed decides.

    Args:
      source: a Source.
      seed: int.
      num_shards: {split: number of shards, or None for the default}.

    Returns:
      List of Shards.

    Raises:
      UserError: there are more shards than images.
    """
    shards = []
    for split, images in source.splits.items():
        total = num_shards[split] or _default_shards(source.kind, split, images)
        if total > len(images):
            raise UserError(
                f"--num_{split}_shards: {total} shards cannot be made of {len(images)} images."
            )
        images = sorted(images, key=lambda image: image.name)
        random.Random(f"{seed}/order/{split}").shuffle(images)
        for index in range(total):
            name = tfrecords.shard_name(split, index, total)
            part = images[index * len(images) // total : (index + 1) * len(images) // total]
            shards.append(Shard(split, name, part, source.classes, _fingerprint(part, source)))
    return shards


def _default_shards(kind, split, images):
    if kind == "imagenet":
        return min(IMAGENET_SHARDS[split], len(images))
    by_size = -(-sum(image.size for image in images) // BYTES_PER_SHARD)
    return max(1, min(max(by_size, MIN_SHARDS), len(images) // MIN_IMAGES_PER_SHARD))


def _fingerprint(images, source):
    contents = [(image.name, image.size, image.label) for image in images]
    # Where the source is does not matter, so that it can be moved between two runs.
    text = json.dumps([contents, source.classes, image_sources.JPEG_QUALITY])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def make_shard(shard, output_dir, on_bad_image):
    """Writes one shard, and beside it in the work directory what is known about it.

    Args:
      shard: a Shard.
      output_dir: directory that has a work directory.
      on_bad_image: 'fail' or 'skip'.

    Returns:
      (entry, bad): what dataset.json says about the shard, or None if there was a bad image and
      on_bad_image is 'fail'; and the list of {'name', 'reason'} of bad images.
    """
    converted, skipped = collections.Counter(), []
    work_path = os.path.join(output_dir, WORK_DIR, shard.name)
    examples = _examples(shard, on_bad_image, converted, skipped)
    records, size, digest = tfrecords.write_shard(work_path, examples)
    if not records or (skipped and on_bad_image == "fail"):
        os.remove(work_path)
        return None, skipped
    entry = {
        "name": shard.name,
        "images": records,
        "bytes": size,
        "sha256": digest,
        "fingerprint": shard.fingerprint,
        "converted": dict(converted),
        "skipped": skipped,
    }
    # First what it is, then the shard: an interruption never leaves a shard of unknown origin.
    files.write_text(work_path + ".json", json.dumps(entry))
    os.replace(work_path, os.path.join(output_dir, shard.name))
    return entry, skipped


def _examples(shard, on_bad_image, converted, skipped):
    """Yields the Examples of a shard; fills the counter and the list."""
    for image in shard.images:
        if parallel.stopping():
            raise concurrent.futures.CancelledError
        try:
            jpeg = image_sources.to_jpeg(image_sources.read_image(image))
        except ValueError as error:
            skipped.append({"name": image.name, "reason": str(error)})
            if on_bad_image == "fail":
                return
            continue
        if jpeg.converted_from:
            converted[jpeg.converted_from] += 1
        synset, text = shard.classes[image.label - 1]
        yield tfrecords.image_example(
            jpeg.encoded,
            image.label,
            height=jpeg.height,
            width=jpeg.width,
            text=text,
            filename=os.fsencode(os.path.basename(image.name)),
            synset=synset,
            colorspace="RGB" if jpeg.channels == 3 else "Grayscale",
            channels=jpeg.channels,
        )


def is_intact(entry, output_dir):
    """Returns whether a shard is what its entry says."""
    path = os.path.join(output_dir, entry["name"])
    expected = entry["bytes"], entry["sha256"]
    return os.path.exists(path) and tfrecords.file_checksum(path) == expected


class Job:
    """The making of one data set: what has been done, and what is to do.

    Attributes:
      entries: {shard's name: what dataset.json says about it}, of finished shards.
    """

    def __init__(self, shards, output_dir, workers, on_bad_image):
        self.entries = {}
        self._shards = {shard.name: shard for shard in shards}
        self._output_dir = output_dir
        self._work_dir = os.path.join(output_dir, WORK_DIR)
        self._on_bad_image = on_bad_image
        self._workers = min(workers, len(shards))

    def resume(self, overwrite):
        """Finds finished shards of this job, and clears away the rest.

        Raises:
          UserError: there are shards of something else, and they are not to be overwritten.
        """
        known = _read_entries(self._output_dir)
        strangers = [name for name in self._present() if not self._is_mine(name, known)]
        if strangers and not overwrite:
            raise UserError(
                f"{self._output_dir} has {len(strangers)} shards that are not of this job, first "
                f"{strangers[0]}: made from other images, with another seed or number of shards, "
                "or by another program; choose another --output_dir, or replace them with "
                "--overwrite."
            )
        mine = {n: e for n, e in known.items() if n in self._shards and self._is_mine(n, known)}
        if self._on_bad_image == "fail":
            mine = {name: entry for name, entry in mine.items() if not entry["skipped"]}
        tasks = {name: (entry, self._output_dir) for name, entry in mine.items()}
        with contextlib.closing(parallel.run(is_intact, tasks, self._workers)) as checked:
            bar = tqdm.tqdm(checked, "Checking", len(tasks), unit=" finished shards", leave=False)
            self.entries = {name: mine[name] for name, intact in bar if intact}
        self._restart_work_dir()
        for name in strangers:
            os.remove(os.path.join(self._output_dir, name))

    def run(self):
        """Makes the shards that are lacking.

        Raises:
          UserError: there was a bad image and none is to be skipped.
        """
        todo = [shard for name, shard in self._shards.items() if name not in self.entries]
        if not todo:
            return
        total = sum(len(shard.images) for shard in self._shards.values())
        done = total - sum(len(shard.images) for shard in todo)
        tasks = {shard.name: (shard, self._output_dir, self._on_bad_image) for shard in todo}
        made = contextlib.closing(parallel.run(make_shard, tasks, self._workers))
        bar = tqdm.tqdm(total=total, initial=done, desc="Converting", unit=" images")
        with made as results, bar:
            for name, (entry, bad) in results:
                self._take(name, entry, bad)
                bar.update(len(self._shards[name].images))

    def finish(self, source, seed):
        """Writes labels.txt and dataset.json, and removes the work directory."""
        splits = {}
        for name, shard in self._shards.items():
            splits.setdefault(shard.split, []).append(self.entries[name])
        info = {
            "format_version": 1,
            "source": source.kind,
            "seed": seed,
            "num_classes": len(source.classes),
            "num_label_classes": len(source.classes) + 1,
            "classes": [short for short, _ in source.classes],
            "splits": {split: _summary(entries) for split, entries in splits.items()},
        }
        names = ["background"] + [text for _, text in source.classes]
        labels = os.path.join(self._output_dir, tfrecords.LABELS)
        files.write_text(labels, "\n".join(names) + "\n")
        tfrecords.write_dataset_info(self._output_dir, info)
        for name in self.entries:
            os.remove(os.path.join(self._work_dir, name + ".json"))
        return info

    def _take(self, name, entry, bad):
        split = self._shards[name].split
        if bad and self._on_bad_image == "fail":
            raise UserError(
                f"{bad[0]['name']} ({split}) cannot be decoded: {bad[0]['reason']}. Replace it and "
                "run this again, or leave out and list all such images with --on_bad_image=skip."
            )
        for image in bad:
            tqdm.tqdm.write(f"left out: {image['name']} ({split}): {image['reason']}")
        if entry is None:
            raise UserError(f"{name} would be empty: all its images are bad; use fewer shards.")
        self.entries[name] = entry

    def _present(self):
        pattern = re.compile(f"({'|'.join(tfrecords.SPLITS)})-\\d+-of-\\d+$")
        return sorted(name for name in os.listdir(self._output_dir) if pattern.match(name))

    def _is_mine(self, name, known):
        shard, entry = self._shards.get(name), known.get(name)
        return bool(shard and entry and entry.get("fingerprint") == shard.fingerprint)

    def _restart_work_dir(self):
        """Leaves in the work directory what is known about finished shards, and nothing else."""
        for name, entry in self.entries.items():
            path = os.path.join(self._work_dir, name + ".json")
            files.write_text(path, json.dumps(entry))
        keep = {name + ".json" for name in self.entries} | {"lock"}
        for name in set(os.listdir(self._work_dir)) - keep:
            os.remove(os.path.join(self._work_dir, name))
        # It describes a whole data set, which for now there is not.
        if len(self.entries) < len(self._shards):
            info = os.path.join(self._output_dir, tfrecords.DATASET_INFO)
            if os.path.exists(info):
                os.remove(info)


def _summary(entries):
    """Returns what dataset.json says about a split."""
    converted = collections.Counter()
    for entry in entries:
        converted.update(entry["converted"])
    return {
        "images": sum(entry["images"] for entry in entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "num_shards": len(entries),
        "converted": dict(converted),
        "skipped": [image for entry in entries for image in entry["skipped"]],
        "shards": entries,
    }


def _read_entries(output_dir):
    """Returns {shard's name: entry}, from a finished data set and from an interrupted job."""
    entries = {}
    info = tfrecords.read_dataset_info(output_dir) or {"splits": {}}
    for split in info["splits"].values():
        entries.update((entry["name"], entry) for entry in split["shards"])
    work_dir = os.path.join(output_dir, WORK_DIR)
    for name in sorted(os.listdir(work_dir)):
        if name.endswith(".json") and not name.startswith("."):
            path = os.path.join(work_dir, name)
            try:
                with open(path, encoding="utf-8") as file:
                    entry = json.load(file)
            except ValueError as error:
                shard = name[: -len(".json")]
                raise UserError(f"{path} is damaged; remove it and the shard {shard}.") from error
            entries[entry["name"]] = entry
    return entries


def _check_flags(options):
    """Raises UserError for a flag that is wrong whatever the source holds."""
    for name in ("source_dir", "output_dir"):
        if not getattr(options, name):
            raise UserError(f"--{name} is needed.")
    if not os.path.isdir(options.source_dir):
        raise UserError(f"--source_dir={options.source_dir} is not a directory.")
    if "://" in options.output_dir or os.path.isfile(options.output_dir):
        raise UserError(f"--output_dir={options.output_dir} must be a local directory.")
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


@contextlib.contextmanager
def _work_dir(output_dir):
    """Makes the work directory, for one program at a time, and tidies it up."""
    work_dir = os.path.join(output_dir, WORK_DIR)
    os.makedirs(work_dir, exist_ok=True)
    lock = os.path.join(work_dir, "lock")
    try:
        # The workers of a program that was just killed hold its lock until they notice.
        with files.locked(lock, seconds=3):
            if not os.path.exists(lock):
                raise UserError(f"Another build_tfrecords.py has just finished {output_dir}.")
            try:
                yield
            finally:
                if os.listdir(work_dir) == ["lock"]:
                    shutil.rmtree(work_dir)
    except files.LockedError as error:
        raise UserError(f"Another build_tfrecords.py works in {output_dir}.") from error


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
    shards = plan_shards(source, options.seed, num_shards)
    os.makedirs(options.output_dir, exist_ok=True)
    with _work_dir(options.output_dir):
        workers = options.workers or len(os.sched_getaffinity(0))
        job = Job(shards, options.output_dir, workers, options.on_bad_image)
        job.resume(options.overwrite)
        if job.entries:
            print(f"{len(job.entries)} of {len(shards)} shards are finished and intact.")
        else:
            _warn_of_full_disk(source, options.output_dir)
        job.run()
        info = job.finish(source, options.seed)
    _report(info, options.output_dir, time.time() - start)
    return info


def define_flags(values=flags.FLAGS):
    """Defines the flags; not on import, so that another program may have its own."""
    flags.DEFINE_string(
        "source_dir", None, "Directory of the images; see above.", flag_values=values
    )
    flags.DEFINE_string(
        "output_dir", None, "Local directory for the shards; made if need be.", flag_values=values
    )
    flags.DEFINE_enum(
        "source_kind",
        "auto",
        ["auto", "imagenet", "folders"],
        "What source_dir holds. auto: imagenet if it has ImageNet's tars or train/ has exactly "
        "ImageNet's 1,000 synsets, else folders.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "validation_ground_truth",
        None,
        "ImageNet: text file with a synset, or an ILSVRC2012_ID, a line for each validation image. "
        "Default: the usual files' names in source_dir.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "synset_list",
        None,
        "ImageNet: what the numbers in validation_ground_truth mean: the development kit's "
        "meta.mat, or a text file whose line i begins with the synset of number i, or with both. "
        "Default: meta.mat beside validation_ground_truth or in source_dir.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "validation_fraction",
        None,
        "Folders without a validation set: the part of each class that becomes one, 0 <= x < 1. "
        "Default: 0.1.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_train_shards",
        None,
        "Default: 1024 for ImageNet; else shards of about 128 MB, but at least 16 so that eight "
        "devices have two each, and at least 16 images in a shard.",
        lower_bound=1,
        upper_bound=99999,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_validation_shards",
        None,
        "Default: 128 for ImageNet; else as for num_train_shards.",
        lower_bound=1,
        upper_bound=99999,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Of the order of the images and of the validation set's choice.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "workers", None, "Processes; default: one a core.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "on_bad_image",
        "fail",
        ["fail", "skip"],
        "fail: stop at an image that cannot be decoded. skip: leave it out, list and count it.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Replace shards in output_dir that are not of this job.",
        flag_values=values,
    )


def main(argv):
    """Runs the program."""
    if len(argv) > 1:
        sys.exit(f"build_tfrecords.py: {argv[1]!r} is not a flag; see --help.")
    # Pillow's warnings are about images that it decodes all the same.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        build(flags.FLAGS)
    except (UserError, OSError, tf.errors.OpError) as error:
        sys.exit(f"build_tfrecords.py: {error}")
    except KeyboardInterrupt:
        sys.exit("build_tfrecords.py: interrupted; the same command goes on from here.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
