#!/usr/bin/env python
"""Classifies images with an exported ONNX model; needs onnxruntime, Pillow, and NumPy only.

    python scripts/predict_onnx.py amoeba_net.onnx photo.jpg ...

Nothing here imports the project or TensorFlow: it is an example of how to use the model elsewhere.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image

TOP_K = 5


def preprocess(image: Image.Image, size: int) -> np.ndarray:
    """The model's input for an image: float32 [size, size, 3] in [-1, 1].

    It is the central part, resized as the program does it. `Image.resize` would smooth the image.
    """
    pixels = np.array(image.convert("RGB"), np.float32)
    top, left = (length // 16 for length in pixels.shape[:2])
    pixels = pixels[top : len(pixels) - top, left : pixels.shape[1] - left]
    pixels = _resize(_resize(pixels, size).swapaxes(0, 1), size).swapaxes(0, 1)
    return pixels / 127.5 - 1


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation along the first axis: pixel i is taken at i * length / size."""
    positions = np.arange(size) * (len(pixels) / size)
    before = positions.astype(int)
    after = np.minimum(before + 1, len(pixels) - 1)
    part = (positions - before).astype(np.float32)[:, np.newaxis, np.newaxis]
    return pixels[before] * (1 - part) + pixels[after] * part


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="an exported amoeba_net.onnx")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files that Pillow reads")
    arguments = parser.parse_args(argv)
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names, size = json.loads(metadata["class_names"]), int(metadata["image_size"])
    for path in arguments.images:
        images = preprocess(Image.open(path), size)[np.newaxis]
        (probabilities,) = session.run(["probabilities"], {"input": images})[0]
        print(path)
        for label in np.argsort(-probabilities, kind="stable")[:TOP_K]:
            print(f"{probabilities[label]:9.2%}  {names[label]}")


if __name__ == "__main__":
    main()
