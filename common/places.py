"""Paths that the user names: whether TensorFlow can open what is there."""

import re
from typing import Optional

# TensorFlow looks for the files of a checkpoint by patterns: it finds none, or deletes another's.
_PATTERN = re.compile(r"[*?[\\]")


def problem(path: str, has_checkpoints: bool = False) -> Optional[str]:
    """Says in a sentence what is wrong with a path; None if nothing is.

    Args:
        path: of a file or a directory, which need not exist.
        has_checkpoints: whether checkpoints or SavedModels are there, or will be.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return (
            "the name is not UTF-8, and TensorFlow opens no other: rename it, or make a symbolic "
            "link to it and name that."
        )
    found = has_checkpoints and _PATTERN.search(path)
    if found:
        return (
            f"TensorFlow takes a path with {found.group()} in it for a pattern where it looks for "
            "checkpoints: rename it, or make a symbolic link to it and name that."
        )
    return None
