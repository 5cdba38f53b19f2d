"""What a process sets for itself before it works; it imports nothing of ours and no torch.

In: nothing.  Out: nothing; variables that must stand before torch is imported, and a memory that is kept.

Threads that spin while they wait for each other made an epoch 3 to 20 times slower beside one busy process on
2 cores. And MKL promises the same bits from run to run only in this mode, with a number of threads that stays
(Intel oneMKL guide, "Reproducibility Conditions").
"""

import ctypes
import os
from contextlib import suppress

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MKL_CBWR": "AUTO,STRICT", "MKL_DYNAMIC": "FALSE"}
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, INT_MAX = -1, -3, 2**31 - 1


def set_environment() -> None:
    """What the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def keep_freed_memory() -> None:
    """Let malloc reuse what a step or a picture freed, instead of returning large blocks to the system.

    glibc maps each block above 32 MiB anew, and smaller ones until it has adapted; the kernel clears their
    pages each time. That is half of the time of a batch of 32 × 224×224 pictures, and a third of a
    photograph's decoding. Other libraries of C have no mallopt, and keep their own habits.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, INT_MAX)
        mallopt(M_TRIM_THRESHOLD, INT_MAX)
