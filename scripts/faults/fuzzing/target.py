"""What a target of fuzz.py is."""

import random
import signal
from typing import Callable, List, NamedTuple

# Where counts, sizes and offsets overflow.
NUMBERS = (0, 1, -1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)

_HANG_SECONDS = 60


class Target(NamedTuple):
    """One kind of input.

    Attributes:
        seeds: sound inputs.
        mutate: from a generator of random numbers and an input to another one.
        run: feeds an input to what reads it.
    """

    seeds: Callable[[], List[bytes]]
    mutate: Callable[[random.Random, bytes], bytes]
    run: Callable[[bytes], None]


def end_hangs():
    """Ends this process by SIGPROF if it takes too much of the processor's time from here on.

    Time in which it is stopped, or in which others have the processor, does not count. The largest
    images that are decoded take a third of the limit.
    """
    signal.setitimer(signal.ITIMER_PROF, _HANG_SECONDS)
