"""Several workers behind one port, seen from outside: their processes, and connections to each of them."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx

from service_kit import Server, wait_until, x_request

INFER = "/v2/models/echo/infer"
TWO_WORKERS = ("--workers", "2", "--threads", "2", "--shutdown-timeout-s", "20", "--request-log", "off")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def workers_of(server: Server) -> list[int]:
    """The workers' process numbers, oldest first."""

    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    return [pid for pid in descendants(server.process.pid) if b"spawn_main" in command(pid)]


def inodes_of(pid: int) -> set[str]:
    """The sockets that a process holds."""
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found


def owner_of(server: Server, client: httpx.Client) -> int:
    """The worker at the other end of a client's connection, which must be open."""
    port = connection_port(client)
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{server.port:04X}") and fields[2].endswith(f":{port:04X}"):
            inode = f"socket:[{fields[9]}]"
            return next(pid for pid in workers_of(server) if inode in inodes_of(pid))
    raise AssertionError("no worker holds the connection")


def connection_port(client: httpx.Client) -> int:
    """Our end's port of a client's only connection."""
    stream = client.get("/v2/health/live").extensions["network_stream"]
    port: int = stream.get_extra_info("client_addr")[1]
    return port


@contextlib.contextmanager
def one_client_each(server: Server) -> Iterator[dict[int, httpx.Client]]:
    """For each worker a client whose connection leads to it."""
    found: dict[int, httpx.Client] = {}
    with contextlib.ExitStack() as stack:

        def has_all() -> bool:
            client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
            found.setdefault(owner_of(server, client), client)
            return set(found) == set(workers_of(server))

        wait_until(has_all, "there is a connection to each worker")
        yield found


def kill(pid: int) -> None:
    """kill -9, and wait until it is no more."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), f"{pid} is dead")


def ask(client: httpx.Client, *numbers: float) -> httpx.Response:
    """Ask `echo` for rows of three numbers."""
    return client.post(INFER, json=x_request(list(numbers), shape=[len(numbers) // 3, 3]))
