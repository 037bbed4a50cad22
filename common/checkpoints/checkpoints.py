"""Checkpoints: what is in one, whether it is whole, which is the newest, and the best."""

import contextlib
import datetime
import functools
import math
import os
import re
import time
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import tensorflow.compat.v1 as tf
from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from common import locks
from common.data import tfrecords
from common.errors import UserError

BEST = "best"
_STATE = "checkpoint"
_INDEX = re.compile(r"(?P<name>.+-(?P<step>\d+))\.index$")
# A line of a reader's debug_string: name (DT_FLOAT) [3,3,8,16]
_SHAPE = re.compile(r"^(\S+) \(\w+\) \[([\d,]*)\]", re.MULTILINE)
# What a writer that was killed leaves: parts of a checkpoint, the state before it is renamed.
_LEFTOVER = re.compile(
    r".+-\d+_temp_[0-9a-f]{32}$|.+-\d+\.index\.tempstate\d+$|checkpoint\.tmp[0-9a-f]{32}$|"
    r"results\.json\.tmp\d+$|\.tmp-\d+-"
)
_SAY_EVERY_SECONDS = 60

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


def variable_shapes(reader) -> Dict[str, List[int]]:
    """Shape of each variable of a checkpoint by its name, from what `open_checkpoint` returns.

    TensorFlow 1.15's `get_variable_to_shape_map` never frees the names and shapes it returns.
    """
    lines = _SHAPE.findall(tf.compat.as_text(reader.debug_string()))
    return {name: [int(size) for size in sizes.split(",") if size] for name, sizes in lines}


def global_step(path: str) -> int:
    """The global step a checkpoint was written at."""
    return int(open_checkpoint(path).get_tensor(tf.GraphKeys.GLOBAL_STEP))


def latest(model_dir: str) -> Optional[str]:
    """Path of the newest whole checkpoint in a directory, None if there is none.

    That is the one the directory's state file names. Where it is damaged, or the state file itself
    is, another one takes its place, with a warning.

    Raises:
        UserError: there are checkpoints, but every one is damaged.
    """
    named, trouble = _named(model_dir)
    if named:
        trouble = problem(named)
        if not trouble:
            return named
    others = [path for path in _in_directory(model_dir) if path != named]
    for path in others:
        if problem(path):
            continue
        _warn_once(f"{named or model_dir}: {trouble} Taking the newest whole checkpoint, {path}.")
        return path
    if not named and not trouble:
        return None  # At most parts of a first checkpoint, which was never finished.
    raise UserError(
        f"{named or model_dir}: {trouble} No other checkpoint in {model_dir} is whole. Move the "
        "files model.ckpt-* and checkpoint away to start from the beginning."
    )


def resolve(path: str) -> str:
    """The checkpoint itself, or the latest of a directory."""
    if not tf.io.gfile.isdir(path):
        open_checkpoint(path)
        return path
    newest = latest(path)
    if not newest:
        raise UserError(
            f"There is no checkpoint in {path}: train first, or name another directory."
        )
    return newest


@contextlib.contextmanager
def warning_if_deleted(path: str, consequence: str):
    """Around what reads a checkpoint: a warning in place of an error that its deletion explains.

    Args:
        path: the checkpoint, which a training may delete at any time.
        consequence: what that means here, as a sentence.
    """
    try:
        yield
    except (UserError, tf.errors.NotFoundError):
        if exists(path):
            raise
        tf.logging.warning(
            "%s A larger --keep_checkpoint_max of the training keeps them longer.", consequence
        )


def problem(path: str) -> Optional[str]:
    """What is wrong with a checkpoint, as a sentence; None where every byte of it can be read."""
    files = _files(path)
    if not any(name.endswith(".index") for name, _, _ in files) or len(files) < 2:
        return "A file of it is missing."
    return _problem(path, files)


@functools.lru_cache(maxsize=64)
def _problem(path: str, files: Tuple[tuple, ...]) -> Optional[str]:
    del files  # With other sizes or times it is not the same question.
    try:
        reader = tf.train.load_checkpoint(path)
        for name in variable_shapes(reader):
            reader.get_tensor(name)  # Compares the checksum.
    except _UNREADABLE as error:
        return f"It is damaged: {_first_line(error)}"
    return None


