"""The clients of cluster_kit: what they count as lost, and as wrong."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from cluster_kit import load
from service_kit import wait_until

CONNECTIONS = 8


class Unreliable(ThreadingHTTPServer):
    """Answers with the row that came, or with another one, or hangs up on each client's first request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, how: str) -> None:
        self.how = how
        self.seen: set[float] = set()
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unreliable

    def do_POST(self) -> None:
        row = self.rfile.read(int(self.headers["content-length"]))[-12:]
        number = float(np.frombuffer(row, "<f4")[0])
        is_first = number < CONNECTIONS and number not in self.server.seen
        self.server.seen.add(number)
        if self.server.how == "hangs up" and is_first:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("content-length", "12")
        self.end_headers()
        self.wfile.write(bytes(12) if self.server.how == "wrong" else row)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@pytest.mark.parametrize(
    ("how", "retries", "num_failures"),
    [
        ("right", 0, 0),
        ("hangs up", 0, CONNECTIONS),
        ("hangs up", 1, 0),
        ("wrong", 0, None),
        ("wrong", 1, None),
    ],
)
def test_clients_notice_lost_and_wrong_answers(how: str, retries: int, num_failures: int | None) -> None:
    """A retry makes up for a lost answer, and never for a wrong one."""
    with Unreliable(how) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        with load([server.server_address[:2]], connections=CONNECTIONS, retries=retries) as answers:
            wait_until(lambda: answers.right + len(answers.failures) > 5 * CONNECTIONS, "enough was asked")
        server.shutdown()
    if num_failures is not None:
        assert len(answers.failures) == num_failures
    else:
        assert answers.right == 0
        assert all("WrongAnswer" in failure for failure in answers.failures)
