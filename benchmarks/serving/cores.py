"""Who runs where: everything on all cores, or the driver on the last one and the servers on the others.

In: `shared` or `split`.  Out: command prefixes for both sides.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """The cores of each side."""

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
    """The machine's cores under `pin`."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    if pin == "shared":
        return Cores(cores, cores)
    if len(cores) < 2:
        raise ValueError("--pin split needs at least 2 cores")
    return Cores(cores[:-1], cores[-1:])


def _taskset(cores: tuple[int, ...]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores))]
