"""Reports of evaluations: watches one, and writes its page and its figures."""

import collections
import json
import os
import shlex
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

import activation_maps
import amoeba_net_model
from common import curves, files
from common.data import image_files
from common.hparams import HParams
from common.report import heat, statistics
from common.report.accumulate import Accumulator, Batch, Source
from common.runtime import tf
from imagenet_input import PADDING_LABEL, InputPipeline

PAGE = "report.html"
FIGURES = "report.json"
# Width and height of a picture.
_THUMBNAIL = 160


class EvaluationReport:
    """Gathers what a report shows while an evaluation runs, and writes it.

    Args:
        directory: of the report.
        data_dir: of the images; None for synthetic ones.
        hparams: of the network and the evaluation.
        names: of the classes.

    Attributes:
        found: what was gathered of the last evaluation.
    """

    def __init__(
        self, directory: str, data_dir: Optional[str], hparams: HParams, names: Sequence[str]
    ):
        self._directory = directory
        self._data_dir = data_dir
        self._hparams = hparams
        self._names = names
        self._sources = None
        self.found = None

    def start(self, pipeline: InputPipeline):
        """Call this before each evaluation, whose images come from `pipeline`."""
        self.found = Accumulator(self._hparams.num_label_classes)
        self._sources = pipeline.sources = collections.deque()

    def watch(self, images, labels, end_points) -> tf.train.SessionRunHook:
        """A hook for the graph of an evaluation."""
        legal = amoeba_net_model.legal(labels)
        logits, probabilities = end_points["logits"], end_points["predictions"]
        given = tf.argmax(logits, axis=1, output_type=tf.int32)
        both = tf.stack([given, legal], axis=1)
        explanation = activation_maps.explanation(end_points, self._hparams)
        tensors = {
            "images": images,
            "labels": labels,
            "given": given,
            "in_top_5": amoeba_net_model.is_in_top_k(logits, labels, 5),
            "probabilities": tf.gather(probabilities, both, batch_dims=1),
            "top_classes": explanation["top_classes"],
            "top_probabilities": explanation["top_probabilities"],
            "maps": activation_maps.maps_of(end_points, both, self._hparams),
        }
        return _Watch(tensors, self._add)

    def _add(self, values: Dict[str, np.ndarray]):
        """Takes what was computed of one batch."""
        real = values["labels"] != PADDING_LABEL
        values = {name: value[real] for name, value in values.items()}
        count = len(values["labels"])
        self.found.add(
            Batch(
                values["labels"],
                values["given"],
                values["in_top_5"],
                *values["probabilities"].T,
                values["top_classes"],
                values["top_probabilities"],
                self._sources.popleft() if self._sources else self._numbers(count),
                lambda i: pictures(
                    values["images"][i],
                    values["maps"][i],
                    values["given"][i] != values["labels"][i],
                ),
            )
        )

    def _numbers(self, count: int) -> List[Source]:
        """Sources of images that come from no file."""
        first = self.found.num_images
        return [Source("", number) for number in range(first, first + count)]

    def write(self, record: Dict[str, Any], model_dir: str, may_fail: bool = False):
        """Writes report.html and report.json.

        Args:
            record: of the evaluation, as results.json has it.
            model_dir: where the curves of the training are.
            may_fail: whether a failure is only logged, so that a training goes on.
        """
        try:
            self._write(record, model_dir)
        except Exception as error:  # Any error of a library.
            if not may_fail:
                raise
            tf.logging.warning("The report could not be written: %s", error)

    def _write(self, record, model_dir):
        from common.report import page  # Jinja2, which nothing else needs.

        command = " ".join(map(shlex.quote, sys.argv))
        about = {**record, "data_dir": self._data_dir, "command": command}
        figures = statistics.as_json(self.found, self._names, statistics.HUNDREDTHS)
        text = json.dumps({**about, **figures}, indent=1, ensure_ascii=False) + "\n"
        _write(os.path.join(self._directory, FIGURES), text)
        contents = page.Contents(
            title=f"Evaluation of {record['checkpoint']}",
            tiles=_tiles(record, statistics.calibration_error(self.found)),
            facts=_facts(about),
            command=command,
            hparams=record["hparams"],
            found=self.found,
            names=self._names,
            curves=curves.read_parts(model_dir),
        )
        path = os.path.join(self._directory, PAGE)
        _write(path, page.render(contents))
        tf.logging.info("Report of the evaluation: %s", path)


class _Watch(tf.train.SessionRunHook):
    """Hands the values of some tensors on after each step."""

    def __init__(self, tensors: Dict[str, tf.Tensor], add: Callable):
        self._tensors = tensors
        self._add = add

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._tensors)

    def after_run(self, run_context, run_values):
        self._add(run_values.results)


def pictures(image: np.ndarray, maps: np.ndarray, is_mistake: bool) -> Tuple[bytes, ...]:
    """JPEGs of an image, of it with the map of the given class, and, if wrong, of the label.

    Args:
        image: preprocessed, float32 [size, size, 3].
        maps: float32 [2, height, width], of the given class and of the label.
        is_mistake: whether these are different classes.
    """
    shown = heat.to_image(image).resize([_THUMBNAIL] * 2, Image.BICUBIC)
    scale = float(maps.max())
    seen = [heat.heat(shown, one, scale) for one in (maps if is_mistake else maps[:1])]
    return tuple(image_files.encode_jpeg(one, quality=80) for one in (shown, *seen))


def _write(path: str, text: str):
    files.write_text(path, files.valid_text(text))


def _tiles(record: Dict[str, Any], calibration_error: float) -> Dict[str, str]:
    """The most important figures."""
    metrics, speed = record["metrics"], record["images_per_second"]
    return {
        "top-1": f"{metrics['top_1_accuracy']:.2%}",
        "top-5": f"{metrics['top_5_accuracy']:.2%}",
        "loss": f"{metrics['loss']:.4g}",
        "images": f"{metrics['images']:,}",
        "calibration error": f"{calibration_error:.2%}",
        "images/s": f"{speed['median']:,.4g}" if speed else "-",
    }


def _facts(about: Dict[str, Any]) -> Dict[str, str]:
    """Where the figures come from."""
    versions = about["versions"]
    return {
        "checkpoint": f"{about['checkpoint']}, step {about['global_step']:,}",
        "data": about["data_dir"] or "synthetic",
        "date": about["time"],
        "device": f"{about['num_devices']} x {about['accelerator']}, {versions['platform']}",
        "software": f"TensorFlow {versions['tensorflow']}, Python {versions['python']}, "
        f"NumPy {versions['numpy']}",
    }
