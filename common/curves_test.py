"""The picture of a training, from the event files of one that was killed and resumed."""

import os

import numpy as np
import pytest
from PIL import Image

from common import curves, results
from common.runtime import tf


@pytest.fixture
def events(tmp_path):
    """The event files of a training that was killed at step 200 and went on from step 100."""
    with tf.Graph().as_default():
        for i, steps in enumerate([range(0, 201, 20), range(120, 301, 20)]):
            writer = tf.summary.FileWriter(str(tmp_path), filename_suffix=f".{i}")
            for step in steps:
                _add(writer, step, loss=i + 2.0, learning_rate_1=0.1)
            writer.close()
            if i == 0:
                os.rename(_newest(tmp_path), _first(tmp_path))
        writer = tf.summary.FileWriter(str(tmp_path / "eval"))
        _add(writer, 300, loss=2.5, top_1_accuracy=0.9, top_5_accuracy=1.0)
        writer.close()
    return tmp_path


def _add(writer, step, **values):
    values = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    writer.add_summary(tf.Summary(value=values), step)


def _newest(directory):
    (path,) = directory.glob("events.out.tfevents.*")
    return str(path)


def _first(directory):
    return str(directory / "events.out.tfevents.0000000001.first")


def test_curves_of_a_resumed_run(events):
    scalars = curves.read_scalars(str(events))
    assert dict(scalars["loss"]) == {
        **dict.fromkeys(range(0, 120, 20), 2.0),
        **dict.fromkeys(range(120, 301, 20), 3.0),
    }
    with open(_first(events), "r+b") as f:
        f.truncate(os.path.getsize(_first(events)) - 5)  # As a kill leaves it.
    curves.main([f"--model_dir={events}"])
    picture = np.array(Image.open(str(events / curves.FILE_NAME)).convert("RGB"))
    assert picture.shape[0] > 500 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert not list(events.glob("*tmp*"))


def test_a_picture_that_cannot_be_drawn_is_no_error(tmp_path, log, capsys):
    curves.draw_or_warn(str(tmp_path))
    assert "The curves could not be drawn: The event files in" in log.text
    with pytest.raises(SystemExit, match="tell of no loss and no accuracy"):
        curves.main([f"--model_dir={tmp_path}"])
    with pytest.raises(SystemExit):
        curves.main([f"--model_dir={tmp_path}", "--output=/absent/curves.png"])
    assert "expected a file in a directory that exists" in capsys.readouterr().err


def test_evaluations_are_those_that_can_be_compared(events):
    """Not one of a few images, nor one of other data, though TensorFlow has written them."""
    best = {"checkpoint": "best/c", "top_1_accuracy": 0.5, "images": 50, "data": "old"}
    for step, images, data in ((100, 50, "old"), (200, 49, "old"), (200, 5, "old"), (200, 50, "x")):
        metrics = {"loss": 2.0, "top_1_accuracy": images / 100, "images": images}
        record = {"global_step": step, "data": data, "metrics": metrics, "best": best}
        results.append_result(str(events), "eval", record)
    (accuracy,) = curves.read_parts(str(events))["accuracy"]
    assert accuracy.points == [(100, 0.5), (200, 0.49)]
