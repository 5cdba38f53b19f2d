"""Where the processes of one start find each other.

In: the variables that torchrun has set.  Out: a store of this start only.

    torchrun's own store    process 0 writes its port, others wait for it          one for all starts of a run
    process 0's store       addresses, for gloo and NCCL                           one for each start

After a restart torchrun's store still holds what processes that are gone had left there, and a process
that reads before the new ones have written gets a dead address (pytorch issue 135712; seen with torch 2.13).
So the port is tried before it is used: a dead one is noticed at once, and read again.
"""

import contextlib
import os
import socket
import time

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from training.distributed.launch import Launch

PORT_KEY = "foldserve port"
WAIT_SECONDS = 300
TRY_SECONDS = 5
PAUSE_SECONDS = 0.1


def open_store(launch: Launch) -> TCPStore:
    """The store of this start, served by process 0 on the machine that MASTER_ADDR names."""
    host = os.environ["MASTER_ADDR"]
    shared, _, _ = next(rendezvous("env://"))
    if launch.is_first:
        store = TCPStore(host, 0, launch.size, is_master=True, wait_for_workers=False)
        shared.set(PORT_KEY, str(store.port))
        return store
    port = _find_port(host, shared)
    return TCPStore(host, port, launch.size, is_master=False, wait_for_workers=False)


def _find_port(host: str, shared: Store) -> int:
    """The port that process 0 listens at; raises TimeoutError after WAIT_SECONDS."""
    give_up = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < give_up:
        port = int(shared.get(PORT_KEY))
        with contextlib.suppress(OSError), socket.create_connection((host, port), TRY_SECONDS):
            return port
        time.sleep(PAUSE_SECONDS)
    raise TimeoutError(f"the first process does not listen at {host}:{port}")
