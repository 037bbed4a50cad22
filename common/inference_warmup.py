"""Warm-up requests, which TensorFlow Serving sends to a model before it serves others."""

import os
from typing import Optional, Sequence

import numpy as np
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from common import files
from common.data import image_files
from common.errors import UserError
from common.runtime import tf

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")

_BATCH_SIZES = (1, 8, 16, 32, 64)
# TensorFlow Serving refuses a model whose file has more.
_MAX_REQUESTS = 1000


def write_warmup_requests(
    savedmodel_dir: str,
    model_name: str,
    image_size: int,
    batch_sizes: Optional[Sequence[int]] = None,
    num_requests: int = 8,
):
    """Writes `assets.extra/tf_serving_warmup_requests` into a SavedModel.

    Each request is a batch of JPEG images for the key `input` of `serving_default`.

    Args:
        savedmodel_dir: directory of the SavedModel.
        model_name: name under which the model is served.
        image_size: width and height of the images, which are noise, in pixels.
        batch_sizes: sizes of the batches to try; 1, 8, 16, 32 and 64 if None.
        num_requests: requests of each size.

    Raises:
        UserError: more requests than the 1,000 that TensorFlow Serving takes.
    """
    batch_sizes = batch_sizes or _BATCH_SIZES
    if num_requests * len(batch_sizes) > _MAX_REQUESTS:
        raise UserError(
            f"{num_requests} warm-up requests for each of {len(batch_sizes)} batch sizes: "
            f"TensorFlow Serving takes {_MAX_REQUESTS} in all."
        )
    path = os.path.join(savedmodel_dir, WARMUP_FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    random = np.random.RandomState(0)
    with files.replacing(path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
        for batch_size in batch_sizes:
            for _ in range(num_requests):
                images = [_noise_jpeg(random, image_size)] * batch_size
                writer.write(_prediction_log(model_name, images).SerializeToString())


def _noise_jpeg(random: np.random.RandomState, size: int) -> bytes:
    pixels = random.randint(0, 256, (size, size, 3)).astype(np.uint8)
    return image_files.encode_jpeg(Image.fromarray(pixels), quality=75)


def _prediction_log(model_name: str, images: Sequence[bytes]) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
    request.inputs["input"].CopyFrom(tf.make_tensor_proto(images, shape=[len(images)]))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
