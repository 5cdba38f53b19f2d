"""What another client notices while one attacks a server."""

import threading
import time

import httpx

from service_kit import x_request

HEALTH = "/v2/health/live"
INFER = "/v2/models/digits/infer"


class Neighbour:
    """Asks for health and one row of `digits`, again and again: `slowest_s` of its answers, `failures`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.slowest_s = 0.0
        self.failures: list[str] = []

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    def _ask(self) -> None:
        row = x_request([0.0] * 784, shape=[1, 1, 28, 28])
        row["inputs"][0]["name"] = "input"
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._is_over.is_set():
                begun = time.perf_counter()
                answers = [client.get(HEALTH), client.post(INFER, json=row)]
                self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)
                self.failures += [answer.text for answer in answers if answer.status_code != 200]
