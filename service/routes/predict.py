"""POST /predict: pictures in, labels with probabilities out.

In: a picture as the body, or several as multipart files; ?model=NAME, ?top=K and, for one picture, ?row=true.
Out: for each picture its labels, the most probable first; what it became.

A net with its softmax inside answers with probabilities already; see probabilities.py.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.contract.picture_support import unsupported_reason
from service.contract.preprocessing import Preprocessing
from service.errors import BadRequest, ServiceError
from service.http.body import Body, BodyReader
from service.http.connected import while_connected
from service.http.reply import Receive, Scope, Send, error_body
from service.models.registry import ModelRegistry
from service.models.served import Served
from service.pictures.decoder import PictureDecoder
from service.pictures.drawn import drawn_row
from service.routes.prediction import Predictions
from service.routes.request_record import RequestRecord, RequestRecorder

ALL_LABELS_UP_TO = 10
DEFAULT_TOP = 5
INLINE_NUMBERS = 4096  # of rows or answers: a label with its probability takes half a microsecond

Result = TypeVar("Result")


class Predictor:
    """Answers pictures: `bodies` reads what a client sent, `decoder` makes rows of it."""

    def __init__(
        self,
        models: ModelRegistry,
        recorder: RequestRecorder,
        decoder: PictureDecoder,
        bodies: BodyReader,
    ) -> None:
        self._models = models
        self._recorder = recorder
        self._decoder = decoder
        self._bodies = bodies

    async def __call__(self, request: Request) -> Response:
        """The answer to one request, as JSON, or its error."""
        headers = dict(request.scope["headers"])
        given_id, trace_parent = headers.get(b"x-request-id"), headers.get(b"traceparent")
        record = self._recorder.open("predict", given_id, time.perf_counter(), trace_parent)
        try:
            self._models.check_open()
            served = record.served = self._choose(request.query_params.get("model"))
            with served.held():
                body = await self._answer(record, served, request)
        except Exception as raised:
            return self._refuse(record, raised)
        total_s = time.perf_counter() - record.begun
        self._recorder.answered(record, total_s)
        return _with_head(_PartsResponse(body), record.head_with_timing(total_s))

    def _refuse(self, record: RequestRecord, raised: Exception) -> Response:
        # In a frame of its own: a variable in one of those that the error holds would close a circle, and
        # keep the body, up to 64 MiB, until garbage is collected.
        error = self._recorder.failed(record, raised)
        content = error_body(str(error))
        response = Response(content, error.status, error.headers, media_type="application/json")
        return _with_head(response, record.head)

    def _choose(self, name: str | None) -> Served:
        if name is not None:
            return self._models.get(name)
        taking_pictures = [
            served.name for served in self._models.served if unsupported_reason(served.manifest) is None
        ]
        if len(taking_pictures) == 1:
            return self._models.get(taking_pictures[0])
        if len(names := self._models.names) == 1:
            return self._models.get(names[0])  # not ready, or without pictures: the checks below say which
        listed = ", ".join(taking_pictures) if taking_pictures else "none so far"
        raise BadRequest(f"say which model with ?model=NAME; those that take pictures: {listed}")

    async def _answer(self, record: RequestRecord, served: Served, request: Request) -> list[bytes]:
        """The answer's JSON, in parts."""
        if reason := unsupported_reason(served.manifest):
            raise BadRequest(f"model '{served.name}' takes no pictures: {reason}")
        preprocessing = served.manifest.preprocessing
        assert preprocessing is not None
        made = Predictions(served.manifest, ends_in_softmax=served.ends_in_softmax)
        top = _top(request.query_params.get("top"), made.num_labels)
        wants_row = _flag("row", request.query_params.get("row"))
        headers = {key: value for key, value in request.scope["headers"] if key.startswith(b"content-")}
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        body = await self._bodies.read(
            request.receive,
            headers.get(b"content-length"),
            headers.get(b"content-encoding"),
            partial(self._decoder.check_start, content_type),
        )
        try:
            # What is begun for a client is over when it hangs up: parsing, decoding, waiting for the model.
            files, answers, shown = await while_connected(
                request.receive,
                self._answers(record, served, content_type, body, preprocessing, wants_row),
            )
        finally:
            body.end()
        begun = time.perf_counter()
        told: list[dict[str, Any]] = [{} if file is None else {"file": file} for file in files]
        if shown is not None:
            told[0]["row"] = shown
        document = {"model_name": served.name, "model_version": served.version}
        parts = await _inline_or_in_thread(
            answers.size <= INLINE_NUMBERS, made.body, document, told, answers, top
        )
        record.encode_s += time.perf_counter() - begun
        return parts

    async def _answers(
        self,
        record: RequestRecord,
        served: Served,
        content_type: str,
        body: Body,
        preprocessing: Preprocessing,
        wants_row: bool,
    ) -> tuple[list[str | None], np.ndarray, dict[str, Any] | None]:
        """The names of a body's files, the model's first output for them, (N, …); the row, if wanted."""
        pictures = await self._decoder.pictures(content_type, body.take())
        files = [file for file, _ in pictures]
        if wants_row and len(pictures) != 1:
            raise BadRequest(f"'row' is for one picture, got {len(pictures)}")
        record.read_s = time.perf_counter() - record.begun
        async with self._decoder.rows(pictures, preprocessing) as rows:
            spec = served.manifest.inputs[0]
            is_quick = rows.size <= INLINE_NUMBERS or rows.dtype == spec.dtype
            tensors = {spec.name: await _inline_or_in_thread(is_quick, _as_dtype, rows, spec.dtype)}
            shown = await run_in_threadpool(drawn_row, rows[0], preprocessing) if wants_row else None
            record.num_rows = len(rows)
            record.decode_s = time.perf_counter() - record.begun - record.read_s
            size = served.engine.sizes.of_rows(tensors)
            job = await served.batcher.ask(tensors, len(rows), served.default_timeout_s, size=size)
        assert job.answers is not None
        record.queue_s, record.compute_s = job.queue_s, job.compute_s
        answers: np.ndarray = job.answers[served.manifest.outputs[0].name]
        if not await _inline_or_in_thread(answers.size <= INLINE_NUMBERS, _are_finite, answers):
            raise ServiceError(f"model '{served.name}' answered with numbers that are not finite")
        return files, answers, shown


