"""The hot route: POST /v2/models/M[/versions/V]/infer, answered right on the connection.

In: a `DirectExchange` whose body is whole.  Out: its answer.  Nothing else happens on the way:

    parse → submit → (a batch runs) → encode → write

Little that was compressed is read in a thread; more of it, and long JSON, in an isolated process. A failure
is counted and sent as {"error": "…"}.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any
from urllib.parse import unquote

from service.batching.job import ONE_SIZE, Job, Tensors
from service.contract.bytes_like import Buffer
from service.errors import DeadlinePassed, Draining, HungUp, NotInMemory, ServiceError, TooLarge, UnknownModel
from service.http.direct import DirectExchange
from service.models.registry import ModelRegistry
from service.models.served import Served
from service.protocol.compression import check_compressed, decoded, window_bits
from service.protocol.head import Head
from service.protocol.heavy import HeavyRequests
from service.protocol.request import InferRequest
from service.protocol.response import InferResponse, encode_response, is_long
from service.routes.request_record import RequestRecorder

LONG_JSON = 128 * 1024  # the worst of this length takes 4 ms; longer JSON is read in a process
LIGHT_BODY = 1 << 20  # of a compressed body, as sent and once decompressed: read in a thread
MAX_KEPT_TARGETS = 256
MAX_KEPT_PATH = 1024

_JSON = b"content-type: application/json\r\n"
_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"


class InferCall:
    """One inference request on its way: from its head to the answer or the error that it gets, exactly once.

    The batcher holds it as the job's callback, the exchange as the callback for a client who hangs up.
    """

    __slots__ = ("_exchange", "_head", "_job", "_recorder", "_threads", "load_s", "record")

    def __init__(self, exchange: DirectExchange, recorder: RequestRecorder, threads: Executor) -> None:
        self._exchange = exchange
        self._recorder = recorder
        self._threads = threads
        self._head: Head | None = None
        self._job: Job | None = None
        self.load_s = 0.0  # that its model took to come into memory
        self.record = recorder.open("infer", exchange.request_id, exchange.begun, exchange.trace_parent)
        self.record.read_s = exchange.read_s

    def submit(self, served: Served, request: InferRequest) -> None:
        """Queue the rows of a parsed request; raises what the batcher raises when it refuses them."""
        head = self._head = request.head
        record = self.record
        record.num_rows = head.num_rows
        record.decode_s = time.perf_counter() - record.begun - record.read_s
        if head.num_rows == 0:  # valid in the protocol, and no batch can hold it
            self._answer(served.no_rows)
            return
        timeout_s = head.timeout_s or served.default_timeout_s
        if self.load_s and timeout_s is not None:
            timeout_s -= self.load_s
            if timeout_s <= 0:
                raise DeadlinePassed(
                    f"the request's timeout passed while its model was loaded, in {self.load_s:.3g} s"
                )
        self._job = served.batcher.submit(
            request.tensors,
            head.num_rows,
            timeout_s,
            priority=head.priority,
            on_end=self._end,
            size=served.engine.sizes(head.sizes) if head.sizes else ONE_SIZE,
        )
        self._exchange.on_hang_up = self._hang_up

    def fail(self, error: Exception) -> None:
        """Answer with an error; one that is not ours becomes "internal server error"."""
        self._exchange.answer_error(self._recorder.failed(self.record, error), self.record.head)

    def _end(self, job: Job) -> None:
        """The job has its answers or an error."""
        self._exchange.on_hang_up = None
        self.record.queue_s, self.record.compute_s = job.queue_s, job.compute_s
        try:
            if job.error is not None:
                raise job.error
            assert job.answers is not None
            self._answer(job.answers)
        except Exception as error:
            self.fail(error)

    def _hang_up(self) -> None:
        """The client has gone: its rows leave the queue, and nothing but the counts sees the error."""
        served, job = self.record.served, self._job
        assert served is not None
        assert job is not None
        served.batcher.cancel(job)
        self.fail(HungUp("the client hung up before its answer was ready"))

    def _answer(self, tensors: Tensors) -> None:
        served, head = self.record.served, self._head
        assert served is not None
        assert head is not None
        begun = time.perf_counter()
        if is_long(head, tensors):
            self._answer_from_thread(served, head, tensors, begun)
        else:
            self._send(encode_response(served.signature, head, tensors), begun)

    def _answer_from_thread(self, served: Served, head: Head, tensors: Tensors, begun: float) -> None:
        encoding = asyncio.get_running_loop().run_in_executor(
            self._threads, encode_response, served.signature, head, tensors
        )
        encoding.add_done_callback(lambda encoded: self._encoded(encoded, begun))

    def _encoded(self, encoded: "asyncio.Future[InferResponse]", begun: float) -> None:
        """A thread has made a long answer, or has not; the client may have gone meanwhile."""
        try:
            self._send(encoded.result(), begun)
        except asyncio.CancelledError:
            self.fail(Draining("the server shut down before the answer was ready"))
        except Exception as error:
            self.fail(error)

    def _send(self, response: InferResponse, begun: float) -> None:
        record, served = self.record, self.record.served
        assert served is not None
        now = time.perf_counter()
        record.encode_s, total_s = now - begun, now - record.begun
        own = _JSON if response.header_length is None else _BINARY % response.header_length
        self._exchange.answer(200, record.head_with_timing(total_s) + own, response.parts)
        served.metrics.nonfinite_outputs += response.num_nonfinite
        self._recorder.answered(record, total_s)


class InferEndpoint:
    """Answers inference requests to every model.

    `threads` and `heavy` read, and `threads` encode, what would hold the event loop for long.
    """

    def __init__(
        self, models: ModelRegistry, recorder: RequestRecorder, threads: Executor, heavy: HeavyRequests
    ) -> None:
        self._models = models
        self._recorder = recorder
        self._threads = threads
        self._heavy = heavy
        self._targets: dict[bytes, tuple[str, str | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def check_start(self, exchange: DirectExchange, start: bytes) -> None:
        """Raise what a long body will be refused for: so 60 MB need not arrive to be refused."""
        self._models.check_open()
        try:
            parser = self._models.get(*self._target(exchange.path)).parser
        except NotInMemory:
            return  # it is loaded once the body is whole: until then a client has shown too little for that
        bits = window_bits(exchange.encoding)
        if start and bits is not None:
            check_compressed(start, bits)
        elif bits is None:
            parser.check_start(start, exchange.head.length, exchange.header_length)

    def answer(self, exchange: DirectExchange) -> None:
        """Answer one request whose body is whole, now or once its batch has run; raises nothing."""
        call = InferCall(exchange, self._recorder, self._threads)
        try:
            self._models.check_open()
            name, version = self._target(exchange.path)
            try:
                served = self._models.get(name, version)
            except NotInMemory:
                self._begin(self._load(call, exchange, name, version))
                return
            self._read(call, exchange, served)
        except Exception as error:
            call.fail(error)

    def refuse(self, exchange: DirectExchange, error: ServiceError) -> None:
        """Answer a request whose body is not wanted with `error`."""
        call = InferCall(exchange, self._recorder, self._threads)
        with contextlib.suppress(ServiceError):  # an error too says which model it comes from
            call.record.served = self._models.get(*self._target(exchange.path))
        call.fail(error)

    def _read(self, call: InferCall, exchange: DirectExchange, served: Served) -> None:
        """Submit the request of a whole body, now or once it was read elsewhere; raises what refuses it."""
        call.record.served = served
        served.batcher.check_space()  # a full queue refuses before the body is parsed
        body, length = exchange.body, exchange.header_length
        if exchange.encoding is None and _json_length(body, length) <= LONG_JSON:
            call.submit(served, served.parser.parse(body, length))
        else:
            self._begin(self._read_long(call, exchange, served))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the event loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _load(self, call: InferCall, exchange: DirectExchange, name: str, version: str | None) -> None:
        """Answer once the model is in memory."""
        with _ending_when_the_client_does(call, exchange):
            begun = time.perf_counter()
            served = await self._models.find(name, version)
            call.load_s = time.perf_counter() - begun
            exchange.on_hang_up = None
            if exchange.disconnected:
                raise HungUp("the client hung up before its answer was ready")
            self._read(call, exchange, served)

    async def _read_long(self, call: InferCall, exchange: DirectExchange, served: Served) -> None:
        # Its process is killed when the client goes; what waits is never begun.  A version that is replaced
        # meanwhile stays open for this request.
        with _ending_when_the_client_does(call, exchange), served.held():
            request = await self._read_elsewhere(exchange, served)
            exchange.on_hang_up = None
            if exchange.disconnected:
                raise HungUp("the client hung up before its answer was ready")
            call.submit(served, request)

    async def _read_elsewhere(self, exchange: DirectExchange, served: Served) -> InferRequest:
        body = exchange.take_body()
        encoding, length = exchange.encoding, exchange.header_length
        is_compressed = window_bits(encoding) is not None
        if is_compressed and len(body) <= LIGHT_BODY:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(TooLarge):
                body = await loop.run_in_executor(self._threads, _inflated, exchange, body)
                is_compressed = False
        if not is_compressed and _json_length(body, length) <= LONG_JSON:
            return served.parser.parse(body, length)
        taken = [body]
        del body  # 60 MB, which its process holds from then on
        read = await self._heavy.read(served.signature, taken, encoding if is_compressed else None, length)
        return served.parser.parse(read.body, read.header_length)

    def _target(self, path: bytes) -> tuple[str, str | None]:
        kept = self._targets.get(path)
        if kept is None:
            if len(self._targets) >= MAX_KEPT_TARGETS:
                self._targets.clear()  # clients choose paths: without a bound they would fill the memory
            kept = _target(path)
            if len(path) <= MAX_KEPT_PATH:  # else a few hundred made-up names would take megabytes
                self._targets[path] = kept
        return kept


@contextlib.contextmanager
def _ending_when_the_client_does(call: InferCall, exchange: DirectExchange) -> Iterator[None]:
    """Cancel this task when the client hangs up; whatever ends it, the call is answered."""
    task = asyncio.current_task()
    assert task is not None
    exchange.on_hang_up = partial(_cancel, task)
    try:
        yield
    except asyncio.CancelledError:
        call.fail(HungUp("the client hung up before its request was read"))
    except Exception as error:
        call.fail(error)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _inflated(exchange: DirectExchange, body: Buffer) -> Buffer:
    """A compressed body, unless it is heavy (TooLarge) or its client gone (HungUp); runs in a thread."""
    return decoded(body, exchange.encoding, LIGHT_BODY, lambda: not exchange.disconnected)


def _json_length(body: Buffer, header_length: bytes | None) -> int:
    """How much of a body is JSON, as far as the header can be believed."""
    if header_length is None or not header_length.isdigit():
        return len(body)
    return min(len(body), int(header_length[:18]))


def _target(path: bytes) -> tuple[str, str | None]:
    """Model and version from …/models/M/infer or …/models/M/versions/V/infer; raises UnknownModel."""
    match path.decode("latin-1").split("/"):
        case ["", "v2", "models", name, "infer"]:
            return unquote(name), None
        case ["", "v2", "models", name, "versions", version, "infer"]:
            return unquote(name), unquote(version)
        case _:
            raise UnknownModel("Not Found")
