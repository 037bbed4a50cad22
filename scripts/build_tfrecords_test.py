"""Tests of build_tfrecords.py, run as people run it."""

import errno
import fcntl
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from helpers import ROOT, encode, noise, run
from PIL import Image

from common import imagenet
from common.data import dataset_builder, image_sources, tfrecords
from common.errors import UserError
from common.runtime import tf
from scripts import build_tfrecords

WNIDS = [wnid for wnid, _ in imagenet.synsets()]
# The real names of one of the irregular files each.
PNG_NAMED_JPEG = "n02105855_2933.JPEG"
CMYK_JPEG = "n01739381_1309.JPEG"


def _paths(source_dir, output_dir):
    return [f"--source_dir={source_dir}", f"--output_dir={output_dir}"]


def _build(source_dir, output_dir, *flags, status=0):
    """Runs the program; returns its (standard output, standard error)."""
    command = "scripts/build_tfrecords.py", *_paths(source_dir, output_dir), "--workers=2", *flags
    ended = run(*command, status=status)
    return ended.out, ended.err


@functools.lru_cache(maxsize=None)
def _encode(seed, image_format="JPEG", mode="RGB"):
    return encode(noise(seed, mode=mode), image_format)


def _make_folders(root, classes=("ant", "bee", "cat"), images=20, suffix="jpg", **options):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(images):
            path = root / name / f"{i:03d}.{suffix}"
            path.write_bytes(_encode(10 * c + i % 10, **options))
    return root


def _read(data_dir, split):
    """Returns the features of a split's records, by file name."""
    features = {}
    for path in tfrecords.find_shards(str(data_dir), split):
        for record in tf.io.tf_record_iterator(path):
            feature = tf.train.Example.FromString(record).features.feature
            features[feature["image/filename"].bytes_list.value[0].decode()] = feature
    return features


def _label(feature):
    return feature["image/class/label"].int64_list.value[0]


def _encoded(feature):
    return feature["image/encoded"].bytes_list.value[0]


def _contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _tar_of(path, members):
    with tarfile.open(str(path), "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _imagenet_file(wnid, i):
    if wnid == PNG_NAMED_JPEG[:9]:
        return PNG_NAMED_JPEG, _encode(i, "PNG")
    if wnid == CMYK_JPEG[:9]:
        return CMYK_JPEG, _encode(i, mode="CMYK")
    return f"{wnid}_{i + 10}.JPEG", _encode(i)


@pytest.fixture(scope="module")
def imagenet_tars(tmp_path_factory):
    """ImageNet as it is distributed, with one image a synset and twenty to validate on."""
    root = tmp_path_factory.mktemp("ILSVRC2012")
    outer = []
    for i, wnid in enumerate(WNIDS):
        inner = root / "inner.tar"
        _tar_of(inner, [_imagenet_file(wnid, i)])
        outer.append((f"{wnid}.tar", inner.read_bytes()))
        inner.unlink()
    _tar_of(root / "ILSVRC2012_img_train.tar", outer)
    validation = [(f"ILSVRC2012_val_{i:08d}.JPEG", _encode(5000 + i)) for i in range(1, 21)]
    _tar_of(root / "ILSVRC2012_img_val.tar", validation)
    # The kit's own numbering, here backwards: image i shows number i, which has label 1001 - i.
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "".join(f"{i}\n" for i in range(1, 21))
    )
    (root / "synsets_by_id.txt").write_text("\n".join(reversed(WNIDS)))
    return root


_tars = pytest.mark.xdist_group("imagenet_tars")  # Which take long to make.


def _imagenet_flags(root):
    return f"--synset_list={root / 'synsets_by_id.txt'}", "--num_train_shards=8"


