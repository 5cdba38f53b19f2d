"""Memory of what is not served any more, given back to the system.

In: nothing.  Out: nothing; a resident set that is smaller where the C library can do that.

glibc keeps freed memory in its arenas for later.  A model's weights are tens or hundreds of megabytes, and
are not needed again soon.
"""

import ctypes
import gc


def return_freed_memory() -> None:
    """Collect cycles, then let glibc return its free pages; other C libraries keep theirs.

    Takes some milliseconds and is meant for a thread: the second part runs without the interpreter's lock.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
