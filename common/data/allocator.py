"""The memory allocator's settings for buffers as large as batches of images."""

import ctypes

# Of mallopt(3), in malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def keep_large_buffers() -> bool:
    """Makes glibc's malloc reuse large buffers instead of returning them to the kernel.

    A batch, and each image on the way to it, is otherwise mapped, filled with zeros and unmapped
    again every time: a fifth of the time of the whole input. To be called early in a program;
    without glibc it does nothing.

    Returns:
        Whether the settings were accepted.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: others unmap the heap of a large buffer that was freed, whatever the threshold.
    settings = [(_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)]
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)


def return_free_memory():
    """Gives what is free back to the kernel, where it would not be used soon or in other pieces.

    For the end of a phase of a program; without glibc it does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