def forget():
    """Makes `problem` look anew, for one that damages files within a second of their writing."""
    _problem.cache_clear()


def exists(path: str) -> bool:
    """Whether a checkpoint's index is there; its deletion begins with the index."""
    return tf.io.gfile.exists(path + ".index")


def repair(model_dir: str, keep: int):
    """Makes a directory ready for one that goes on training in it, and for TensorFlow's restoring.

    Its state file names a whole checkpoint afterwards. What a killed writer left is removed, and
    so are checkpoints but the newest ones. Nobody else may write to the directory meanwhile.

    Args:
        model_dir: the directory.
        keep: number of checkpoints that are kept, at least 1.
    """
    remove_leftovers(model_dir)
    newest = latest(model_dir)
    if not newest:
        return
    if newest == _named(model_dir)[0]:
        others = list(tf.train.get_checkpoint_state(model_dir).all_model_checkpoint_paths)
    else:
        others = _in_directory(model_dir)[::-1]  # Damaged ones too, to be deleted in their turn.
    others = [path for path in others if path != newest]
    surplus = others[: max(0, len(others) + 1 - keep)]
    for path in surplus:
        tf.train.remove_checkpoint(path)
    if surplus or newest != _named(model_dir)[0]:
        _write_state(model_dir, [*others[len(surplus) :], newest])


def remove_leftovers(model_dir: str):
    """Removes what writers that were interrupted have left in a directory.

    For the one that trains in it, whose parts of a checkpoint they may be; an evaluator may go on
    writing its own files.
    """
    for directory in (model_dir, os.path.join(model_dir, BEST)):
        if tf.io.gfile.isdir(directory):
            with locks.exclusive(directory):
                _remove_leftovers(directory)


def _remove_leftovers(directory: str):
    for name in tf.io.gfile.listdir(directory):
        if _LEFTOVER.match(name.rstrip("/")):
            path = os.path.join(directory, name.rstrip("/"))
            tf.logging.info("Removing %s, which was never finished.", path)
            if tf.io.gfile.isdir(path):
                tf.io.gfile.rmtree(path)
            else:
                tf.io.gfile.remove(path)


def wait_for_new(model_dir: str, timeout: float) -> Iterator[str]:
    """Yields the newest checkpoint, then each newer one, until `timeout` seconds bring none.

    Says at once and then every minute what it waits for, and how long it still will.
    """
    last = None
    while True:
        path = _wait_for_other_than(last, model_dir, time.monotonic() + timeout)
        if path is None:
            tf.logging.info("No new checkpoint for %d s: evaluation ends.", timeout)
            return
        last = path
        yield path


def _wait_for_other_than(last: Optional[str], model_dir: str, deadline: float) -> Optional[str]:
    wanted = f"a checkpoint newer than {os.path.basename(last)}" if last else "a first checkpoint"
    say_next = time.monotonic()
    while True:
        try:
            path = _next(last, model_dir)
        except UserError as error:  # The trainer may write another one.
            _warn_once(str(error))
            path = None
        if path and path != last:
            return path
        now = time.monotonic()
        left = deadline - now
        if left <= 0:
            return None
        if now >= say_next:
            say_next += _SAY_EVERY_SECONDS
            time_left = datetime.timedelta(seconds=math.ceil(left))
            tf.logging.info(
                "Waiting for %s in %s, for up to %s more.", wanted, model_dir, time_left
            )
        time.sleep(min(1.0, left))


def _next(last: Optional[str], model_dir: str) -> Optional[str]:
    """The oldest whole checkpoint after `last`; the newest one if that is older or None."""
    newest = latest(model_dir)
    if not last or not newest:
        return newest
    newer = [path for path in _in_directory(model_dir) if _step(last) < _step(path) < _step(newest)]
    return next((path for path in reversed(newer) if not problem(path)), newest)


def _step(path: str) -> int:
    return int(path.rsplit("-", 1)[1])


