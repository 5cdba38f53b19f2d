"""Hosts on one machine: network namespaces, each with a cable to one switch.  Needs root and iproute2.

In: how many.  Out: `Host`s at 10.77.0.1, 10.77.0.2, …, which reach each other and nothing else.

Their files and process ids are the machine's: what they share beside the network is up to the caller.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = "10.77.0.254"  # this process, where it is on the switch too
_NETWORK = 0x40000000  # CLONE_NEWNET


def why_not() -> str | None:
    """Why namespaces cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"network namespaces need {' and '.join(missing)}"
    name = f"foldserve-{os.getpid()}-try"
    done = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return f"no network namespaces here: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True)
class Host:
    """One of them: its namespace, its address (of `eth0`), and the switch that its cable leads to."""

    name: str
    address: str
    switch: str

    @property
    def _file(self) -> Path:
        return Path("/run/netns", self.name)

    def command(self, *words: str) -> list[str]:
        """What runs there. `ip netns exec` would also mount another /sys, without the cgroups."""
        return ["nsenter", f"--net={self._file}", *words]

    def enter(self) -> None:
        """From now on this thread is there, with the threads and processes that it starts."""
        library = ctypes.CDLL(None, use_errno=True)
        with self._file.open() as file:
            if library.setns(file.fileno(), _NETWORK):
                raise OSError(ctypes.get_errno(), f"{self.name} cannot be entered")

    def pids(self) -> list[int]:
        """The processes there, but not the caller's own."""
        there = self._file.stat()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if os.path.samestat((process / "ns/net").stat(), there):
                    found.append(int(process.name))
        return [pid for pid in found if pid != os.getpid()]

    def kill(self) -> None:
        """SIGKILL for all of them, until none is left: some start others meanwhile."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def cut(self) -> None:
        """Cut the cable: nothing arrives, and no connection is closed."""
        _ip("-n", self.switch, "link", "set", _port(self.name), "down")

    def mend(self) -> None:
        """Mend the cable."""
        _ip("-n", self.switch, "link", "set", _port(self.name), "up")


@contextlib.contextmanager
def hosts(count: int, *, with_here: bool = False) -> Iterator[list[Host]]:
    """So many hosts until the block ends, when what runs there is killed.

    `with_here`: the caller's own namespace gets a cable too, and the address HERE.
    """
    prefix = f"foldserve-{os.getpid()}"
    switch = f"{prefix}-switch"
    made = [Host(f"{prefix}-{number}", f"10.77.0.{number}", switch) for number in range(1, count + 1)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for host in made:
            _ip("netns", "add", host.name)
            _plug(switch, _port(host.name), "eth0", host.address, "-n", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip(
                "-n", host.name, "route", "add", "default", "dev", "eth0"
            )  # programs ask it for their address
        if with_here:
            _plug(switch, "here", f"fs{os.getpid()}", HERE)
        yield made
    finally:
        for host in made:
            with contextlib.suppress(FileNotFoundError):  # it was not made
                host.kill()
        for name in (switch, *(host.name for host in made)):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _port(host: str) -> str:
    """The end of a host's cable at the switch."""
    return f"port{host.rpartition('-')[2]}"


def _plug(switch: str, port: str, device: str, address: str, *where: str) -> None:
    """A cable between the switch and a device; `where`: words for `ip`, none for the caller's namespace."""
    _ip(*where, "link", "add", device, "type", "veth", "peer", "name", port, "netns", switch)
    _ip("-n", switch, "link", "set", port, "master", "switch", "up")
    _ip(*where, "addr", "add", f"{address}/24", "dev", device)
    _ip(*where, "link", "set", device, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
