"""Clients that attack: threads, each with connections that repeat an attack until they are stopped.

In: a port and an `Attack`.  Out: a count of what the attackers are told.
"""

import contextlib
import os
import socket
import threading
import time
from collections import Counter

from benchmarks.attacks.attack import Attack

ATTACKERS = 4
HANG_UP_AFTER_S = 0.3
SEND_S = 30.0
WAIT_S = 0.2  # until it is noticed that the attack is over
NICENESS = 10  # they would be on other machines


class Attackers:
    """They attack until the block ends; `answers` counts statuses and what happens instead."""

    def __init__(self, port: int, attack: Attack) -> None:
        self.answers: Counter[str] = Counter()
        self._port = port
        self._attack = attack
        self._is_over = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._repeat, daemon=True) for _ in range(ATTACKERS)]

    def __enter__(self) -> "Attackers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for client in list(self._open):  # whatever they do, they hang up now
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)

    def _repeat(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not self._is_over.is_set():
            with contextlib.ExitStack() as clients:
                try:
                    opened = [clients.enter_context(self._connected()) for _ in range(self._attack.width)]
                except OSError:
                    self.answers["not connected"] += 1
                    time.sleep(0.01)
                    continue
                self._send(opened)
                for answer in self._answers(opened):
                    self.answers[answer] += 1
                self._open.difference_update(opened)

    def _connected(self) -> socket.socket:
        client = socket.socket()
        if not self._attack.reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(SEND_S)
        client.connect(("127.0.0.1", self._port))
        self._open.add(client)
        return client

    def _send(self, clients: list[socket.socket]) -> None:
        for part in self._attack.parts:
            for client in clients:
                if self._is_over.is_set():
                    return
                if not self._attack.reads:
                    client.settimeout(WAIT_S)  # the server stops reading as well
                with contextlib.suppress(OSError):  # refused early: the answer can be read
                    client.sendall(part)
            if self._attack.pause_s and self._is_over.wait(self._attack.pause_s):
                return

    def _answers(self, clients: list[socket.socket]) -> list[str]:
        """A status for each connection, or what happened instead."""
        if self._attack.hangs_up:
            self._is_over.wait(HANG_UP_AFTER_S)
            return ["hung up"] * len(clients)
        if not self._attack.reads:
            self._is_over.wait()
            return ["never read"] * len(clients)
        return [self._answer(client) for client in clients]

    def _answer(self, client: socket.socket) -> str:
        """The first status; what follows it is read until nothing comes."""
        client.settimeout(WAIT_S)
        status = ""
        while not self._is_over.is_set():
            try:
                received = client.recv(65536)
            except TimeoutError:
                if status:
                    break
                continue
            except OSError:
                return status or "reset"
            if not received:
                return status or "closed"
            status = status or received[9:12].decode("latin-1")
            if self._attack.num_bytes > 4 * len(received) and b"\r\n\r\n" in received and not self._floods:
                break
        return status or "unanswered"

    @property
    def _floods(self) -> bool:
        """Whether one connection asks for many answers."""
        return len(self._attack.parts) == 1 and self._attack.parts[0].count(b" HTTP/1.") > 1
