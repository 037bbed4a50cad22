"""The most accurate checkpoint of a training, which is kept in `best/`."""

import os
import re
from typing import Any, Dict, List, NamedTuple, Optional

from common import files, results
from common.checkpoints import reading, selection
from common.errors import UserError
from common.runtime import tf

DIRECTORY = "best"
_OF_CHECKPOINTS = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")


class Evaluation(NamedTuple):
    """What an evaluation has found.

    Attributes:
        global_step: of the checkpoint.
        top_1_accuracy: in [0, 1].
        images: number of images that were evaluated.
        data: a description of the data set.
    """

    global_step: int
    top_1_accuracy: float
    images: int
    data: str


def keep_if_best(
    model_dir: str, checkpoint: str, evaluation: Evaluation, is_trainings: bool = True
) -> Optional[Dict[str, Any]]:
    """Keeps a checkpoint of this training in best/ if none has been more accurate.

    An accuracy on a part of the images does not count where one on all is known, nor afterwards.
    Accuracies on other data do not count, either, unless the training has changed its data.

    Args:
        model_dir: directory of the training.
        checkpoint: prefix of the checkpoint that was evaluated.
        evaluation: what was found.
        is_trainings: whether it was the training's own evaluation, on the data that it has now.

    Returns:
        What is in best/: its path in the model directory, and its evaluation.
    """
    evaluations = results.evaluations(model_dir)
    best = evaluations[-1].get("best") if evaluations else None
    if best and not reading.exists(os.path.join(model_dir, best["checkpoint"])):
        best = None
    if os.path.dirname(checkpoint) != model_dir.rstrip("/"):
        return best
    if best and best.get("data", evaluation.data) != evaluation.data:
        if not is_trainings:
            tf.logging.info(
                "Other data (%s) decides what is best; remove best/ to have it decided anew.",
                best["data"],
            )
            return best
        tf.logging.info("The validation data has changed: what is best is decided anew.")
        best = None
    if best:
        images, images_of_best = evaluation.images, _images_of(best, evaluations)
        if images_of_best and images < results.WHOLE * images_of_best:
            tf.logging.info("%d images do not decide what is best: %d did.", images, images_of_best)
            return best
        is_of_all = not images_of_best or images_of_best >= results.WHOLE * images
        # As results.json rounds it.
        if is_of_all and best["top_1_accuracy"] >= float(str(evaluation.top_1_accuracy)):
            return best
    consequence = f"The best accuracy so far, but {checkpoint} was deleted before it could be kept."
    with reading.warning_if_deleted(checkpoint, consequence):
        replace(model_dir, checkpoint)
        tf.logging.info("The best accuracy so far: %s is kept in best/ too.", checkpoint)
        path = os.path.join(DIRECTORY, os.path.basename(checkpoint))
        best = {"checkpoint": path, **evaluation._asdict()}
    return best


def _images_of(best: Dict[str, Any], evaluations: List[Dict[str, Any]]) -> Optional[int]:
    """Number of images of the evaluation that chose the best; None if nobody knows it."""
    of_step = [e for e in evaluations if e.get("global_step") == best.get("global_step")]
    older = of_step[0].get("metrics", {}).get("images") if of_step else None
    return best.get("images", older)


def replace(model_dir: str, checkpoint: str):
    """Copies a checkpoint to best/, in place of the one that is there.

    TensorFlow can restore from best/ at any time: its state file names the new checkpoint as soon
    as that is whole, and only then the old one is removed.

    Raises:
        UserError, tf.errors.NotFoundError: the checkpoint is not whole; best/ is as it was.
    """
    directory = os.path.join(model_dir, DIRECTORY)
    files.make_directory(directory)
    with files.locked(directory):
        _replace(directory, checkpoint)


def _replace(directory: str, checkpoint: str):
    copy(checkpoint, directory)
    name = os.path.basename(checkpoint)
    for file in files.list_directory(directory):
        is_older = _OF_CHECKPOINTS.search(file) and not file.startswith(name + ".")
        if is_older or files.is_temporary(file):
            files.remove(os.path.join(directory, file))


def copy(checkpoint: str, directory: str):
    """Copies a checkpoint to a directory, whose state file then names it alone."""
    source, name = os.path.split(checkpoint)
    for file, _, _ in sorted(reading.files_of(checkpoint)):  # The data before the index.
        with files.replacing(os.path.join(directory, file)) as temporary:
            tf.io.gfile.copy(os.path.join(source, file), temporary)
    problem = reading.problem(os.path.join(directory, name))
    if problem:  # The training may have deleted the checkpoint meanwhile.
        raise UserError(f"{checkpoint} cannot be kept in {directory}: {problem}")
    selection.write_state(directory, [os.path.join(directory, name)])