@_tars
def test_imagenet_from_tars(imagenet_tars, tmp_path):
    output, _ = _build(imagenet_tars, tmp_path, *_imagenet_flags(imagenet_tars))
    assert "1 CMYK JPEG, 1 PNG" in output

    train = _read(tmp_path, "train")
    assert len(train) == 1000
    for i, wnid in enumerate(WNIDS):
        name, data = _imagenet_file(wnid, i)
        feature = train[name]
        assert _label(feature) == i + 1
        assert feature["image/class/synset"].bytes_list.value == [wnid.encode()]
        if name in (PNG_NAMED_JPEG, CMYK_JPEG):
            with Image.open(io.BytesIO(_encoded(feature))) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 16))
        else:
            assert _encoded(feature) == data
    assert train[PNG_NAMED_JPEG]["image/class/text"].bytes_list.value[0].startswith(b"Shetland")

    validation = _read(tmp_path, "validation")
    assert [_label(validation[f"ILSVRC2012_val_{i:08d}.JPEG"]) for i in range(1, 21)] == list(
        range(1000, 980, -1)
    )

    labels = tfrecords.read_labels(str(tmp_path))
    assert len(labels) == 1001
    assert labels[:2] == ["background", "tench, Tinca tinca"]
    info = tfrecords.read_dataset_info(str(tmp_path))
    assert (info["source"], info["num_classes"], info["num_label_classes"]) == (
        "imagenet",
        1000,
        1001,
    )
    assert info["splits"]["train"]["images"] == 1000
    assert info["splits"]["train"]["num_shards"] == 8
    assert info["splits"]["validation"]["images"] == 20


@_tars
def test_imagenet_from_folders_makes_the_same_shards(imagenet_tars, tmp_path):
    source, shards = tmp_path / "extracted", tmp_path / "shards"
    with tarfile.open(str(imagenet_tars / "ILSVRC2012_img_train.tar")) as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                inner.extractall(str(source / "train" / member.name[:9]))
    with tarfile.open(str(imagenet_tars / "ILSVRC2012_img_val.tar")) as tar:
        tar.extractall(str(source / "val"))
    truth = imagenet_tars / "ILSVRC2012_validation_ground_truth.txt"
    flags = _imagenet_flags(imagenet_tars)
    _build(source, shards, f"--validation_ground_truth={truth}", *flags)
    _build(imagenet_tars, tmp_path / "from_tars", *flags)
    assert _contents(shards) == _contents(tmp_path / "from_tars")


