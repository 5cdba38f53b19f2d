"""Memory of what is not needed any more, given back to the system, and large blocks that never move.

In: nothing.  Out: nothing; a smaller resident set and shorter turns of the event loop, where the C library is
glibc.

glibc keeps freed memory in its arenas for later.  A model's weights are tens or hundreds of megabytes, and
are not needed again soon.
"""

import ctypes
import gc

LARGE_BLOCK = 8 << 20
KEPT = 4 << 20  # of freed memory at the end of the heap, for what is received next
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def map_large_blocks() -> None:
    """Let every block of 8 MiB or more come straight from the system, and keep the end of the heap.

    A body that arrives in parts grows.  A mapped block grows by moving pages; one in the heap by copying, for
    up to 20 ms on the event loop.  glibc takes the heap for blocks of up to 32 MiB once it has freed one.

    With one of its thresholds set glibc adapts neither, and gives the end of the heap back after each part
    that was received: 60 MB then take 50,000 page faults, or 0.15 s, instead of 17,000.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, KEPT)


def return_freed_memory() -> None:
    """Collect cycles, then let glibc return its free pages; other C libraries keep theirs.

    Takes some milliseconds and is meant for a thread: the second part runs without the interpreter's lock.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
