"""A lock for short changes of a directory that several processes write to."""

import contextlib
import fcntl
import os


@contextlib.contextmanager
def exclusive(directory: str):
    """Around a change of a directory's files: waits until no other process is in such a change.

    A training and its evaluator may write to one at the same time. Without locks, on a file system
    that has none or that only TensorFlow knows, it does not wait.
    """
    if not os.path.isdir(directory):
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
