"""Makes TFRecord shards from images in several processes, and goes on where it was interrupted.

scripts/build_tfrecords.py says what the shards hold; its flags are those that the messages name.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import re

import tqdm

from common import files, limits
from common.data import image_files, image_sources, parallel, tfrecords
from common.errors import UserError

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
    text = json.dumps([contents, source.classes, image_files.JPEG_QUALITY])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def make_shard(shard, output_dir, on_bad_image):
    """Writes one shard, and beside it in the work directory what is known about it.

    Args:
      shard: a Shard.
      output_dir: directory that has a work directory.
      on_bad_image: 'fail' or 'skip'.

    Returns:
      What dataset.json says about the shard. It is not kept if it has no images.

    Raises:
      UserError: there is a bad image and on_bad_image is 'fail'.
    """
    converted, skipped = collections.Counter(), []
    work_path = os.path.join(output_dir, WORK_DIR, shard.name)
    examples = _examples(shard, on_bad_image, converted, skipped)
    records, size, digest = tfrecords.write_shard(work_path, examples)
    entry = {
        "name": shard.name,
        "images": records,
        "bytes": size,
        "sha256": digest,
        "fingerprint": shard.fingerprint,
        "converted": dict(converted),
        "skipped": skipped,
    }
    if records:
        # First what it is, then the shard: an interruption never leaves one of unknown origin.
        files.write_text(work_path + ".json", json.dumps(entry))
        files.move(work_path, os.path.join(output_dir, shard.name))
    return entry


def _examples(shard, on_bad_image, converted, skipped):
    """Yields the Examples of a shard; fills the counter and the list."""
    for image in shard.images:
        if parallel.stopping():
            raise concurrent.futures.CancelledError
        try:
            jpeg = image_files.to_jpeg(image_sources.read_image(image))
        except OSError as error:  # Of the disk or the network, not of the image: never left out.
            raise UserError(
                f"{_shown(image, shard)} cannot be read: {error.strerror or error}. Mend that, and "
                "run this again to go on."
            ) from error
        except ValueError as error:
            if on_bad_image == "fail":
                raise UserError(
                    f"{_shown(image, shard)} cannot be decoded: {error}. Replace it and run this "
                    "again, or leave out and list all such images with --on_bad_image=skip."
                ) from error
            skipped.append({"name": image.name, "reason": str(error)})
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


def _shown(image, shard):
    return f"{files.printable(image.name)} ({shard.split})"


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
        mine = {name: entry for name, entry in known.items() if self._is_mine(name, known)}
        skips = self._on_bad_image == "skip"
        tasks = {
            name: (entry, self._output_dir)
            for name, entry in mine.items()
            if skips or not entry["skipped"]
        }
        with contextlib.closing(parallel.run(is_intact, tasks, self._workers)) as checked:
            bar = tqdm.tqdm(checked, "Checking", len(tasks), unit=" finished shards", leave=False)
            self.entries = {name: mine[name] for name, intact in bar if intact}
        self._restart_work_dir(mine)
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
            for name, entry in results:
                shard = self._shards[name]
                for image in entry["skipped"]:
                    line = f"left out: {image['name']} ({shard.split}): {image['reason']}"
                    bar.write(files.printable(line))
                if not entry["images"]:
                    raise UserError(
                        f"{name} would be empty: all its images are bad; use fewer shards."
                    )
                self.entries[name] = entry
                bar.update(len(shard.images))

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
        tfrecords.write_labels(self._output_dir, names)
        tfrecords.write_dataset_info(self._output_dir, info)
        for name in self.entries:
            os.remove(os.path.join(self._work_dir, name + ".json"))
        return info

    def _present(self):
        pattern = re.compile(f"({'|'.join(tfrecords.SPLITS)})-\\d+-of-\\d+$")
        return sorted(name for name in os.listdir(self._output_dir) if pattern.match(name))

    def _is_mine(self, name, known):
        shard, entry = self._shards.get(name), known.get(name)
        return bool(shard and entry and entry.get("fingerprint") == shard.fingerprint)

    def _restart_work_dir(self, entries):
        """Leaves in the work directory what is known about shards of this job, and nothing else.

        Also about those that are to be made again: until then, they are not a stranger's.
        """
        for name, entry in entries.items():
            path = os.path.join(self._work_dir, name + ".json")
            files.write_text(path, json.dumps(entry))
        keep = {name + ".json" for name in entries} | {"lock"}
        for name in set(os.listdir(self._work_dir)) - keep:
            os.remove(os.path.join(self._work_dir, name))
        # It describes a whole data set, which for now there is not.
        if len(self.entries) < len(self._shards):
            files.remove(os.path.join(self._output_dir, tfrecords.DATASET_INFO))


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
                entry = limits.read_json(path)
                problem = tfrecords.shard_problem(entry)
            except UserError as error:
                problem = str(error)
            if problem:
                shard = name[: -len(".json")]
                raise UserError(f"{path} is damaged; remove it and the shard {shard}. ({problem})")
            entries[entry["name"]] = entry
    return entries


@contextlib.contextmanager
def work_dir(output_dir):
    """Makes the work directory, for one program at a time, and tidies it up."""
    directory = os.path.join(output_dir, WORK_DIR)
    os.makedirs(directory, exist_ok=True)
    lock = os.path.join(directory, "lock")
    try:
        # The workers of a program that was just killed hold its lock until they notice.
        with files.locked(lock, seconds=3):
            if not os.path.exists(lock):
                raise UserError(f"Another build_tfrecords.py has just finished {output_dir}.")
            try:
                yield
            finally:
                if os.listdir(directory) == ["lock"]:
                    files.remove(directory)
    except files.LockedError as error:
        raise UserError(f"Another build_tfrecords.py works in {output_dir}.") from error
