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

from service.contract.bytes_like import Buffer
from service.errors import HungUp, NotInMemory, ServiceError, TooLarge, UnknownModel
from service.http.direct import DirectExchange
from service.models.registry import ModelRegistry
from service.models.served import Served
from service.protocol.compression import check_compressed, decoded, window_bits
from service.protocol.heavy import HeavyRequests
from service.protocol.request import InferRequest
from service.routes.infer_call import InferCall
from service.routes.request_record import RequestRecorder

LONG_JSON = 128 * 1024  # the worst of this length takes 4 ms; longer JSON is read in a process
LIGHT_BODY = 1 << 20  # of a compressed body, as sent and once decompressed: read in a thread
MAX_KEPT_TARGETS = 256
MAX_KEPT_PATH = 1024


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
