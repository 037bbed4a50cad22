"""Tests of the input pipeline: order, shares, seeds, and every kind of damage."""

import collections
import functools
import itertools
import os
import re
import shutil

import numpy as np
import pytest
from helpers import (
    TINY,
    claim_length,
    deal,
    encode,
    flags,
    flip,
    noise,
    run,
    tiny_hparams,
    write_shards,
)
from PIL import Image

import imagenet_input
import imagenet_records
from common import results
from common.data import tfrecords
from common.errors import UserError
from common.runtime import tf
from scripts import check_data
from scripts.faults import fuzz_input

NUM_CLASSES = 101
IMAGES = 40
SHARDS = 4
BATCH = 8


def _encode(seed, image_format="JPEG", size=24):
    return encode(noise(seed % 1000, 6).resize((size, size), Image.BILINEAR), image_format)


def _example(label, encoded=None):
    encoded = _encode(label) if encoded is None else encoded
    return tfrecords.image_example(encoded, label, height=24, width=24)


def _write(directory, split="train", images=IMAGES, shards=SHARDS, replaced=None):
    """Writes images labelled 1, 2, 3 ...; `replaced` {label: record} are others instead."""
    examples = [_example(i + 1) for i in range(images)]
    for label, record in (replaced or {}).items():
        examples[label - 1] = record
    return write_shards(directory, split, deal(examples, shards))


def _hparams(**values):
    defaults = {
        "image_size": 16,
        "num_label_classes": NUM_CLASSES,
        "num_train_images": IMAGES,
        "num_eval_images": IMAGES,
        "train_batch_size": BATCH,
        "eval_batch_size": BATCH,
    }
    return tiny_hparams(**{**defaults, **values})


def _read(pipeline, batches):
    """(images, labels) of so many batches, or of those there are."""
    images, labels = [], []
    with tf.Graph().as_default(), tf.Session() as session, pipeline.naming_bad_records():
        iterator = tf.data.make_initializable_iterator(pipeline.input_fn())
        batch = iterator.get_next()
        session.run(iterator.initializer)
        try:
            for _ in range(batches):
                image, label = session.run(batch)
                images.append(image)
                labels.append(label)
        except tf.errors.OutOfRangeError:
            pass
    return np.concatenate(images), np.concatenate(labels).tolist()


def _train(directory, batches, sharding=None, start_step=0, **values):
    pipeline = imagenet_input.InputPipeline(
        True, str(directory), _hparams(**values), sharding=sharding
    )
    pipeline.start_step = start_step
    return _read(pipeline, batches)


def _evaluate(directory, **values):
    """(pipeline, images, labels) of one evaluation."""
    pipeline = imagenet_input.InputPipeline(False, str(directory), _hparams(**values))
    return (pipeline, *_read(pipeline, 100))


# Order -------------------------------------------------------------------------------------------


