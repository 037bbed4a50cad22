"""The most accurate checkpoint of a training, which is kept in `best/`."""

import os
from typing import Any, Dict, List, Optional

from common import files, results
from common.checkpoints import reading, selection
from common.errors import UserError
from common.runtime import tf

DIRECTORY = "best"
# Fewer images than this part of all are not all of them; a few may be bad records.
_PART = 0.9


def keep_if_best(
    model_dir: str, checkpoint: str, step: int, top_1_accuracy: float, images: int
) -> Optional[Dict[str, Any]]:
    """Keeps a checkpoint of this training in best/ if none has been more accurate.

    An accuracy on a part of the images does not count where one on all is known, nor afterwards.

    Args:
        model_dir: directory of the training.
        checkpoint: prefix of the checkpoint that was evaluated.
        step: its global step.
        top_1_accuracy: in [0, 1].
        images: number of images that were evaluated.

    Returns:
        What is in best/: its path in the model directory, step, accuracy, and number of images.
    """
    evaluations = results.evaluations(model_dir)
    best = evaluations[-1].get("best") if evaluations else None
    if best and not reading.exists(os.path.join(model_dir, best["checkpoint"])):
        best = None
    if os.path.dirname(checkpoint) != model_dir.rstrip("/"):
        return best
    if best:
        images_of_best = _images_of(best, evaluations) or images
        if images < _PART * images_of_best:
            tf.logging.info("%d images do not decide what is best: %d did.", images, images_of_best)
            return best
        is_of_all = images_of_best >= _PART * images
        # As results.json rounds it.
        if is_of_all and best["top_1_accuracy"] >= float(str(top_1_accuracy)):
            return best
    consequence = f"The best accuracy so far, but {checkpoint} was deleted before it could be kept."
    with reading.warning_if_deleted(checkpoint, consequence):
        replace(model_dir, checkpoint)
        tf.logging.info("The best accuracy so far: %s is kept in best/ too.", checkpoint)
        best = {
            "checkpoint": os.path.join(DIRECTORY, os.path.basename(checkpoint)),
            "global_step": step,
            "top_1_accuracy": top_1_accuracy,
            "images": images,
        }
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
        if file != selection.STATE and not file.startswith(name + "."):
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
