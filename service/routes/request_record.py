"""What is known of one request on its way, and where that goes when the request ends.

In: a request's head.  Out: the headers that every answer carries; one entry in the metrics and in the log.

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
from service.telemetry.metrics import Metrics
from service.telemetry.request_log import LogEntry, RequestLog

_GIVEN_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TIMING = (
    b"server-timing: read;dur=%.3f,decode;dur=%.3f,queue;dur=%.3f,"
    b"compute;dur=%.3f,encode;dur=%.3f,total;dur=%.3f\r\n"
)
_logger = logging.getLogger("foldserve")


class RequestRecord:
    """One request: its route, id and beginning (perf_counter); its model, rows and seconds as they come."""

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
        """Header lines, each ended by CRLF: the request's id and, once known, the model that answers."""
        lines = b"x-request-id: %b\r\n" % self.id
        return lines if self.served is None else lines + self.served.head

    def head_with_timing(self, total_s: float) -> bytes:
        """The same with Server-Timing; `total_s` are the seconds from the request's head to its answer."""
        return self.head + _TIMING % (
            *(self.read_s * 1e3, self.decode_s * 1e3, self.queue_s * 1e3),
            *(self.compute_s * 1e3, self.encode_s * 1e3, total_s * 1e3),
        )


class RequestRecorder:
    """Opens a record for each request, and counts and logs how the request ended."""

    def __init__(self, metrics: Metrics, request_log: RequestLog) -> None:
        self._metrics = metrics
        self._request_log = request_log
        self._prefix = os.urandom(8).hex().encode()
        self._count = itertools.count(1)

    def open(
        self, route: str, given_id: bytes | None, begun: float, trace_parent: bytes | None = None
    ) -> RequestRecord:
        """A record of a request to `route` that began at `begun`; `given_id` is what the client calls it."""
        if given_id is None or not _GIVEN_ID.fullmatch(given_id):
            given_id = b"%b-%x" % (self._prefix, next(self._count))
        return RequestRecord(route, given_id, begun, trace_parent)

    def answered(self, record: RequestRecord, total_s: float) -> None:
        """Record that the request was answered with 200, `total_s` seconds after its head."""
        served = record.served
        assert served is not None
        served.metrics.answered(
            record.num_rows, (record.read_s, record.decode_s, record.queue_s, record.encode_s, total_s)
        )
        self._note(record, served.name, served.version, 200, "", total_s)

    def failed(self, record: RequestRecord, error: Exception) -> ServiceError:
        """Record that the request ended with `error`; returns the error that the client may read.

        An error that is not ours is logged with its trace, and the client reads "internal server error".
        """
        if not isinstance(error, ServiceError):
            _logger.error("event=internal_error route=%s", record.route, exc_info=error)
            error = ServiceError("internal server error")
        total_s = time.perf_counter() - record.begun
        name = version = ""
        if served := record.served:
            name, version = served.name, served.version
            served.metrics.failed(total_s)
        self._metrics.failed(error.reason, name)
        self._note(record, name, version, error.status, error.reason, total_s)
        return error

    def _note(
        self, record: RequestRecord, name: str, version: str, status: int, reason: str, total_s: float
    ) -> None:
        if not self._request_log.is_read:
            return  # checked here too: building an entry costs more than all the rest of a record
        self._request_log.note(
            LogEntry(
                record.route,
                record.id,
                name,
                version,
                status,
                reason,
                record.num_rows,
                record.read_s,
                record.decode_s,
                record.queue_s,
                record.compute_s,
                record.encode_s,
                total_s,
                record.trace_parent,
            )
        )
