"""Finds checkpoints in a directory: the latest complete one, and the next one to appear."""

import datetime
import functools
import math
import os
import re
import time
from typing import Iterator, List, Optional, Tuple

from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from common import files
from common.checkpoints import reading
from common.errors import UserError
from common.runtime import tf

STATE = "checkpoint"
_INDEX = re.compile(r"(?P<name>.+-(?P<step>\d+))\.index$")
_SAY_EVERY_SECONDS = 60


def latest(model_dir: str) -> Optional[str]:
    """Returns the path of the latest complete checkpoint in a directory; None if there is none.

    That is the one that the directory's state file names. If it or the state file is damaged, the
    newest complete checkpoint is taken instead, with a warning.

    Raises:
        UserError: there are checkpoints, but all of them are damaged.
    """
    named, trouble = named_by_state(model_dir)
    if named:
        trouble = reading.problem(named)
        if not trouble:
            return named
    others = [path for path in in_directory(model_dir) if path != named]
    for path in others:
        if reading.problem(path):
            continue
        _warn_once(f"{named or model_dir}: {trouble} Taking the newest whole checkpoint, {path}.")
        return path
    if not named and not trouble:
        return None  # At most parts of a first checkpoint, which was never finished.
    raise UserError(
        f"{named or model_dir}: {trouble} No other checkpoint in {model_dir} is whole. Move "
        "model.ckpt-*, checkpoint, results.json, and best/ away to start from the beginning."
    )


def resolve(path: str, flag: str = "") -> str:
    """Returns the checkpoint at a path, or the latest one in it if it is a directory.

    Args:
        path: prefix of a checkpoint, or a directory.
        flag: the flag with this path, which the error should name.

    Raises:
        UserError: there is no checkpoint, or none that can be read.
    """
    try:
        checkpoint = latest(path) if tf.io.gfile.isdir(path) else path
        if not checkpoint:
            raise UserError(
                f"There is no checkpoint in {path}: train first, or name another directory."
            )
        reading.open_checkpoint(checkpoint)
    except UserError as error:
        if not flag:
            raise
        raise UserError(f"{flag}={path}: {error}") from error
    return checkpoint


def named_by_state(model_dir: str) -> Tuple[Optional[str], Optional[str]]:
    """Returns (checkpoint that the state file names or None, what is wrong with the file)."""
    if not tf.io.gfile.exists(os.path.join(model_dir, STATE)):
        others = in_directory(model_dir)
        whole = others and any(not reading.problem(path) for path in others)
        return None, "The state file `checkpoint` is missing." if whole else None
    try:
        state = tf.train.get_checkpoint_state(model_dir)
    except ValueError:  # It is empty, or not text.
        state = None
    if state is None:
        return None, "The state file `checkpoint` is damaged."
    return state.model_checkpoint_path, None


def all_named_by_state(model_dir: str) -> List[str]:
    """Returns the checkpoints that the state file lists, newest last; none if there is no file."""
    state = tf.train.get_checkpoint_state(model_dir)
    return list(state.all_model_checkpoint_paths) if state else []


def in_directory(model_dir: str) -> List[str]:
    """Returns the paths of all checkpoints in a directory that have an index, newest first."""
    if not tf.io.gfile.isdir(model_dir):
        return []
    found = [match for match in map(_INDEX.match, files.list_directory(model_dir)) if match]
    found.sort(key=lambda match: int(match.group("step")), reverse=True)
    return [os.path.join(model_dir, match.group("name")) for match in found]


def write_state(model_dir: str, paths: List[str]):
    """Writes the state file of a directory; the latest checkpoint is the last of `paths`."""
    names = [os.path.basename(path) for path in paths]
    state = CheckpointState(model_checkpoint_path=names[-1], all_model_checkpoint_paths=names)
    files.write_text(os.path.join(model_dir, STATE), text_format.MessageToString(state))


def wait_for_new(model_dir: str, timeout: float) -> Iterator[str]:
    """Yields the latest checkpoint, then each newer one, until none appears for `timeout` seconds.

    While it waits, it logs every minute for what and for how much longer.
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
    """Returns the oldest complete checkpoint after `last`, else the latest one or None."""
    newest = latest(model_dir)
    if not last or not newest:
        return newest
    newer = [path for path in in_directory(model_dir) if _step(last) < _step(path) < _step(newest)]
    return next((path for path in reversed(newer) if not reading.problem(path)), newest)


def _step(path: str) -> int:
    return int(path.rsplit("-", 1)[1])


@functools.lru_cache(maxsize=None)
def _warn_once(message: str):
    tf.logging.warning("%s", message)
