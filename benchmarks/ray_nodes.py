"""A Ray cluster of a head and three nodes on one machine; each node can be killed.  Needs ray.

In: hosts (tests/kits/netns_kit.py), or none.  Out: nodes, each on a host of its own; all at one address where
there are no hosts.

A node has one core for work, the head none. The calling thread is on the head's host from then on.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

COUNT = 3
MEMORY = 150_000_000  # of a node's objects, in bytes
PORT = 8765  # of Serve's proxies


class Nodes:
    """The cluster: `address` of its head, and where its proxies are."""

    def __init__(self, hosts: list[Any], folder: Path) -> None:
        # Ray's Cluster notes its address in the folder by default, and fails where no Ray ever ran.
        os.environ["RAY_TMPDIR"] = str(folder)
        import ray
        from ray.cluster_utils import Cluster

        self._hosts = hosts
        self._cluster = Cluster()
        self._nodes: list[Any] = []
        head = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        self._add(0, num_cpus=0, wait=True, temp_dir=str(folder / "ray"), **head)
        for index in range(1, COUNT + 1):
            self._add(index, num_cpus=1)
        self._enter(0)
        self.address = self._cluster.address
        where = {"_node_ip_address": hosts[0].address} if hosts else {}
        ray.init(self.address, log_to_driver=False, **where)

    def cut(self, index: int) -> None:
        """Cut a node's cable: it runs on, and no other node hears of it; needs hosts."""
        self._hosts[index].cut()

    def restart(self, index: int) -> None:
        """Start a lost node again; it joins some seconds later."""
        if self._nodes[index] in self._cluster.worker_nodes:  # it was only cut off
            self.kill(index)
            self._hosts[index].mend()
        self._add(index, num_cpus=1)
        self._enter(0)

    def kill(self, index: int) -> None:
        """Kill a node with everything on it at once, as a machine that loses its power."""
        node = self._nodes[index]
        if self._hosts:
            self._hosts[index].kill()
        else:
            for pid in self._pids(index):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def running(self, actor: str) -> list[int]:
        """The numbers of the nodes on which actors of this class run."""
        return [
            index
            for index in range(1, COUNT + 1)
            if any(actor.encode() in _title(pid) for pid in self._pids(index))
        ]

    def proxy(self, index: int) -> tuple[str, int]:
        """The address of a node's proxy; without hosts there is one proxy, the head's."""
        return (self._hosts[index].address, PORT) if self._hosts else ("127.0.0.1", PORT)

    def close(self) -> None:
        """End every process of the cluster."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def wait_for(self, count: int, timeout_s: float = 150) -> None:
        """Wait until so many are alive, the head among them."""
        import ray

        end = time.monotonic() + timeout_s
        while sum(node["Alive"] for node in ray.nodes()) != count:
            if time.monotonic() > end:
                raise TimeoutError(f"not {count} nodes within {timeout_s:.0f} s")
            time.sleep(0.1)

    def _add(self, index: int, *, wait: bool = False, **settings: Any) -> None:
        self._enter(index)
        place = {"node_ip_address": self._hosts[index].address} if self._hosts else {}
        node = self._cluster.add_node(wait=wait, object_store_memory=MEMORY, **place, **settings)
        self._nodes[index : index + 1] = [node]

    def _enter(self, index: int) -> None:
        if self._hosts:
            self._hosts[index].enter()

    def _pids(self, index: int) -> list[int]:
        """The processes on a node; without hosts those that its raylet has started."""
        if self._hosts:
            return list(self._hosts[index].pids())
        (raylet,) = (started.process.pid for started in self._nodes[index].all_processes["raylet"])
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if f"\nPPid:\t{raylet}\n" in status.read_text():
                    found.append(int(status.parent.name))
        return found


def _title(pid: int) -> bytes:
    """What a process calls itself; Ray's workers name their actor."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