def test_every_image_once_an_epoch_in_another_order(tmp_path):
    _write(tmp_path)
    images, labels = _train(tmp_path, 3 * IMAGES // BATCH, random_seed=1)
    epochs = [labels[i : i + IMAGES] for i in range(0, 3 * IMAGES, IMAGES)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(1, IMAGES + 1))
    assert len(set(map(tuple, epochs))) == 3
    assert images.shape == (3 * IMAGES, 16, 16, 3) and images.dtype == np.float32
    assert -1.0 <= images.min() < -0.5 and 0.5 < images.max() <= 1.0


@pytest.mark.parametrize("shares", [2, 3, 4])
def test_ranks_share_the_images(tmp_path, shares):
    _write(tmp_path, images=48)
    seen = []
    for index in range(shares):
        hparams = {"num_train_images": 48, "train_batch_size": 4 * shares, "random_seed": 1}
        _, labels = _train(
            tmp_path, 48 // shares // 4 * 2, sharding=lambda i=index: (shares, i), **hparams
        )
        first, second = labels[: 48 // shares], labels[48 // shares :]
        assert sorted(first) == sorted(second) and first != second
        seen += first
    assert sorted(seen) == list(range(1, 49))


def test_deterministic_input(tmp_path):
    _write(tmp_path)

    def run(**values):
        return _train(tmp_path, 12, deterministic_input=True, **values)

    images, labels = run(random_seed=3)
    same_images, same_labels = run(random_seed=3)
    np.testing.assert_array_equal(images, same_images)
    assert labels == same_labels
    assert labels[:IMAGES] != labels[IMAGES : 2 * IMAGES]
    assert run(random_seed=4)[1] != labels
    # Going on from a checkpoint is another order, too, and the same one each time.
    resumed = run(random_seed=3, start_step=5)
    assert resumed[1] != labels
    np.testing.assert_array_equal(resumed[0], run(random_seed=3, start_step=5)[0])


@pytest.mark.parametrize("on_bad_record", ["fail", "skip"])
def test_evaluation_takes_each_image_once_in_order_and_pads(tmp_path, on_bad_record):
    _write(tmp_path, "validation", images=20, shards=2)
    pipeline, images, labels = _evaluate(tmp_path, num_eval_images=19, on_bad_record=on_bad_record)
    assert labels == [*range(1, 21, 2), *range(2, 19, 2)] + [imagenet_input.PADDING_LABEL] * 5
    assert not images[19:].any()
    assert pipeline.num_images == 19


def test_evaluation_may_drop_the_remainder(tmp_path):
    _write(tmp_path, "validation", images=20, shards=1)
    labels = _evaluate(tmp_path, num_eval_images=20, eval_drop_remainder=True)[2]
    assert labels == list(range(1, 17))


def test_synthetic_data():
    hparams = _hparams(synthetic_data=True)
    for is_training in (True, False):
        pipeline = imagenet_input.InputPipeline(is_training, None, hparams)
        images, labels = _read(pipeline, 5)
        assert len(labels) == IMAGES and images.std() > 0.5


def test_counts_of_dataset_json_are_used_unless_the_file_is_another(tmp_path):
    paths = _write(tmp_path)
    shards = [
        {"name": os.path.basename(path), "images": 7, "bytes": os.path.getsize(path) + (i == 0)}
        for i, path in enumerate(paths)
    ]
    info = {
        "format_version": 1,
        "num_classes": 100,
        "num_label_classes": 101,
        "splits": {"train": {"images": 40, "shards": shards}},
    }
    tfrecords.write_dataset_info(str(tmp_path), info)
    known = imagenet_input._known_counts(str(tmp_path), paths)
    assert known == dict.fromkeys(paths[1:], 7)


# Damage ------------------------------------------------------------------------------------------


def _features_without_image():
    example = _example(3)
    del example.features.feature["image/encoded"]
    return example


def _with_text_as_label():
    example = _example(3)
    example.features.feature["image/class/label"].bytes_list.value.append(b"\xff")
    return example


# A record in place of that of label 3, and what is said about it.
BAD_RECORDS = {
    "label 0": (_example(0), "has label 0; 1..100 are legal"),
    "label -1": (_example(-1), "has label -1; 1..100 are legal"),
    "label 5000": (_example(5000), "has label 5000; 1..100 are legal"),
    "label of text": (_with_text_as_label(), "has 0 integers as image/class/label"),
    "no image": (_features_without_image(), "has no image"),
    "empty image": (_example(3, b""), "has no image"),
    "cut JPEG": (_example(3, _encode(3, size=200)[:-500]), "Invalid JPEG data"),
    "JPEG without end": (_example(3, _encode(3, size=200)[:-2]), "Invalid JPEG data"),
    "JPEG of noise": (_example(3, b"\xff\xd8\xff" + b"\x80" * 99 + b"\xff\xd9"), "Invalid JPEG"),
    "cut PNG": (_example(3, _encode(3, "PNG")[:-40]), "cannot be decoded: Invalid PNG data"),
    "text as image": (_example(3, b"not an image"), "cannot be decoded"),
    # TensorFlow's messages quote these; that they are not UTF-8 must not matter.
    "bytes as image": (_example(3, b"\xfe"), "cannot be decoded"),
    "bytes as example": (b"\xff\xfe\xfd" * 9, "is not a tf.train.Example"),
    "empty record": (b"", "has 0 integers as image/class/label"),
}


def _truncate(path):
    os.truncate(path, os.path.getsize(path) - 20)


def _empty(path):
    os.truncate(path, 0)


def _text(path):
    with open(path, "w") as file:
        file.write("This is no TFRecord file. " * 9)


# What is done to the second of four files, how many of its ten images that costs, and what is said.
BAD_FILES = {
    "truncated": (_truncate, 1, "record 9 is not there: .*is truncated"),
    "empty": (_empty, 10, "record 0 is not there: .*is empty"),
    "text": (_text, 10, "record 0 is not there: .*is corrupt, or this is no TFRecord file"),
    "flipped length": (
        functools.partial(flip, position=2),
        10,
        "record 0 is not there: .*header's CRC is wrong",
    ),
    # TensorFlow alone would reserve this much memory, and end the process.
    "claimed length": (
        functools.partial(claim_length, length=1 << 60),
        10,
        "record 0 is not there: .*is truncated: it should end at byte 1152921504606846992",
    ),
    "flipped data": (
        functools.partial(flip, position=100),
        10,
        "record [0-9] cannot be read: corrupted record at 12",
    ),
}


@pytest.fixture
def warnings(monkeypatch):
    """What is logged as a warning."""
    lines = []
    monkeypatch.setattr(tf.logging, "warning", lambda message, *args: lines.append(message % args))
    return lines


@pytest.mark.parametrize("kind", BAD_RECORDS)
@pytest.mark.parametrize("is_training", [True, False])
def test_bad_record(tmp_path, warnings, kind, is_training):
    record, problem = BAD_RECORDS[kind]
    split = "train" if is_training else "validation"
    path = _write(tmp_path, split, replaced={3: record})[2]

    def read(**values):
        if is_training:
            return _train(tmp_path, 15, **values)[1]
        return _evaluate(tmp_path, **values)[2]

    with pytest.raises(UserError) as error:
        read()
    assert f"{path}: record 0 " in str(error.value) and problem in str(error.value)
    assert "--on_bad_record=skip" in str(error.value)
    labels = read(on_bad_record="skip")
    counts = collections.Counter(labels)
    assert 3 not in counts
    assert set(range(1, IMAGES + 1)) - set(counts) == {3}
    if not is_training:
        assert counts[imagenet_input.PADDING_LABEL] == 1
    assert [line for line in warnings if f"{path}: record 0 " in line and problem in line]
    assert len(warnings) == 1


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("is_training", [True, False])
def test_bad_file(tmp_path, warnings, kind, is_training):
    damage, lost, problem = BAD_FILES[kind]
    path = _write(tmp_path, "train" if is_training else "validation")[1]
    damage(path)

    def read(**values):
        if is_training:
            return _train(tmp_path, 15, **values)[1]
        return _evaluate(tmp_path, **values)[2]

    with pytest.raises(UserError, match=re.escape(path) + ": " + problem):
        read()
    left = set(read(on_bad_record="skip", max_bad_fraction=0.3)) - {imagenet_input.PADDING_LABEL}
    assert len(left) == IMAGES - lost
    assert [line for line in warnings if re.search(re.escape(path) + ": " + problem, line)]


def test_what_training_takes_is_sound_and_what_it_refuses_is_damage(tmp_path, warnings):
    """Images of all formats, whole and cut off, are the same to training and to check_data.py."""
    *whole, bmp_of_1_bit = fuzz_input.base_images()
    damaged = [*(image[: len(image) // 2] for image in whole), bmp_of_1_bit]
    images = [*whole, *damaged, whole[0] + b"tail"]
    path = str(tmp_path / tfrecords.shard_name("train", 0, 1))
    records = [
        *(_example(label, image) for label, image in enumerate(images, 1)),
        # Feature names that are not UTF-8 are nothing to training, nor are features twice.
        _example(len(images) + 1).SerializeToString().replace(b"colorspace", b"\xff" * 10),
        _example(1).SerializeToString() + _example(len(images) + 2).SerializeToString(),
    ]
    tfrecords.write_shard(path, records)
    values = {"num_train_images": len(records), "on_bad_record": "skip", "max_bad_fraction": 1.0}
    trained = set(_train(tmp_path, 20, **values)[1])
    assert trained == {*range(1, len(whole) + 1), *range(len(images), len(records) + 1)}
    report = check_data.check_shard(path, NUM_CLASSES)
    assert set(report.labels) == trained
    assert {damage.record + 1 for damage in report.damage} == set(
        range(1, len(records) + 1)
    ) - trained
    for damage in report.damage:
        assert [line for line in warnings if f"record {damage.record} {damage.reason}." in line]
    with imagenet_records.Checker(NUM_CLASSES) as checker:
        sound = [record.SerializeToString() for record in records[: len(whole)]]
        formats = [checked.image_format for checked in checker.check(sound)]
    assert [len(list(group)) for _, group in itertools.groupby(formats)] == [5, 7, 2, 4]


def test_skip_stops_at_the_tolerated_fraction(tmp_path):
    bad = {label: _example(0) for label in range(1, 6)}
    _write(tmp_path, replaced=bad)
    with pytest.raises(UserError, match=r"4 bad records are more than --max_bad_fraction=0.001"):
        _train(tmp_path, 50, on_bad_record="skip")
    labels = _train(tmp_path, 50, on_bad_record="skip", max_bad_fraction=0.125)[1]
    assert len(labels) == 50 * BATCH and set(labels) == set(range(6, IMAGES + 1))


@pytest.mark.parametrize("on_bad_record", ["fail", "skip"])
@pytest.mark.parametrize("images", [2, 40])
@pytest.mark.parametrize("is_training", [True, False])
def test_nothing_but_bad_records_ends(tmp_path, on_bad_record, images, is_training):
    split = "train" if is_training else "validation"
    bad = {label: _example(0) for label in range(1, images + 1)}
    _write(tmp_path, split, images=images, shards=1, replaced=bad)
    values = {"num_train_images": images, "num_eval_images": images}
    values["on_bad_record"] = on_bad_record
    if is_training:
        with pytest.raises(UserError, match="record"):
            _train(tmp_path, 1, **values)
    elif images == 2 and on_bad_record == "skip":
        assert set(_evaluate(tmp_path, **values)[2]) == {imagenet_input.PADDING_LABEL}
    else:
        with pytest.raises(UserError, match="has label 0"):
            _evaluate(tmp_path, **values)


def test_synthetic_batches_are_full():
    values = {"num_eval_images": 10, "eval_batch_size": 8}
    assert imagenet_input.num_evaluated_images(_hparams(**values)) == 10
    assert imagenet_input.num_evaluated_images(_hparams(synthetic_data=True, **values)) == 16


def test_missing_shard(tmp_path, warnings):
    os.remove(_write(tmp_path)[1])
    with pytest.raises(UserError, match="1 of 4 train shards are missing, train-00001-of-00004"):
        _train(tmp_path, 1)
    with pytest.raises(UserError, match=r"missing.*max_bad_fraction=0.001"):
        _train(tmp_path, 1, on_bad_record="skip")
    labels = _train(tmp_path, 15, on_bad_record="skip", max_bad_fraction=0.25)[1]
    assert len(set(labels)) == 30
    assert "train-00001-of-00004" in warnings[0]


def test_number_of_validation_images(tmp_path, warnings):
    paths = _write(tmp_path, "validation")
    imagenet_input.check_num_eval_images(str(tmp_path), _hparams())
    assert not warnings
    imagenet_input.check_num_eval_images(str(tmp_path), _hparams(num_eval_images=39))
    assert "40 images are there, and 39" in warnings[0]
    with pytest.raises(UserError, match=r"num_eval_images=41.*Set it to 40"):
        imagenet_input.check_num_eval_images(str(tmp_path), _hparams(num_eval_images=41))
    _truncate(paths[0])
    with pytest.raises(UserError, match=r"is truncated.*--on_bad_record=skip"):
        imagenet_input.check_num_eval_images(str(tmp_path), _hparams())
    imagenet_input.check_num_eval_images(str(tmp_path), _hparams(on_bad_record="skip"))


# Programs ----------------------------------------------------------------------------------------

_SMALL = [
    *flags(TINY),
    *["--augment=False", "--dense_dropout_keep_prob=1"],
    *["--train_batch_size=32", "--eval_batch_size=32"],
    *["--optimizer=momentum", "--lr=0.1", "--lr_decay_method=cosine", "--accelerator=cpu"],
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A data set made of 2,400 image files in one folder a class: noise, of another colour each."""
    source = tmp_path_factory.mktemp("folders")
    random = np.random.RandomState(0)
    for i, name in enumerate(("blue", "green", "red")):
        (source / name).mkdir()
        for j in range(800):
            pixels = random.randint(0, 128, (24, 28, 3)).astype(np.uint8)
            pixels[:, :, 2 - i] += 127
            Image.fromarray(pixels).save(str(source / name / f"{j}.jpg"))
    data_dir = str(tmp_path_factory.mktemp("shards"))
    run("scripts/build_tfrecords.py", f"--source_dir={source}", f"--output_dir={data_dir}")
    return data_dir


@pytest.mark.xdist_group("amoeba_net")
def test_from_folders_to_accuracy_without_a_number_by_hand(converted, tmp_path):
    data, model = f"--data_dir={converted}", f"--model_dir={tmp_path}"
    assert "sound." in run("scripts/check_data.py", data).log
    # With four filters and a higher rate one random seed in five learns two of the three classes.
    better = ["--reduction_size=8", "--stem_reduction_size=8", "--lr=0.03", "--random_seed=1"]
    better += ["--num_epochs=3", "--num_epochs_per_eval=3", "--train_batch_size=60"]
    log = run("amoeba_net.py", data, model, *_SMALL, *better).log
    for line in ("num_label_classes = 4", "num_train_images = 2160", "num_eval_images = 240"):
        assert f"{line}, from" in log
    (*_, evaluation) = [r for r in results.read_results(str(tmp_path)) if r["kind"] == "eval"]
    assert evaluation["global_step"] == 3 * 36  # ceil(2160 / 60)
    assert evaluation["metrics"]["images"] == 240
    assert evaluation["metrics"]["top_1_accuracy"] > 0.9


@pytest.mark.xdist_group("amoeba_net")
def test_training_and_evaluation_with_damage(tmp_path):
    paths = {split: _write(tmp_path, split, images=64)[1] for split in tfrecords.SPLITS}
    for path in paths.values():
        _truncate(path)
    command = ["amoeba_net.py", f"--data_dir={tmp_path}", "--num_epochs=2", *_SMALL]
    command += [
        "--num_train_images=64",
        "--num_eval_images=64",
        f"--num_label_classes={NUM_CLASSES}",
    ]
    log = run(*command, f"--model_dir={tmp_path / 'fail'}", "--mode=train", status=1).log
    error = log.strip().splitlines()[-1]
    assert error.startswith(f"amoeba_net.py: {paths['train']}: record 15 is not there")
    assert "is truncated" in error and "--on_bad_record=skip" in error
    assert "Traceback" not in log
    skipped = tmp_path / "skip"
    command += [f"--model_dir={skipped}", "--on_bad_record=skip", "--num_epochs_per_eval=2"]
    log = run(*command).log
    for path in paths.values():
        assert f"Left out: {path}: record 15 is not there" in log
    assert "Only 63 of 64 images could be evaluated." in log
    (evaluation,) = [r for r in results.read_results(str(skipped)) if r["kind"] == "eval"]
    assert evaluation["metrics"]["images"] == 63

    log = run(*command, "--mode=eval", "--on_bad_record=fail", status=1).log
    assert "is truncated" in log and "Traceback" not in log


def test_data_that_vanishes_is_named(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    _write(data)
    pipeline = imagenet_input.InputPipeline(True, str(data), _hparams())
    with tf.Graph().as_default(), tf.Session() as session:
        with pytest.raises(UserError, match=rf"{data}/train-0000\S+: record \d+ .*cannot be read"):
            with pipeline.naming_bad_records():
                batch = tf.data.make_one_shot_iterator(pipeline.input_fn()).get_next()
                session.run(batch)
                shutil.rmtree(str(data))
                for _ in range(1000):
                    session.run(batch)
