"""Files that appear whole or not at all, and locks between processes.

Paths may be of any file system that TensorFlow knows, like gs://bucket/name. Nothing here imports
TensorFlow for local paths, as that takes seconds.
"""

import contextlib
import datetime
import fcntl
import functools
import logging
import math
import os
import re
import secrets
import shutil
import socket
import time
from typing import List

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]+-")
# TensorFlow's own logger, without importing TensorFlow.
_LOG = logging.getLogger("tensorflow")


class LockedError(Exception):
    """Another process holds a lock; the message says which process, if that is known."""


def write_text(path: str, text: str):
    """Writes a UTF-8 file, whole or not at all; an existing file is replaced."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, data: bytes):
    """Writes a file, whole or not at all; an existing file is replaced, but no pipe or device."""
    if not is_remote(path) and is_stream(path):
        _write(path, data)
        return
    with replacing(path) as temporary:
        _write(temporary, data)


def is_stream(path: str) -> bool:
    """Whether a path is not of a file but of a pipe, a device, or like /dev/stdout."""
    parent = os.path.dirname(os.path.abspath(path))
    in_dev = parent == "/dev" or parent.startswith(("/dev/fd", "/proc/"))
    return os.path.exists(path) and (in_dev or not os.path.isfile(path))


def printable(name: str) -> str:
    r"""A name on one line: bytes that are no UTF-8 become \xff, a line's end \n, and so on."""
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # Of a name that is not UTF-8; see os.fsdecode.
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape").decode("ascii")


def valid_text(name: str) -> str:
    r"""A name as UTF-8 can hold it: only bytes that are no UTF-8 are escaped, as \xff."""
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in name)


def list_directory(path: str) -> List[str]:
    """Names of what is in a directory, in any order; those of directories may end with a slash."""
    return _gfile().listdir(path) if is_remote(path) else os.listdir(path)


def make_directory(path: str):
    """Makes a directory, and those above it, unless it exists; with the process's umask."""
    if is_remote(path):
        _gfile().makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)  # TensorFlow would never let a group write.


def check_writable(directory: str):
    """Raises an error of the operating system, or of TensorFlow, if no file can be written."""
    path = temporary_path(os.path.join(directory, "write_test"))
    _write(path, b"")
    remove(path)


def _write(path: str, data: bytes):
    if is_remote(path):
        with _gfile().GFile(path, "wb") as file:
            file.write(data)
        return
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        error.filename = path  # A full disk's error names no file.
        raise


@contextlib.contextmanager
def replacing(path: str):
    """Makes a file or a directory appear whole or not at all.

    The body writes to the temporary path that it receives. Then that is renamed to `path`, where it
    replaces an existing file; after an error it is removed.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        move(temporary, path)
    except BaseException as error:
        with contextlib.suppress(Exception):  # The first error is the one to report.
            remove(temporary)
        if isinstance(error, OSError) and error.filename == temporary:
            raise OSError(error.errno, error.strerror, path) from error
        raise


def move(source: str, path: str):
    """Renames a file or a directory within a file system; an existing file is replaced."""
    if is_remote(path):
        _gfile().rename(source, path, overwrite=True)
    else:
        os.replace(source, path)


def temporary_path(path: str) -> str:
    """Returns a path beside `path` that nobody can guess and that `is_temporary` recognises."""
    directory, name = os.path.split(path)
    # A name of 255 bytes, the longest, could not be made longer.
    return os.path.join(directory, f".tmp-{secrets.token_hex(8)}-{name[:50]}")


def is_temporary(name: str) -> bool:
    """Whether a file name is one of `temporary_path`, so that the file is unfinished."""
    return bool(_TEMPORARY.match(name))


def remove(path: str):
    """Removes a file, or a directory and its contents, if it exists."""
    if is_remote(path):
        gfile = _gfile()
        if gfile.exists(path):
            gfile.rmtree(path) if gfile.isdir(path) else gfile.remove(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


@contextlib.contextmanager
def locked(path: str, seconds: float = math.inf):
    """Holds a lock, which only one process can hold at a time.

    The operating system frees the lock when the process ends, however it ends. On file systems
    without locks, and on those that only TensorFlow knows, every process gets it.

    Args:
        path: a directory; or a file, which is created if necessary and names the process.
        seconds: how long to wait for another process.

    Raises:
        LockedError: another process still holds it.
    """
    if is_remote(path):
        yield
        return
    is_directory = os.path.isdir(path)
    # Whoever may write to the directory, too, must not choose the file that is written.
    flags = os.O_RDONLY if is_directory else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666)
    try:
        _lock(descriptor, path, seconds)
        if not is_directory:
            with contextlib.suppress(OSError):  # The lock works even if the disk is full.
                _write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: str, seconds: float):
    try:
        if seconds == math.inf:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= deadline:
                holder = "" if os.path.isdir(path) else os.read(descriptor, 1000).decode("utf-8")
                raise LockedError(holder.strip() or "another process")
            time.sleep(0.1)
    except OSError as error:
        _warn_once(
            f"{path} cannot be locked ({error.strerror}): see to it that no other process writes "
            "there at the same time."
        )


def _write_holder(descriptor: int):
    now = datetime.datetime.now().isoformat(" ", "seconds")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {now}\n".encode())


@functools.lru_cache(maxsize=None)
def _warn_once(message: str):
    _LOG.warning("%s", message)


def is_remote(path: str) -> bool:
    """Whether a path is a URL, like s3://bucket/name, which TensorFlow opens."""
    return "://" in path


def _gfile():
    from common.runtime import tf  # Slow, and needed for remote paths only.

    return tf.io.gfile
