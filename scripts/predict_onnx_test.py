"""The example of the ONNX model's use: without TensorFlow, it answers as the program does."""

import io
import os
import re

import numpy as np
import pytest
from helpers import encode, noise, run
from PIL import Image

import inception_preprocessing
import prediction
import serving
from common.data.class_names import class_names
from common.runtime import tf
from scripts import predict_onnx

pytestmark = pytest.mark.xdist_group("tiny_model")


@pytest.mark.parametrize("size", [15, 40, 90])
def test_preprocessing_is_evaluations(size):
    encoded = encode(noise(seed=0, size=70).crop((0, 0, 70, 33)), "PNG")
    with tf.Graph().as_default(), tf.Session() as session:
        expected = session.run(inception_preprocessing.preprocess_bytes(tf.constant(encoded), size))
    found = predict_onnx.preprocess(Image.open(io.BytesIO(encoded)), size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_answers_are_the_programs(tiny_model, tiny_export, tmp_path):
    names = class_names(tiny_model.data_dir, 11)
    model = os.path.join(tiny_export, serving.ONNX_MODEL)
    photos = [image for image in tiny_model.images if image.startswith(b"\x89PNG")]
    paths = [str(tmp_path / f"{i}.png") for i in range(len(photos))]
    for path, photo in zip(paths, photos):
        with open(path, "wb") as file:
            file.write(photo)
    answers = prediction.classify(
        tiny_model.estimator(), tiny_model.checkpoint, tiny_model.hparams, paths
    )
    expected = "\n".join(prediction.text(answer, names) for answer in answers)
    assert run("scripts/predict_onnx.py", model, *paths).out.splitlines() == expected.splitlines()


def test_it_imports_nothing_else():
    with open(predict_onnx.__file__) as file:
        imports = re.findall(r"^(?:from|import) (\w+)", file.read(), re.M)
    assert set(imports) == {"argparse", "json", "numpy", "onnxruntime", "PIL"}
