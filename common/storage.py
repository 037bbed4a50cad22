"""The directory a training writes to: one writer at a time, and its troubles in one sentence."""

import contextlib
import datetime
import errno
import fcntl
import os
import re
import socket
from typing import Optional

import tensorflow.compat.v1 as tf

from common.checkpoints import checkpoints
from common.errors import UserError

LOCK = ".lock"

# What the operating system calls it -> what to do about it.
_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or have the quota raised",
    errno.EFBIG: "Have the limit on the size of files raised",
    errno.EROFS: "Make it writable, or name another --model_dir",
    errno.EACCES: "Make it writable, or name another --model_dir",
    errno.EPERM: "Make it writable, or name another --model_dir",
    errno.EIO: "Look after the disk",
}


@contextlib.contextmanager
def locked(directory: str):
    """Around what writes to a directory, which is made if need be: nobody else may at the time.

    The lock is the operating system's own, so that one of a process that died does not count. What
    an error leaves half-written is removed, which also makes room on a full disk.

    Raises:
        UserError: another process has it.
    """
    tf.io.gfile.makedirs(directory)
    if not os.path.isdir(directory):  # Of a file system that only TensorFlow knows.
        yield
        return
    with open(os.path.join(directory, LOCK), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--model_dir: another training writes to {directory}: {file.read().strip()}. "
                "Wait for it, end it, or name another directory."
            ) from error
        except OSError as error:
            tf.logging.warning("%s cannot be locked: %s.", directory, error.strerror)
        try:
            file.truncate(0)
            now = datetime.datetime.now().isoformat(" ", "seconds")
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
            file.flush()
            yield
        except Exception:
            with contextlib.suppress(OSError, tf.errors.OpError):
                checkpoints.remove_leftovers(directory)
            raise


class DirectoryGuard(tf.train.CheckpointSaverListener):
    """Ends training where the model directory has vanished; TensorFlow would make another."""

    def __init__(self, directory: str):
        self._directory = directory
        self._lock = os.path.join(directory, LOCK)

    def begin(self):
        self._is_there = os.path.exists(self._lock)

    def before_save(self, session, global_step_value):
        if self._is_there and not os.path.exists(self._lock):
            raise UserError(_vanished(self._directory))


def explain(error: Exception, directory: Optional[str]) -> Optional[str]:
    """One sentence for an error that comes from storage, else None.

    Args:
        error: an OSError, or what TensorFlow makes of one.
        directory: the model directory; None where nothing is written to it.
    """
    if directory and not tf.io.gfile.isdir(directory):
        return _vanished(directory)
    reason, path = _reason(error), _path(error)
    if reason is None:
        return None
    if path and not (directory and path.startswith(directory)):
        return f"{path}: {os.strerror(reason)}. Mend that, or name another place, and start again."
    if not directory:
        return None
    try:
        newest = checkpoints.latest(directory)
    except (UserError, OSError, tf.errors.OpError):
        newest = None
    kept = f"The last whole checkpoint is {newest}." if newest else "There is no checkpoint yet."
    return (
        f"Writing failed: {os.strerror(reason)} ({directory}). {kept} {_ADVICE[reason]} and start "
        "again."
    )


def _vanished(directory: str) -> str:
    return f"The model directory {directory} has vanished while it was in use."


def _path(error: Exception) -> Optional[str]:
    """The file that an error names, if it names one."""
    if isinstance(error, OSError):
        return error.filename and str(error.filename)
    found = re.match(r"([^;\n]+); ", str(error))  # As TensorFlow says it: path; reason.
    return found and found.group(1)


def _reason(error: Exception) -> Optional[int]:
    """The operating system's number of what went wrong, if it is one of those with advice."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _ADVICE else None
    message = str(error)
    return next((number for number in _ADVICE if os.strerror(number) in message), None)