def keep_best(model_dir: str, path: str):
    """Copies a checkpoint to `best/`, in place of the one that is there.

    `best/` is a directory of checkpoints with one: its state file changes when the new one is
    there as a whole, and only then the old one goes.

    Raises:
        UserError, tf.errors.NotFoundError: the checkpoint is not whole; `best/` is as it was.
    """
    directory = os.path.join(model_dir, BEST)
    tf.io.gfile.makedirs(directory)
    with locks.exclusive(directory):
        _replace_best(directory, path)


def _replace_best(directory: str, path: str):
    name = os.path.basename(path)
    for file, _, _ in sorted(_files(path)):  # The data before the index.
        target = os.path.join(directory, file)
        temporary = tfrecords.temporary_path(target)
        tf.io.gfile.copy(os.path.join(os.path.dirname(path), file), temporary, overwrite=True)
        tf.io.gfile.rename(temporary, target, overwrite=True)
    trouble = problem(os.path.join(directory, name))
    if trouble:  # The training may have deleted the checkpoint meanwhile.
        raise UserError(f"{path} cannot be kept in {directory}: {trouble}")
    _write_state(directory, [os.path.join(directory, name)])
    for file in tf.io.gfile.listdir(directory):
        if file != _STATE and not file.startswith(name + "."):
            tf.io.gfile.remove(os.path.join(directory, file))


def _named(model_dir: str) -> Tuple[Optional[str], Optional[str]]:
    """(path that a directory's state file names or None, what is wrong with the state file)."""
    if not tf.io.gfile.exists(os.path.join(model_dir, _STATE)):
        others = _in_directory(model_dir)
        whole = others and any(not problem(path) for path in others)
        return None, "The state file `checkpoint` is missing." if whole else None
    try:
        state = tf.train.get_checkpoint_state(model_dir)
    except ValueError:  # It is empty, or not text.
        state = None
    if state is None:
        return None, "The state file `checkpoint` is damaged."
    return state.model_checkpoint_path, None


def _write_state(model_dir: str, paths: List[str]):
    """Writes a state file that names checkpoints of its directory, the latest last."""
    names = [os.path.basename(path) for path in paths]
    state = CheckpointState(model_checkpoint_path=names[-1], all_model_checkpoint_paths=names)
    tfrecords.write_text(os.path.join(model_dir, _STATE), text_format.MessageToString(state))


def _in_directory(model_dir: str) -> List[str]:
    """Paths of the checkpoints of which a directory holds the index, the newest first."""
    if not tf.io.gfile.isdir(model_dir):
        return []
    found = [match for match in map(_INDEX.match, tf.io.gfile.listdir(model_dir)) if match]
    found.sort(key=lambda match: int(match.group("step")), reverse=True)
    return [os.path.join(model_dir, match.group("name")) for match in found]


def _files(path: str) -> Tuple[tuple, ...]:
    """(name, size, time) of each file of a checkpoint."""
    directory, prefix = os.path.dirname(path), os.path.basename(path) + "."
    if not tf.io.gfile.isdir(directory):
        return ()
    files = []
    for name in sorted(tf.io.gfile.listdir(directory)):
        if name.startswith((prefix + "data-", prefix + "index")):
            try:
                stat = tf.io.gfile.stat(os.path.join(directory, name))
            except tf.errors.NotFoundError:
                continue  # Just deleted.
            files.append((name, stat.length, stat.mtime_nsec))
    return tuple(files)


@functools.lru_cache(maxsize=None)
def _warn_once(message: str):
    tf.logging.warning("%s", message)


def average_name(name: str) -> str:
    """Name of the moving average of the variable of a name, in the graph and in checkpoints."""
    return f"{name}/ExponentialMovingAverage"


def check_restorable(
    path: str,
    variables: Dict[str, tf.Variable],
    flag_of: Callable[[str], Optional[str]] = lambda name: None,
):
    """Checks that a checkpoint holds every variable, with the shape the graph wants.

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
                    f"variable {name}. Use the flag it was trained with, or another --model_dir."
                )
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
