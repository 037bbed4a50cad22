"""What is in a checkpoint, and whether a graph can take it."""

from typing import Dict, Optional

import tensorflow.compat.v1 as tf

from common.errors import UserError

# What reading a checkpoint raises where a file of it is missing, cut off or overwritten.
_UNREADABLE = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    ValueError,
)


def open_checkpoint(path: str):
    """A reader of the checkpoint with this prefix (`model.ckpt-1000`, without `.index`)."""
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"Cannot read a checkpoint at {path}: {_first_line(error)} "
            "Expected a path like <model_dir>/model.ckpt-1000."
        ) from error


def global_step(path: str) -> int:
    """The global step a checkpoint was written at."""
    return int(open_checkpoint(path).get_tensor(tf.GraphKeys.GLOBAL_STEP))


def latest(model_dir: str) -> Optional[str]:
    """Path of the newest checkpoint in a directory, None if there is none."""
    return tf.train.latest_checkpoint(model_dir)


def average_name(name: str) -> str:
    """Name of the moving average of the variable of a name, in the graph and in checkpoints."""
    return f"{name}/ExponentialMovingAverage"


def check_restorable(path: str, variables: Dict[str, tf.Variable]):
    """Checks that a checkpoint holds every variable, with the shape the graph wants.

    Args:
        path: prefix of the checkpoint.
        variables: name in the checkpoint -> variable of the graph.

    Raises:
        UserError: names the first variable that is missing or differs, and both shapes.
    """
    shapes = open_checkpoint(path).get_variable_to_shape_map()
    for name, variable in variables.items():
        wanted = variable.shape.as_list()
        if shapes.get(name) != wanted:
            found = f"shape {shapes[name]}" if name in shapes else "no such variable"
            raise UserError(
                f"The checkpoint {path} is of another network: variable {name} should have shape "
                f"{wanted}, the checkpoint has {found}. Use the flags it was trained with, or "
                "another --model_dir."
            )


class CheckedSaver(tf.train.Saver):
    """A saver for restoring that says first which variable of a checkpoint does not fit."""

    def __init__(self, variables: Dict[str, tf.Variable]):
        super().__init__(variables)
        self._variables_by_name = variables

    def restore(self, sess, save_path):
        check_restorable(save_path, self._variables_by_name)
        try:
            super().restore(sess, save_path)
        except _UNREADABLE as error:
            missing = isinstance(error, tf.errors.NotFoundError)
            reason = "a file of it is missing." if missing else _first_line(error)
            raise UserError(
                f"The checkpoint {save_path} is damaged or not all there: {reason} "
                "Take another one with --checkpoint_path."
            ) from error


def _first_line(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return message.strip().splitlines()[0].rstrip(".") + "."
