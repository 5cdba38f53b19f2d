"""One inference request on its way through the batcher.

In: an exchange, and the request once it is parsed.  Out: its answer or its error, exactly once:

    submit → (a batch runs) → encode, in a thread where that is long → write
"""

import asyncio
import time
from concurrent.futures import Executor

from service.batching.job import ONE_SIZE, Job, Tensors
from service.errors import DeadlinePassed, Draining, HungUp
from service.http.direct import DirectExchange
from service.models.served import Served
from service.protocol.head import Head
from service.protocol.request import InferRequest
from service.protocol.response import InferResponse, encode_response, is_long
from service.routes.request_record import RequestRecorder

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