class TestFolders:
    def test_contents(self, tmp_path):
        source = _make_folders(tmp_path / "photos", images=200)
        output, _ = _build(source, tmp_path / "out")
        assert "3 classes" in output
        info = tfrecords.read_dataset_info(str(tmp_path / "out"))
        assert info["num_label_classes"] == 4
        assert info["splits"]["train"]["images"] == 540
        assert info["splits"]["validation"]["images"] == 60
        assert tfrecords.read_labels(str(tmp_path / "out")) == ["background", "ant", "bee", "cat"]
        for split in tfrecords.SPLITS:
            shards = tfrecords.find_shards(str(tmp_path / "out"), split)
            assert not tfrecords.missing_shards(shards)
            contents = info["splits"][split]
            assert tfrecords.count_records(shards) == contents["images"]
            assert [os.path.basename(p) for p in shards] == [s["name"] for s in contents["shards"]]
            for path, shard in zip(shards, contents["shards"]):
                assert tfrecords.file_checksum(path) == (shard["bytes"], shard["sha256"])
                labels = [
                    _label(tf.train.Example.FromString(record).features.feature)
                    for record in tf.io.tf_record_iterator(path)
                ]
                assert set(labels) == {1, 2, 3}
                assert labels != sorted(labels)
        assert ".build_tfrecords" not in os.listdir(str(tmp_path / "out"))

    def test_same_bytes_with_any_number_of_workers(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        _build(source, tmp_path / "two", "--num_train_shards=5")
        _build(source, tmp_path / "one", "--num_train_shards=5", "--workers=1")
        _build(source, tmp_path / "seed", "--num_train_shards=5", "--seed=7")
        assert _contents(tmp_path / "one") == _contents(tmp_path / "two")
        assert _contents(tmp_path / "one") != _contents(tmp_path / "seed")

    def test_second_call_does_nothing(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        _build(source, tmp_path / "out")
        times = {path: path.stat().st_mtime for path in (tmp_path / "out").glob("train-*")}
        output, _ = _build(source, tmp_path / "out")
        assert "are finished and intact" in output
        assert {path: path.stat().st_mtime for path in times} == times

    def test_damaged_shard_is_made_again(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        _build(source, tmp_path / "out", "--num_train_shards=4")
        contents = _contents(tmp_path / "out")
        (tmp_path / "out" / "train-00002-of-00004").write_bytes(b"damaged")
        (tmp_path / "out" / "train-00003-of-00004").unlink()
        output, _ = _build(source, tmp_path / "out", "--num_train_shards=4")
        assert "3 of 5 shards are finished" in output
        assert _contents(tmp_path / "out") == contents


# The program, whose workers stop for ever inside the first shard each with a number of at least
# sys.argv[1]; then there is a file stalled-NUMBER in the directory sys.argv[2].
_STALLING = """
import os, sys, time
from common.data import tfrecords
from scripts import build_tfrecords

first, directory = int(sys.argv.pop(1)), sys.argv.pop(1)
write_shard = tfrecords.write_shard

def write(path, examples):
    number = int(os.path.basename(path).split("-")[1])
    return write_shard(path, stall(number, examples) if number >= first else examples)

def stall(number, examples):
    yield next(examples)
    open(f"{directory}/stalled-{number}", "w").close()
    time.sleep(3600)

tfrecords.write_shard = write
build_tfrecords.main()
"""


def _kill_while_running(arguments, output_dir, shards, tmp_path):
    """Starts the program with two workers, and kills it when so many shards are finished."""
    program = [sys.executable, "-c", _STALLING, str(shards), str(tmp_path)]
    process = subprocess.Popen([*program, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    stalled = [tmp_path / f"stalled-{number}" for number in (shards, shards + 1)]
    while not all(path.exists() for path in stalled):
        assert process.poll() is None, "the program ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with open(output_dir / dataset_builder.WORK_DIR / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # The workers have noticed.


def test_killed_and_restarted(tmp_path):
    source = _make_folders(tmp_path / "photos", ("ant", "bee"), 60)
    flags = "--num_train_shards=24", "--num_validation_shards=2"
    _build(source, tmp_path / "whole", *flags)
    arguments = [*_paths(source, tmp_path / "out"), "--workers=2", *flags]
    for shards in (3, 10):
        _kill_while_running(arguments, tmp_path / "out", shards, tmp_path)
        assert len(list((tmp_path / "out").glob("train-*"))) == shards
        # Half a data set must not look like a whole one.
        assert not (tmp_path / "out" / "dataset.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train-*")}
    output, _ = _build(source, tmp_path / "out", *flags)
    assert "of 26 shards are finished and intact" in output
    kept = sum(path.stat().st_mtime_ns == mtime for path, mtime in finished.items())
    assert kept == len(finished) == 10
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


class TestBadImages:
    @pytest.fixture
    def source(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        truncated = source / "bee" / "003.jpg"
        truncated.write_bytes(truncated.read_bytes()[:-20])
        (source / "cat" / "005.jpg").write_bytes(b"")
        return source

    def test_fail(self, source, tmp_path):
        _, error = _build(source, tmp_path / "out", "--num_train_shards=10", status=1)
        assert "bee/003.jpg" in error or "cat/005.jpg" in error
        assert "Traceback" not in error
        assert not (tmp_path / "out" / "dataset.json").exists()
        for path in (tmp_path / "out").glob("train-*"):
            assert tfrecords.count_records([str(path)])

    def test_skip(self, source, tmp_path):
        # What is finished under one rule counts under the other if it has no image left out.
        flags = "--validation_fraction=0", "--num_train_shards=10"
        _build(source, tmp_path / "out", *flags, status=1)
        output, _ = _build(source, tmp_path / "out", *flags, "--on_bad_image=skip")
        assert "left out: bee/003.jpg (train): " in output
        contents = tfrecords.read_dataset_info(str(tmp_path / "out"))["splits"]["train"]
        assert contents["images"] == 58
        skipped = sorted(contents["skipped"], key=lambda image: image["name"])
        assert [image["name"] for image in skipped] == ["bee/003.jpg", "cat/005.jpg"]
        assert skipped[1]["reason"] == "is empty"
        whole = _contents(tmp_path / "out")
        _, error = _build(source, tmp_path / "out", *flags, status=1)
        assert "cannot be decoded" in error
        output, _ = _build(source, tmp_path / "out", *flags, "--on_bad_image=skip")
        assert "10 of 10 shards are finished" in output
        assert _contents(tmp_path / "out") == whole

    def test_what_is_to_be_made_again_stays_this_jobs(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        flags = "--validation_fraction=0", "--num_train_shards=1"
        _build(source, tmp_path / "out", *flags)
        whole = _contents(tmp_path / "out")
        (tmp_path / "out" / "train-00000-of-00001").write_bytes(b"damaged")
        image = source / "bee" / "003.jpg"
        good = image.read_bytes()
        image.write_bytes(bytes(len(good)))
        _build(source, tmp_path / "out", *flags, status=1)
        image.write_bytes(good)
        _build(source, tmp_path / "out", *flags)
        assert _contents(tmp_path / "out") == whole

    def test_image_that_cannot_be_read(self, tmp_path, monkeypatch):
        """A disk's fault is not the image's: that is named, and not left out."""

        def fail(image):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(image_sources, "read_image", fail)
        source = image_sources.find_source(str(_make_folders(tmp_path / "photos")), fraction=0.0)
        (shard,) = dataset_builder.plan_shards(source, 0, {"train": 1})
        (tmp_path / dataset_builder.WORK_DIR).mkdir()
        with pytest.raises(UserError, match=r"\w+/\d+.jpg \(train\) cannot be read: Input/output"):
            dataset_builder.make_shard(shard, str(tmp_path), "skip")


class TestOtherJobs:
    def test_needs_overwrite(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        _build(source, tmp_path / "out", "--num_train_shards=4")
        before = _contents(tmp_path / "out")
        _, error = _build(source, tmp_path / "out", "--num_train_shards=3", status=1)
        assert "4 shards that are not of this job" in error
        assert _contents(tmp_path / "out") == before
        _build(source, tmp_path / "out", "--num_train_shards=3", "--overwrite")
        shards = tfrecords.find_shards(str(tmp_path / "out"), "train")
        assert len(shards) == 3
        assert tfrecords.count_records(shards) == 54
        info = tfrecords.read_dataset_info(str(tmp_path / "out"))
        assert info["splits"]["train"]["num_shards"] == 3

    def test_shards_of_unknown_origin(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "train-00000-of-00001").write_bytes(b"precious")
        _, error = _build(source, tmp_path / "out", "--num_train_shards=1", status=1)
        assert "1 shards that are not of this job, first train-00000-of-00001" in error
        assert (tmp_path / "out" / "train-00000-of-00001").read_bytes() == b"precious"


class TestWrongFlags:
    """Each ends the program with one sentence; run in this process where that is quicker."""

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--on_bad_image=ignore", "--seed=x"], "--on_bad_image: invalid choice: 'ignore'"),
            (["--num_train_shards=0"], "--num_train_shards: 0: expected an integer from 1"),
            (["stray"], "unrecognized arguments: stray"),
        ],
    )
    def test_program(self, tmp_path, flags, message):
        source = _make_folders(tmp_path / "photos", images=1)
        _, error = _build(source, tmp_path / "out", *flags, status=1)
        assert "Traceback" not in error
        assert message in error

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--validation_fraction=1.5", "--validation_fraction=1.5 must be at least 0"),
            ("--num_train_shards=55", "--num_train_shards: 55 shards cannot be made of 54 images"),
            ("--source_dir=/nowhere", "--source_dir=/nowhere is not a directory"),
            ("--synset_list=/nowhere", "--synset_list=/nowhere is not a file"),
        ],
    )
    def test_messages(self, tmp_path, flag, message):
        source = _make_folders(tmp_path / "photos")
        with pytest.raises(UserError, match=message):
            build_tfrecords.build(_options(source, tmp_path / "out", flag))

    def test_output_that_is_not_local(self, tmp_path):
        message = "argument --output_dir: gs://bucket/x must be a local directory."
        with pytest.raises(SystemExit, match=message):
            _options(tmp_path, "gs://bucket/x")

    def test_output_in_the_source(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        with pytest.raises(UserError, match="must be outside of --source_dir"):
            build_tfrecords.build(_options(source, source / "shards"))

    def test_output_with_the_other_layout(self, tmp_path):
        source = _make_folders(tmp_path / "photos")
        (tmp_path / "out" / "train").mkdir(parents=True)
        (tmp_path / "out" / "train" / "train-00000-of-00001").write_bytes(b"")
        with pytest.raises(UserError, match="has shards in train/ already"):
            build_tfrecords.build(_options(source, tmp_path / "out"))


def _options(source_dir, output_dir, *flags):
    """The flags, as the program sees them."""
    return build_tfrecords.parse_arguments([*_paths(source_dir, output_dir), *flags])


def test_report_is_valid_json(tmp_path):
    source = _make_folders(tmp_path / "photos", ("n01440764",), 4, "png", image_format="PNG")
    _build(source, tmp_path / "out", "--validation_fraction=0")
    info = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert info["classes"] == ["n01440764"]
    assert list(info["splits"]) == ["train"]
    assert info["splits"]["train"]["converted"] == {"PNG": 4}
