"""The directory that a training writes to: its lock, its clean-up, and errors of its storage."""

import contextlib
import errno
import os
import re
from typing import List, Optional

from common import files
from common.checkpoints import best, selection
from common.errors import UserError
from common.runtime import tf

LOCK = ".lock"

# What TensorFlow leaves when it is killed: parts of a checkpoint, a state file not yet renamed.
_LEFTOVER = re.compile(
    r".+-\d+_temp_[0-9a-f]{32}$|.+-\d+\.index\.tempstate\d+$|checkpoint\.tmp[0-9a-f]{32}$"
)
# The operating system's error -> what to do about it.
_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or have the quota raised",
    errno.EFBIG: "Have the limit on the size of files raised",
    errno.EROFS: "Make it writable, or name another --model_dir",
    errno.EACCES: "Make it writable, or name another --model_dir",
    errno.EPERM: "Make it writable, or name another --model_dir",
    errno.ELOOP: f"Remove {LOCK} if it is a symbolic link, which is not followed,",
    errno.EIO: "Look after the disk",
}


@contextlib.contextmanager
def locked(model_dir: str):
    """Holds the lock of a directory, which is created if necessary.

    After an error, half-written files are removed, which also makes room on a full disk.

    Raises:
        UserError: another training writes to it.
    """
    files.make_directory(model_dir)
    if files.is_remote(model_dir):
        tf.logging.warning(
            "%s cannot be locked, since file systems that only TensorFlow knows have no locks: see "
            "to it that no other training writes there.",
            model_dir,
        )
    try:
        with files.locked(os.path.join(model_dir, LOCK), seconds=0):
            try:
                yield
            except Exception:
                with contextlib.suppress(OSError, tf.errors.OpError):
                    remove_leftovers(model_dir)
                raise
    except files.LockedError as error:
        raise UserError(
            f"--model_dir: another training writes to {model_dir}: {error}. Wait for it, end it, "
            "or name another directory."
        ) from error


def repair(model_dir: str, keep: int):
    """Prepares a directory for a training that continues in it.

    Removes unfinished files and all but the newest checkpoints, and makes the state file name a
    complete checkpoint, which TensorFlow then restores. No other process may write to the directory
    at the same time.

    Args:
        model_dir: the directory.
        keep: number of checkpoints that are kept, at least 1.
    """
    remove_leftovers(model_dir)
    newest = selection.latest(model_dir)
    if not newest:
        return
    named, _ = selection.named_by_state(model_dir)
    if newest == named:
        others = selection.all_named_by_state(model_dir)
    else:  # Includes damaged ones, which are deleted like all others.
        others = selection.in_directory(model_dir)[::-1]
    paths = [*(path for path in others if path != newest), newest]
    if len(paths) > keep or newest != named:
        _keep_last(model_dir, paths, keep)


def follow(model_dir: str, checkpoint: str):
    """Makes a training go on from another directory's checkpoint, in place of its own ones."""
    files.make_directory(model_dir)
    own = selection.in_directory(model_dir)
    best.copy(checkpoint, model_dir)
    for path in own:
        if os.path.basename(path) != os.path.basename(checkpoint):
            tf.train.remove_checkpoint(path)


def _keep_last(model_dir: str, paths: List[str], keep: int):
    """Removes all but the last `keep` checkpoints, and writes a state file of these."""
    for path in paths[:-keep]:
        # A directory that was copied may name checkpoints of the other one.
        if os.path.normpath(os.path.dirname(path)) == os.path.normpath(model_dir):
            tf.train.remove_checkpoint(path)
    selection.write_state(model_dir, paths[-keep:])


class NewestKept(tf.train.CheckpointSaverListener):
    """Keeps the newest checkpoints of a directory, for savers that do not know the earlier ones.

    The Ascend adapter makes a saver for each call of `train` (npu_estimator.py), which counts, and
    names in the state file, only what it saved itself.

    Args:
        model_dir: the directory.
        keep: number of checkpoints that are kept, at least 1.
    """

    def __init__(self, model_dir: str, keep: int):
        self._model_dir = model_dir
        self._keep = keep

    def begin(self):
        self._paths = self._named()

    def after_save(self, session, global_step_value):
        saved = self._named()
        older = [path for path in self._paths if tf.io.gfile.exists(f"{path}.index")]
        self._paths = [*(path for path in older if path not in saved), *saved]
        _keep_last(self._model_dir, self._paths, self._keep)

    def _named(self) -> List[str]:
        # The state file of a directory that was copied may have the other one's paths.
        names = map(os.path.basename, selection.all_named_by_state(self._model_dir))
        return [os.path.join(self._model_dir, name) for name in names]


def remove_leftovers(model_dir: str):
    """Removes unfinished files that interrupted processes have left.

    Only the process that trains in the directory may call this: to any other, the files could be
    those of the running training. An evaluator may keep writing; it is waited for.
    """
    for directory in (model_dir, os.path.join(model_dir, best.DIRECTORY)):
        if tf.io.gfile.isdir(directory):
            with files.locked(directory):
                _remove_leftovers(directory)


def _remove_leftovers(directory: str):
    for name in files.list_directory(directory):
        name = name.rstrip("/")
        if _LEFTOVER.match(name) or files.is_temporary(name):
            path = os.path.join(directory, name)
            tf.logging.info("Removing %s, which was never finished.", path)
            files.remove(path)


class DirectoryGuard(tf.train.CheckpointSaverListener):
    """Ends training if the model directory has vanished; TensorFlow would make a new one."""

    def __init__(self, directory: str):
        self._directory = directory
        self._lock = os.path.join(directory, LOCK)

    def begin(self):
        self._is_there = os.path.exists(self._lock)

    def before_save(self, session, global_step_value):
        if self._is_there and not os.path.exists(self._lock):
            raise UserError(_vanished(self._directory))


def explain(error: Exception, directory: Optional[str]) -> Optional[str]:
    """Explains an error in a sentence if it comes from storage; otherwise returns None.

    Args:
        error: an OSError, or TensorFlow's error for one.
        directory: the model directory; None if nothing is written to it.
    """
    if directory and not tf.io.gfile.isdir(directory):
        return _vanished(directory)
    reason, path = _reason(error), _path(error)
    if reason is None:
        return None
    if path and not (directory and path.startswith(os.path.join(directory, ""))):
        return f"{path}: {os.strerror(reason)}. Mend that, or name another place, and start again."
    if not directory:
        return None
    try:
        newest = selection.latest(directory)
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
    """Returns the file that an error names, if any."""
    if isinstance(error, OSError):
        return error.filename and str(error.filename)
    found = re.match(r"([^;\n]+); ", str(error))  # TensorFlow writes: path; reason.
    return found and found.group(1)


def _reason(error: Exception) -> Optional[int]:
    """Returns the operating system's error number if there is advice for it."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _ADVICE else None
    message = str(error)
    return next((number for number in _ADVICE if os.strerror(number) in message), None)
