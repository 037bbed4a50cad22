"""Checks a data set of TFRecord shards: every byte, every image, every label.

    python scripts/check_data.py --data_dir=/data/imagenet

For each split: is the set of shards complete; does every record have the right CRC, an image that
decodes as training decodes it, and one label from 1 to the number of classes; and where there is a
dataset.json (scripts/build_tfrecords.py writes one), are the counts and checksums its own. Damage
is listed by file and record, counted from 0, and makes the exit status 1. What is odd but harmless
is only noted: an image of another format than JPEG in a JPEG's place, a class without images.
"""

import collections
import functools
import itertools
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# TensorFlow would log what is reported here with its file and record.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tqdm

import imagenet_records
from common import files, imagenet
from common.arguments import Parser, integer, output_file, place
from common.data import parallel, tfrecords
from common.errors import UserError
from common.runtime import tf

MAX_DAMAGE_LINES = 50
_CHECKED_TOGETHER = 256
_BYTES_TOGETHER = 64 << 20

# One thing wrong. file: base name, or None for the whole split; record: from 0, or None.
Damage = collections.namedtuple("Damage", "file record reason")


class SplitReport:
    """What was found in a split.

    Attributes:
      shards: number of files.
      missing: names of files that are not there.
      records: number of records that could be read, whatever is in them.
      bytes: size of the files.
      labels: Counter of the labels of sound records.
      notes: Counter of harmless oddities.
      damage: list of Damage.
    """

    def __init__(self):
        self.shards, self.records, self.bytes = 0, 0, 0
        self.missing, self.damage = [], []
        self.labels, self.notes = collections.Counter(), collections.Counter()

    def add(self, other):
        """Adds the counts and the damage of another report, of a single shard."""
        for name in ("shards", "records", "bytes", "labels", "notes", "damage"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add_record(self, file, checked):
        """Adds the next record of a file, as `imagenet_records.Checker` found it."""
        if checked.problem:
            self.damage.append(Damage(file, self.records, checked.problem))
        else:
            self.labels[checked.label] += 1
            if checked.image_format != "JPEG":
                self.notes[f"{checked.image_format} in a JPEG's place"] += 1
        self.records += 1

    def as_dict(self):
        """Returns the report in types that JSON has."""
        return {
            "shards": self.shards,
            "missing": self.missing,
            "records": self.records,
            "bytes": self.bytes,
            "classes_seen": len(self.labels),
            "notes": dict(self.notes),
            "damage": [damage._asdict() for damage in self.damage],
        }


def check_shard(path, num_label_classes, expected=None):
    """Reads one shard to its end, or to where it cannot be read any further.

    Args:
      path: of the file.
      num_label_classes: legal labels are 1..num_label_classes - 1.
      expected: what dataset.json says about this file, or None.

    Returns:
      A SplitReport.
    """
    report = SplitReport()
    report.shards = 1
    name = os.path.basename(path)
    report.bytes, digest = tfrecords.file_checksum(path)
    records, problem = tfrecords.scan_shard(path)
    try:
        # No further, where TensorFlow would reserve as much memory as a damaged header claims.
        for batch in _batches(itertools.islice(tf.io.tf_record_iterator(path), records)):
            if parallel.stopping():
                return report
            for checked in _checker(os.getpid(), num_label_classes).check(batch):
                report.add_record(name, checked)
    except tf.errors.DataLossError as error:
        if report.records < records:
            reason = f"is not as it was written: {error.message}"
            if report.records + 1 < records:
                reason += f"; {records - report.records - 1} records after it were not read"
            report.damage.append(Damage(name, report.records, reason))
    if problem:
        report.damage.append(Damage(name, records if report.bytes else None, problem))
    if expected and not report.damage:
        _compare_with_info(report, name, digest, expected)
    return report


@functools.lru_cache(maxsize=1)
def _checker(process, num_label_classes):
    """The checker of this process; a session does not survive a fork."""
    return imagenet_records.Checker(num_label_classes)


def _batches(records):
    """Lists of records; the last one also if the iterator fails behind it."""
    batch, size = [], 0
    try:
        for record in records:
            batch.append(record)
            size += len(record)
            if len(batch) == _CHECKED_TOGETHER or size > _BYTES_TOGETHER:
                yield batch
                batch, size = [], 0
    except tf.errors.DataLossError:
        yield batch
        raise
    if batch:
        yield batch


def _compare_with_info(report, name, digest, expected):
    if report.records != expected.get("images", report.records):
        reason = f"has {report.records} records; dataset.json says {expected['images']}"
        report.damage.append(Damage(name, None, reason))
    if digest != expected.get("sha256", digest):
        reason = f"has SHA-256 {digest[:16]}...; dataset.json says {expected['sha256'][:16]}..."
        report.damage.append(Damage(name, None, reason))


def check_data(data_dir, num_label_classes=None, workers=1):
    """Checks a data set.

    Args:
      data_dir: directory of the shards, flat or in train/ and validation/.
      num_label_classes: legal labels are 1..num_label_classes - 1; None takes dataset.json's
        number, or ImageNet's 1001.
      workers: number of processes.

    Returns:
      {split: SplitReport}, of the splits that are there or should be.

    Raises:
      UserError: there is no data set in data_dir, or its dataset.json is damaged.
    """
    info = tfrecords.read_dataset_info(data_dir)
    known = info["splits"] if info else {}
    num_label_classes = _num_label_classes(info, num_label_classes)
    paths = _find_splits(data_dir, known)
    reports = {split: SplitReport() for split in paths}
    tasks = {}
    for split, shards in paths.items():
        expected = {shard["name"]: shard for shard in known.get(split, {}).get("shards", [])}
        _check_shard_set(reports[split], shards, expected)
        for path in shards:
            arguments = path, num_label_classes, expected.get(os.path.basename(path))
            tasks[split, path] = arguments

    sizes = {name: tf.io.gfile.stat(name[1]).length for name in tasks}
    with tqdm.tqdm(total=sum(sizes.values()), desc="Checking", unit="B", unit_scale=True) as bar:
        results = {}
        for name, report in parallel.run(check_shard, tasks, max(1, min(workers, len(tasks)))):
            results[name] = report
            bar.update(sizes[name])
    for name in tasks:
        reports[name[0]].add(results[name])
    for split, report in reports.items():
        _note_empty_classes(report, num_label_classes)
        _check_total(report, known.get(split))
    if info:
        _check_labels_file(data_dir, info, reports)
    return reports


def _num_label_classes(info, flag):
    if flag is not None:
        number, source = flag, "--num_label_classes"
    elif info:
        number, source = info["num_label_classes"], tfrecords.DATASET_INFO
    else:
        number, source = imagenet.NUM_CLASSES + 1, f"ImageNet, without {tfrecords.DATASET_INFO}"
    print(f"Legal labels are 1..{number - 1} ({source}).")
    if info is None:
        print(f"There is no {tfrecords.DATASET_INFO} to compare counts and checksums with.")
    return number


def _find_splits(data_dir, known):
    """Returns {split: paths}; a split that dataset.json knows may have none."""
    paths, errors = {}, []
    for split in tfrecords.SPLITS:
        try:
            paths[split] = tfrecords.find_shards(data_dir, split)
        except tfrecords.NoShardsError as error:
            errors.append(error)
            if split in known:
                paths[split] = []
    if not paths:
        raise errors[0]
    for split in set(tfrecords.SPLITS) - set(paths):
        print(f"There are no {split} shards.")
    return paths


def _check_shard_set(report, paths, expected):
    """Finds out which files are missing, or there without being known."""
    names = {os.path.basename(path) for path in paths}
    try:
        missing = set(tfrecords.missing_shards(paths))
    except UserError as error:
        missing = set()
        report.damage.append(Damage(None, None, str(error)))
    report.missing = sorted(missing | (set(expected) - names))
    for name in report.missing:
        report.damage.append(Damage(name, None, "is missing"))
    if expected:
        for name in sorted(names - set(expected)):
            report.damage.append(Damage(name, None, "is not in dataset.json"))


def _note_empty_classes(report, num_label_classes):
    empty = num_label_classes - 1 - len(report.labels)
    if empty:
        report.notes["classes without images"] = empty


def _check_total(report, expected):
    # Where there is other damage, the number follows from that.
    if expected and not report.damage and report.records != expected["images"]:
        reason = f"{report.records} records were read; dataset.json says {expected['images']}"
        report.damage.append(Damage(None, None, reason))


def _check_labels_file(data_dir, info, reports):
    labels = tfrecords.read_labels(data_dir)
    if labels is not None and len(labels) != info["num_label_classes"]:
        reason = f"has {len(labels)} lines; dataset.json says {info['num_label_classes']} classes"
        next(iter(reports.values())).damage.append(Damage(tfrecords.LABELS, None, reason))


def print_reports(reports, seconds):
    """Prints damage, notes, and one summary table."""
    for split, report in reports.items():
        for damage in report.damage[:MAX_DAMAGE_LINES]:
            where = damage.file or split
            if damage.record is not None:
                where += f", record {damage.record}"
            print(f"DAMAGED  {where}: {damage.reason}")
        hidden = len(report.damage) - MAX_DAMAGE_LINES
        if hidden > 0:
            print(f"DAMAGED  {split}: and {hidden} more; --result has all.")
        for note, count in sorted(report.notes.items()):
            print(f"note     {split}: {count} {note}")
    header = "split", "shards", "missing", "records", "MB", "classes", "damage"
    rows = [
        (split, r.shards, len(r.missing), r.records, round(r.bytes / 1e6, 1), len(r.labels))
        + (len(r.damage),)
        for split, r in reports.items()
    ]
    print()
    for row in [header, *rows]:
        print(f"{row[0]:<12}" + "".join(f"{cell:>12}" for cell in row[1:]))
    records = sum(report.records for report in reports.values())
    print(f"\n{records} records in {seconds:.1f} s, {records / seconds:.0f} a second.")


def parse_arguments(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", type=place, required=True, help="Directory of the shards.")
    parser.add_argument(
        "--num_label_classes",
        type=integer(2),
        help="Number of classes with background, label 0, which no image may have. Default: what "
        "dataset.json says, else 1001.",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--workers", type=integer(1), default=cores, help="Processes. Default: one a core."
    )
    parser.add_argument("--result", type=output_file, help="JSON file for the whole report.")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the program."""
    options = parse_arguments(argv)
    tf.logging.set_verbosity(tf.logging.ERROR)
    start = time.time()
    try:
        reports = check_data(options.data_dir, options.num_label_classes, options.workers)
    except (UserError, OSError, tf.errors.OpError) as error:
        sys.exit(f"check_data.py: {error}")
    except KeyboardInterrupt:
        sys.exit("check_data.py: interrupted.")
    seconds = time.time() - start
    print_reports(reports, seconds)
    damage = sum(len(report.damage) for report in reports.values())
    verdict = f"{damage} problem{'s' * (damage > 1)}" if damage else "sound"
    print(f"{options.data_dir}: {verdict}.")
    if options.result:
        result = {
            "data_dir": options.data_dir,
            "ok": not damage,
            "seconds": round(seconds, 3),
            "splits": {split: report.as_dict() for split, report in reports.items()},
        }
        try:
            files.write_text(options.result, json.dumps(result, indent=2, sort_keys=True) + "\n")
        except (OSError, tf.errors.OpError) as error:
            sys.exit(f"check_data.py: --result={options.result}: {error}")
    sys.exit(1 if damage else 0)


if __name__ == "__main__":
    main()
