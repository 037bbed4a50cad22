"""Images from shards to folders, and the folders to shards again."""

import os

import pytest
from helpers import claim_length, flip

from common import files
from common.data import tfrecords
from common.runtime import tf
from scripts import extract_images


@pytest.mark.xdist_group("tiny_model")
def test_images_as_they_are_in_folders_of_their_classes(tiny_model, tmp_path, capsys):
    extract_images.main([f"--data_dir={tiny_model.data_dir}", f"--output_dir={tmp_path}"])
    assert f"Wrote {len(tiny_model.images)} images" in capsys.readouterr().out
    names = tfrecords.read_labels(tiny_model.data_dir)
    for number, (encoded, label) in enumerate(zip(tiny_model.images, tiny_model.labels)):
        suffix = "png" if encoded.startswith(b"\x89PNG") else "jpg"
        path = tmp_path / names[label] / f"{number:06d}.{suffix}"
        assert path.read_bytes() == encoded
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == len(tiny_model.images)


def test_some_images_of_the_training_split_without_names(tmp_path):
    example = tfrecords.image_example(b"\xff\xd8 not decoded", 3, height=8, width=8)
    shard = os.path.join(str(tmp_path), tfrecords.shard_name("train", 0, 1))
    tfrecords.write_shard(shard, [example] * 4)
    arguments = [f"--data_dir={tmp_path}", f"--output_dir={tmp_path}/out", "--split=train"]
    extract_images.main([*arguments, "--count=2"])
    assert os.listdir(tmp_path / "out") == ["class_3"]
    assert sorted(os.listdir(tmp_path / "out" / "class_3")) == ["000000.jpg", "000001.jpg"]
    files.write_text(os.path.join(str(tmp_path), tfrecords.LABELS), "background\ncat\n")
    with pytest.raises(SystemExit, match=r"has label 3, and labels\.txt names 2 classes"):
        extract_images.main(arguments)
    os.remove(tmp_path / tfrecords.LABELS)
    size = os.path.getsize(shard)
    flip(shard, size - 9)
    with pytest.raises(SystemExit, match="train-00000-of-00001 is damaged"):
        extract_images.main(arguments)
    os.truncate(shard, size - 3)
    with pytest.raises(SystemExit, match=r"train-00000-of-00001: record 3 .* is truncated"):
        extract_images.main(arguments)
    claim_length(shard, 1 << 60)
    with pytest.raises(SystemExit, match=r"train-00000-of-00001: record 0 .* is truncated"):
        extract_images.main(arguments)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff\xfe", "train-00000-of-00001 is damaged: Error parsing message"),
        (b"", "record 0 of train has 0 labels and 0 images"),
        (tf.train.Example(), "record 0 of train has 0 labels and 0 images"),
    ],
)
def test_records_that_are_none_of_images(tmp_path, record, message):
    tfrecords.write_shard(os.path.join(str(tmp_path), "train-00000-of-00001"), [record])
    arguments = [f"--data_dir={tmp_path}", f"--output_dir={tmp_path}/out", "--split=train"]
    with pytest.raises(SystemExit, match=message):
        extract_images.main(arguments)


@pytest.mark.parametrize("name", ["..", ".", "../../elsewhere", "/elsewhere", "a\0b"])
def test_names_of_classes_do_not_lead_elsewhere(tmp_path, name):
    example = tfrecords.image_example(b"\xff\xd8", 1, height=8, width=8)
    data = tmp_path / "data"
    data.mkdir()
    tfrecords.write_shard(str(data / "train-00000-of-00001"), [example])
    files.write_text(str(data / tfrecords.LABELS), f"background\n{name}\n")
    out = tmp_path / "out" / "out"
    extract_images.main([f"--data_dir={data}", f"--output_dir={out}", "--split=train"])
    (folder,) = out.iterdir()
    assert os.listdir(str(folder)) == ["000000.jpg"]
    assert os.listdir(str(tmp_path / "out")) == ["out"]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["a", "b"], ["a", "b"]),
        (["x", "x", "x_1"], ["x", "x_1", "x_1_2"]),
        (["background", "x_3", "x", "x"], ["background", "x_3", "x", "x_3_3"]),
        (["y" * 300, "y" * 255], ["y" * 253 + "_0", "y" * 255]),
    ],
)
def test_folders_of_classes_are_all_different(names, folders):
    assert extract_images.folder_names(names) == folders


def test_no_shards(tmp_path):
    with pytest.raises(SystemExit, match=r"has no validation shards: neither .*validation-"):
        extract_images.main([f"--data_dir={tmp_path}", f"--output_dir={tmp_path}/out"])
