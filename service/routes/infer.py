"""The hot route: POST /v2/models/M[/versions/V]/infer, answered right on the connection.

In: a `DirectExchange` whose body is whole.  Out: its answer.  Nothing else happens on the way:

    parse → submit → (a batch runs) → encode → write

Compressed bodies and long JSON are read in a thread. A failure is counted and sent as {"error": "…"}.
"""

import asyncio
import contextlib
import time
from concurrent.futures import Executor
from urllib.parse import unquote

from service.batching.job import Job, Tensors
from service.errors import HungUp, ServiceError, UnknownModel
from service.http.body import Buffer, decoded
from service.http.direct import DirectExchange
from service.models.registry import ModelRegistry
from service.models.served import Served
from service.protocol.head import Head
from service.protocol.request import InferRequest
from service.protocol.response import encode_response
from service.routes.request_record import RequestRecord, RequestRecorder

LONG_JSON = 256 * 1024
MAX_KEPT_TARGETS = 256
MAX_KEPT_PATH = 1024

_JSON = b"content-type: application/json\r\n"
_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"


class InferEndpoint:
    """Answers inference requests to every model."""

    def __init__(
        self, models: ModelRegistry, recorder: RequestRecorder, threads: Executor, max_body_bytes: int
    ) -> None:
        self._models = models
        self._recorder = recorder
        self._threads = threads
        self._max_body_bytes = max_body_bytes
        self._targets: dict[bytes, tuple[str, str | None]] = {}
        self._in_threads: set[asyncio.Task[None]] = set()

    def answer(self, exchange: DirectExchange) -> None:
        """Answer one request, whatever happens."""
        record = self._open(exchange)
        try:
            self._models.check_open()
            served = record.served = self._models.get(*self._target(exchange.path))
            served.batcher.check_space(1)
            body = exchange.body
            if exchange.encoding is None and _json_length(body, exchange.header_length) <= LONG_JSON:
                self._submit(record, exchange, served, served.parser.parse(body, exchange.header_length))
                return
            task = asyncio.get_running_loop().create_task(
                self._read_in_thread(record, exchange, served, body)
            )
            self._in_threads.add(task)
            task.add_done_callback(self._in_threads.discard)
        except Exception as error:
            self._fail(record, exchange, error)

    def refuse(self, exchange: DirectExchange, error: ServiceError) -> None:
        """Answer a request whose body is not wanted."""
        record = self._open(exchange)
        with contextlib.suppress(ServiceError):  # an error too says which model it comes from
            record.served = self._models.get(*self._target(exchange.path))
        self._fail(record, exchange, error)

    def _open(self, exchange: DirectExchange) -> RequestRecord:
        record = self._recorder.open("infer", exchange.request_id, exchange.begun, exchange.trace_parent)
        record.read_s = exchange.read_s
        return record

    async def _read_in_thread(
        self, record: RequestRecord, exchange: DirectExchange, served: Served, body: Buffer
    ) -> None:
        def read() -> InferRequest:
            content = decoded(body, exchange.encoding, self._max_body_bytes)
            return served.parser.parse(content, exchange.header_length)

        try:
            with served.held():
                request = await asyncio.get_running_loop().run_in_executor(self._threads, read)
                if exchange.disconnected:
                    raise HungUp("the client hung up before its answer was ready")
                self._submit(record, exchange, served, request)
        except Exception as error:
            self._fail(record, exchange, error)

    def _submit(
        self, record: RequestRecord, exchange: DirectExchange, served: Served, request: InferRequest
    ) -> None:
        head = request.head
        record.num_rows = head.num_rows
        record.decode_s = time.perf_counter() - record.begun - record.read_s
        if head.num_rows == 0:
            self._encode(record, exchange, head, served.no_rows)
            return

        def end(job: Job) -> None:
            exchange.on_hang_up = None
            record.queue_s, record.compute_s = job.queue_s, job.compute_s
            try:
                if job.error is not None:
                    raise job.error
                assert job.answers is not None
                self._encode(record, exchange, head, job.answers)
            except Exception as error:
                self._fail(record, exchange, error)

        job = served.batcher.submit(
            request.tensors,
            head.num_rows,
            head.timeout_s or served.default_timeout_s,
            priority=head.priority,
            on_end=end,
        )

        def hang_up() -> None:
            served.batcher.cancel(job)
            self._fail(record, exchange, HungUp("the client hung up before its answer was ready"))

        exchange.on_hang_up = hang_up

    def _encode(self, record: RequestRecord, exchange: DirectExchange, head: Head, tensors: Tensors) -> None:
        served = record.served
        assert served is not None
        begun = time.perf_counter()
        response = encode_response(served.signature, head, tensors)
        now = time.perf_counter()
        record.encode_s, total_s = now - begun, now - record.begun
        own = _JSON if response.header_length is None else _BINARY % response.header_length
        exchange.answer(200, record.head_with_timing(total_s) + own, response.parts)
        served.metrics.nonfinite_outputs += response.num_nonfinite
        self._recorder.answered(record, total_s)

    def _fail(self, record: RequestRecord, exchange: DirectExchange, error: Exception) -> None:
        exchange.answer_error(self._recorder.failed(record, error), record.head)

    def _target(self, path: bytes) -> tuple[str, str | None]:
        kept = self._targets.get(path)
        if kept is None:
            if len(self._targets) >= MAX_KEPT_TARGETS:
                self._targets.clear()
            kept = _target(path)
            if len(path) <= MAX_KEPT_PATH:  # else a few hundred made-up names would take megabytes
                self._targets[path] = kept
        return kept


def _json_length(body: Buffer, header_length: bytes | None) -> int:
    """How much of a body is JSON, as far as the header can be believed."""
    if header_length is None or not header_length.isdigit():
        return len(body)
    return min(len(body), int(header_length[:18]))


def _target(path: bytes) -> tuple[str, str | None]:
    """Model and version from …/models/M/infer or …/models/M/versions/V/infer."""
    match path.decode("latin-1").split("/"):
        case ["", "v2", "models", name, "infer"]:
            return unquote(name), None
        case ["", "v2", "models", name, "versions", version, "infer"]:
            return unquote(name), unquote(version)
        case _:
            raise UnknownModel("Not Found")
