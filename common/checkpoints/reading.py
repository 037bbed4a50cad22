"""Reads one checkpoint: its contents, whether it is complete, and whether it fits a network."""

import contextlib
import functools
import os
import re
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np

from common import files, runtime
from common.checkpoints import index
from common.errors import UserError
from common.runtime import tf

# A line of a reader's debug_string: name (DT_FLOAT) [3,3,8,16]
_SHAPE = re.compile(r"^(\S+) \(\w+\) \[([\d,]*)\]", re.MULTILINE)
# What reading a checkpoint raises where a file of it is missing, cut off or overwritten.
UNREADABLE = (tf.errors.OpError, OSError, ValueError, IndexError)


def open_checkpoint(path: str):
    """Returns a reader of the checkpoint with this prefix (`model.ckpt-1000`, no `.index`)."""
    try:
        return _load(path)
    except UNREADABLE as error:
        if exists(path):
            raise UserError(
                f"The checkpoint {path} is damaged or not all there: {_first_line(error)} "
                "Take another one."
            ) from error
        raise UserError(
            f"Cannot read a checkpoint at {path}: {_first_line(error)} "
            "Expected a path like <model_dir>/model.ckpt-1000."
        ) from error


def _load(path: str):
    index.check(path)
    return tf.train.load_checkpoint(path)


def variable_shapes(reader) -> Dict[str, List[int]]:
    """Returns {name: shape} of the variables of a checkpoint that `open_checkpoint` returned.

    A reader's own `get_variable_to_shape_map` may never free the names and shapes it returns.
    """
    lines = _SHAPE.findall(tf.compat.as_text(reader.debug_string()))
    return {name: [int(size) for size in sizes.split(",") if size] for name, sizes in lines}


def global_step(path: str) -> int:
    """Returns the global step at which a checkpoint was written."""
    step = np.asarray(open_checkpoint(path).get_tensor(tf.GraphKeys.GLOBAL_STEP))
    if step.shape or step.dtype.kind != "i":
        raise UserError(
            f"The checkpoint {path} is damaged: its global_step is no integer. Take another one."
        )
    return int(step)


def average_name(name: str) -> str:
    """Returns the name of a variable's moving average, in the graph and in checkpoints."""
    return f"{name}/ExponentialMovingAverage"


def exists(path: str) -> bool:
    """Whether a checkpoint exists; TensorFlow deletes its index first."""
    return tf.io.gfile.exists(path + ".index")


def files_of(path: str) -> Tuple[tuple, ...]:
    """Returns (name, size, modification time) of each file of a checkpoint."""
    directory, prefix = os.path.dirname(path), os.path.basename(path) + "."
    if not tf.io.gfile.isdir(directory):
        return ()
    found = []
    for name in sorted(files.list_directory(directory)):
        if name.startswith((prefix + "data-", prefix + "index")):
            try:
                stat = tf.io.gfile.stat(os.path.join(directory, name))
            except tf.errors.NotFoundError:
                continue  # Just deleted.
            found.append((name, stat.length, stat.mtime_nsec))
    return tuple(found)


def problem(path: str) -> Optional[str]:
    """Says in a sentence what is wrong with a checkpoint; None if all of it can be read."""
    found = files_of(path)
    if not any(name.endswith(".index") for name, _, _ in found) or len(found) < 2:
        return "A file of it is missing."
    return _problem(path, found)


@functools.lru_cache(maxsize=64)
def _problem(path: str, found: Tuple[tuple, ...]) -> Optional[str]:
    del found  # With other sizes or times it is not the same question.
    try:
        reader = _load(path)
        for name in variable_shapes(reader):
            reader.get_tensor(name)  # Compares the checksum.
    except UNREADABLE as error:
        return f"It is damaged: {_first_line(error)}"
    return None


def forget():
    """Makes `problem` read again: for tests that damage a file right after it was written."""
    _problem.cache_clear()


@contextlib.contextmanager
def warning_if_deleted(path: str, consequence: str):
    """Turns an error into a warning if the checkpoint that the body reads has been deleted.

    Args:
        path: the checkpoint, which a training may delete at any time.
        consequence: the warning: what the deletion means here.
    """
    try:
        yield
    except (UserError, tf.errors.NotFoundError) as error:
        if exists(path):
            raise
        tf.logging.warning(
            "%s A larger --keep_checkpoint_max of the training keeps them longer. (%s)",
            consequence,
            _first_line(error),  # Which may have had another cause.
        )


def check_restorable(
    path: str,
    variables: Dict[str, tf.Variable],
    flag_of: Callable[[str], Optional[str]] = lambda name: None,
):
    """Checks that a checkpoint has every variable in the shape that the graph needs.

    Args:
        path: prefix of the checkpoint.
        variables: name in the checkpoint -> variable of the graph.
        flag_of: from a variable's name to the flag that decides whether it is there; None for a
            variable of the network.

    Raises:
        UserError: names the first variable that is missing or differs, and both shapes.
    """
    shapes = variable_shapes(open_checkpoint(path))
    for name, variable in variables.items():
        wanted = variable.shape.as_list()
        if shapes.get(name) != wanted:
            found = f"shape {shapes[name]}" if name in shapes else "no such variable"
            if name not in shapes and flag_of(name):
                raise UserError(
                    f"The checkpoint {path} was written with another {flag_of(name)}: it has no "
                    f"variable {name}. Use the flag it was trained with, or another --model_dir, "
                    "which may start from it with --init_checkpoint."
                )
            raise UserError(
                f"The checkpoint {path} is of another network: variable {name} should have shape "
                f"{wanted}, the checkpoint has {found}. Use the flags it was trained with, or "
                "another --model_dir."
            )


class CheckedSaver(tf.train.Saver):
    """A saver that, before it restores, checks the variables of the checkpoint."""

    def __init__(self, variables: Dict[str, tf.Variable]):
        super().__init__(variables)
        self._variables_by_name = variables

    def restore(self, sess, save_path):
        check_restorable(save_path, self._variables_by_name)
        try:
            super().restore(sess, save_path)
        except UNREADABLE as error:
            if problem(save_path) is None:  # All of it can be read.
                raise UserError(
                    f"The checkpoint {save_path} does not fit the network: {_first_line(error)} "
                    "Use the flags it was trained with, or another checkpoint."
                ) from error
            missing = isinstance(error, tf.errors.NotFoundError)
            reason = "a file of it is missing." if missing else _first_line(error)
            raise UserError(
                f"The checkpoint {save_path} is damaged or not all there: {reason} "
                "Take another one with --checkpoint_path."
            ) from error


def _first_line(error: Exception) -> str:
    return runtime.first_line(error).rstrip(".") + "."
