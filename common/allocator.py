"""The memory allocator's settings for buffers as large as batches of images."""

import ctypes
from typing import Optional

# Of mallopt(3), in malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

# glibc's arenas other than the first give out no larger buffers (HEAP_MAX_SIZE), less a margin.
_LARGEST_IN_ANY_ARENA = 63 * 2**20


def keep_large_buffers(largest: Optional[int] = None) -> bool:
    """Makes glibc's malloc reuse large buffers instead of returning them to the kernel.

    A batch, and each image on the way to it, is otherwise mapped, filled with zeros and unmapped
    again every time: a fifth of the time of the whole input. To be called early in a program;
    without glibc it does nothing.

    Args:
        largest: bytes of the largest buffer to be kept; None if it has no bound. Where it fits,
            threads have arenas of their own and do not wait for each other, which makes the input
            a tenth faster; else one arena serves all.

    Returns:
        Whether the settings were accepted.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = [(_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)]
    if largest is None or largest > _LARGEST_IN_ANY_ARENA:
        settings.append((_M_ARENA_MAX, 1))
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)


def return_free_memory():
    """Gives what is free back to the kernel, where it would not be used soon or in other pieces.

    For the end of a phase of a program; without glibc it does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
