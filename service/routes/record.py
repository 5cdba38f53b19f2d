"""A visit: what is known of one request on its way, and the ledger that it goes into when it ends.

In: a request's head.  Out: the headers that every answer carries, and one entry in metrics and journal.

    X-Request-Id        the client's own, if it is printable ASCII of at most 128 characters, else a new one
    X-Model-Digest, X-Model-Version
    Server-Timing       read, decode, queue, compute, encode, total; milliseconds
"""

import itertools
import logging
import os
import re
import time

from service.errors import ServiceError
from service.models.served import Served
from service.telemetry.journal import Entry, Journal
from service.telemetry.metrics import Metrics

_GIVEN_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TIMING = (
    b"server-timing: read;dur=%.3f,decode;dur=%.3f,queue;dur=%.3f,"
    b"compute;dur=%.3f,encode;dur=%.3f,total;dur=%.3f\r\n"
)
_log = logging.getLogger("foldserve")


class Visit:
    """One request; its seconds are filled in as they pass."""

    __slots__ = (
        "begun",
        "compute_s",
        "decode_s",
        "encode_s",
        "id",
        "num_rows",
        "queue_s",
        "read_s",
        "route",
        "served",
        "trace_parent",
    )

    def __init__(self, route: str, request_id: bytes, begun: float, trace_parent: bytes | None) -> None:
        self.route = route
        self.id = request_id
        self.begun = begun
        self.trace_parent = trace_parent
        self.served: Served | None = None
        self.num_rows = 0
        self.read_s = self.decode_s = self.queue_s = self.compute_s = self.encode_s = 0.0

    @property
    def head(self) -> bytes:
        """Header lines: who answers, and to which request."""
        lines = b"x-request-id: %b\r\n" % self.id
        return lines if self.served is None else lines + self.served.head

    def head_with_timing(self, total_s: float) -> bytes:
        """The same with Server-Timing."""
        return self.head + _TIMING % (
            *(self.read_s * 1e3, self.decode_s * 1e3, self.queue_s * 1e3),
            *(self.compute_s * 1e3, self.encode_s * 1e3, total_s * 1e3),
        )


class Ledger:
    """Opens visits and writes down how they end."""

    def __init__(self, metrics: Metrics, journal: Journal) -> None:
        self._metrics = metrics
        self._journal = journal
        self._prefix = os.urandom(8).hex().encode()
        self._count = itertools.count(1)

    def open(
        self, route: str, given_id: bytes | None, begun: float, trace_parent: bytes | None = None
    ) -> Visit:
        """A visit that has begun."""
        if given_id is None or not _GIVEN_ID.fullmatch(given_id):
            given_id = b"%b-%x" % (self._prefix, next(self._count))
        return Visit(route, given_id, begun, trace_parent)

    def answered(self, visit: Visit, total_s: float) -> None:
        """The visit ended with its answer."""
        served = visit.served
        assert served is not None
        served.metrics.answered(
            visit.num_rows, (visit.read_s, visit.decode_s, visit.queue_s, visit.encode_s, total_s)
        )
        self._write(visit, served.name, served.version, 200, "", total_s)

    def failed(self, visit: Visit, error: Exception) -> ServiceError:
        """The visit ended with an error; returns what the client may be told."""
        if not isinstance(error, ServiceError):
            _log.error("event=internal_error route=%s", visit.route, exc_info=error)
            error = ServiceError("internal server error")
        total_s = time.perf_counter() - visit.begun
        name = version = ""
        if served := visit.served:
            name, version = served.name, served.version
            served.metrics.failed(total_s)
        self._metrics.failed(error.reason, name)
        self._write(visit, name, version, error.status, error.reason, total_s)
        return error

    def _write(self, visit: Visit, name: str, version: str, status: int, reason: str, total_s: float) -> None:
        if not self._journal.is_read:
            return
        self._journal.note(
            Entry(
                visit.route,
                visit.id,
                name,
                version,
                status,
                reason,
                visit.num_rows,
                visit.read_s,
                visit.decode_s,
                visit.queue_s,
                visit.compute_s,
                visit.encode_s,
                total_s,
                visit.trace_parent,
            )
        )
