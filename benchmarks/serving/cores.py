"""Which cores each side uses: all of them, or the last one for the driver and the others for the server.

In: `shared` or `split`.  Out: command prefixes for both sides.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """The cores of the server and of the driver, with the `taskset` prefix of each."""

    server: tuple[int, ...]
    driver: tuple[int, ...]

    @property
    def num_server(self) -> int:
        return len(self.server)

    @property
    def server_prefix(self) -> list[str]:
        return _taskset(self.server)

    @property
    def driver_prefix(self) -> list[str]:
        return _taskset(self.driver)


def share_out(pin: str) -> Cores:
    """The cores of this process, divided by `pin`; ValueError if `split` has too few."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    if pin == "shared":
        return Cores(cores, cores)
    if len(cores) < 2:
        raise ValueError("--pin split needs at least 2 cores")
    return Cores(cores[:-1], cores[-1:])


def _taskset(cores: tuple[int, ...]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores))]