class _PartsResponse(Response):
    """An answer of known length that is never joined: that would copy a long one on the event loop."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        length = str(sum(map(len, parts)))
        super().__init__(None, 200, {"content-length": length}, media_type="application/json")
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for index, part in enumerate(self._parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": index < len(self._parts)})


async def _inline_or_in_thread(is_inline: bool, work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work` returns: right away where that is quicker, in a thread where the event loop would wait."""
    return work(*arguments) if is_inline else await run_in_threadpool(work, *arguments)


def _as_dtype(rows: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "uint8":  # the graph normalises pixels itself: a row is whole but for rounding
        rows = np.rint(rows)
    return rows.astype(dtype, copy=False)


def _are_finite(answers: np.ndarray) -> bool:
    return bool(np.isfinite(answers).all())


def _with_head(response: Response, head: bytes) -> Response:
    lines = (line.partition(b": ") for line in head.splitlines())
    response.raw_headers += [(name, value) for name, _, value in lines]
    return response


def _flag(name: str, text: str | None) -> bool:
    if text not in (None, "true", "false"):
        raise BadRequest(f"'{name}' must be true or false, got '{text[:40]}'")
    return text == "true"


def _top(text: str | None, num_labels: int) -> int:
    if text is None:
        return num_labels if num_labels <= ALL_LABELS_UP_TO else DEFAULT_TOP
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise BadRequest(f"'top' must be a number from 1 on, got '{text[:40]}'")
    return min(int(text), num_labels)
