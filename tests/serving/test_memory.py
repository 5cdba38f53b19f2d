"""malloc, set up for a service: what is received and let go costs no page faults each time."""

import subprocess
import sys

RECEIVED = """
import resource
from service.models.memory import map_large_blocks

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        part = bytes(256_000)  # as a transport receives
        copy = part[:250_000]
        del part, copy
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

map_large_blocks()
faults(10)
print(faults(200))
"""


def test_the_end_of_the_heap_is_kept_for_what_is_received_next() -> None:
    """Given back each time, it had to be mapped again page by page."""
    told = subprocess.run([sys.executable, "-c", RECEIVED], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 1000  # 124 for each time without
