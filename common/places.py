"""Paths that the user names: whether TensorFlow can open what is there.

A path may be a URL of a file system that TensorFlow knows, like s3://bucket/name.
"""

import re
import sys
import threading
from typing import Optional

# TensorFlow looks for the files of a checkpoint by patterns: it finds none, or deletes another's.
_PATTERN = re.compile(r"[*?[\\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Seconds for a file system to answer; without credentials, gs:// tries for minutes.
_PATIENCE = 30
_CHECK = "Check the address, the network, and the credentials."


def problem(path: str, has_checkpoints: bool = False) -> Optional[str]:
    """Says in a sentence what is wrong with a path; None if nothing is.

    Args:
        path: of a file or a directory, which need not exist.
        has_checkpoints: whether checkpoints or SavedModels are there, or will be.
    """
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return (
            "the name is not UTF-8, and TensorFlow opens no other: rename it, or make a symbolic "
            "link to it and name that."
        )
    if path.encode(sys.getfilesystemencoding(), "replace") != encoded:
        return (
            "Python and TensorFlow would open different files, since this locale is not of UTF-8: "
            "set LC_ALL=C.UTF-8, or use ASCII names."
        )
    found = has_checkpoints and _PATTERN.search(path)
    if found:
        return (
            f"TensorFlow takes a path with {found.group()} in it for a pattern where it looks for "
            "checkpoints: rename it, or make a symbolic link to it and name that."
        )
    scheme = _SCHEME.match(path)
    return scheme and _problem_of_url(path, scheme.group())


def _problem_of_url(path: str, scheme: str) -> Optional[str]:
    from common.runtime import tf  # Slow, and needed for URLs only.

    if re.fullmatch("s3://[^/]*/*", path):
        return "TensorFlow takes no bucket as a directory: name a directory, s3://bucket/name."
    errors = []

    def look():
        try:
            tf.io.gfile.stat(path)
        except tf.errors.OpError as error:
            errors.append(error)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_PATIENCE)
    if looking.is_alive():
        return f"it did not answer within {_PATIENCE} s. {_CHECK}"
    if not errors:
        return None
    reason = errors[0].message.splitlines()[0] if errors[0].message else ""
    if isinstance(errors[0], tf.errors.UnimplementedError) or "shared object file" in reason:
        return (
            f"TensorFlow {tf.__version__} has no file system {scheme} here. Mount it, or work in a "
            "local directory and copy that."
        )
    if isinstance(errors[0], tf.errors.NotFoundError):
        return None
    return f"TensorFlow cannot open it: {reason.rstrip('.')}. {_CHECK}"
