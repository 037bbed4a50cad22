"""An exported SavedModel, loaded: encoded images -> names, probabilities, and activation maps."""

import os
from typing import List, NamedTuple, Tuple

import numpy as np
from google.protobuf.message import DecodeError

import serving
from common import runtime
from common.data import tfrecords
from common.devices.cpu import CpuSession
from common.errors import UserError
from common.runtime import tf

_OUTPUTS = ("classes", "probabilities", "maps")


class Explanation(NamedTuple):
    """What a network says of an image, the most probable classes first.

    Attributes:
        classes: k classes, 0 being the background.
        probabilities: k of them.
        maps: float32 [k, height, width]; see `activation_maps.explanation`.
    """

    classes: Tuple[int, ...]
    probabilities: Tuple[float, ...]
    maps: np.ndarray


class ExportedModel:
    """A SavedModel as `--mode=export` writes it, on the CPU.

    Attributes:
        names: of the classes.

    Raises:
        UserError: it cannot be loaded, or is of an export that did not explain its answers.
    """

    def __init__(self, directory: str):
        signatures = _signatures(directory)
        if serving.EXPLAIN_SIGNATURE not in signatures:
            raise UserError(
                f"{directory} has no signature '{serving.EXPLAIN_SIGNATURE}': it was written by "
                "another program or an older version of this one; export the model again with "
                "--mode=export."
            )
        self.names = _names(directory, signatures)
        signature = signatures[serving.EXPLAIN_SIGNATURE]
        graph = tf.Graph()
        self._session = CpuSession(graph)
        try:
            with graph.as_default():
                tf.saved_model.load(
                    self._session, [tf.saved_model.tag_constants.SERVING], directory
                )
            # Fails where a tensor is not in the graph.
            self._input = graph.get_tensor_by_name(signature.inputs[serving.INPUT_KEY].name)
            self._outputs = {
                key: graph.get_tensor_by_name(signature.outputs[key].name) for key in _OUTPUTS
            }
        except (OSError, ValueError, TypeError, KeyError, tf.errors.OpError) as error:
            reason = runtime.first_line(error)
            raise UserError(f"{directory} cannot be loaded: {reason}") from error

    def explain(self, encoded: bytes) -> Explanation:
        """The answer for one JPEG, PNG, GIF or BMP.

        Raises:
            UserError: the answer is no number.
            tf.errors.OpError: the image cannot be decoded.
        """
        found = self._session.run(self._outputs, {self._input: [encoded]})
        classes, probabilities, maps = (found[key][0] for key in _OUTPUTS)
        if not (np.isfinite(probabilities).all() and np.isfinite(maps).all()):
            raise UserError("The model's answer is not a number; its weights are not finite.")
        return Explanation(tuple(classes.tolist()), tuple(probabilities.tolist()), maps)


def find(directory: str) -> str:
    """The SavedModel in a directory: itself, or the newest version in it.

    Raises:
        UserError: there is none.
    """
    if not os.path.isdir(directory):
        raise UserError(f"--saved_model={directory}: there is no such directory.")
    if _is_saved_model(directory):
        return directory
    versions = [name for name in os.listdir(directory) if name.isdecimal()]
    found = [v for v in versions if _is_saved_model(os.path.join(directory, v))]
    if not found:
        raise UserError(
            f"--saved_model={directory}: there is no SavedModel in it (saved_model.pb, or a "
            "directory with a number as its name that has one), as --mode=export writes it."
        )
    return os.path.join(directory, max(found, key=int))


def _is_saved_model(directory: str) -> bool:
    return os.path.isfile(os.path.join(directory, "saved_model.pb"))


def _signatures(directory: str):
    """{name: signature} of a SavedModel, without loading it."""
    path = os.path.join(directory, "saved_model.pb")
    try:
        with open(path, "rb") as file:
            saved_model = runtime.SavedModel.FromString(file.read())
    except DecodeError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    for meta_graph in saved_model.meta_graphs:
        if tf.saved_model.tag_constants.SERVING in meta_graph.meta_info_def.tags:
            return meta_graph.signature_def
    raise UserError(f"{path} has no graph for serving.")


def _names(directory: str, signatures) -> List[str]:
    names = tfrecords.read_labels(os.path.join(directory, "assets"))
    serving_default = signatures[tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
    sizes = serving_default.outputs["logits"].tensor_shape.dim
    num_classes = sizes[-1].size if sizes else 0
    if names is None or len(names) != num_classes:
        raise UserError(
            f"{os.path.join(directory, 'assets', tfrecords.LABELS)} names "
            f"{len(names or [])} classes, and the network has {num_classes}."
        )
    return names
