"""POST /predict: pictures in, labels with probabilities out.

In: a picture as the body, or several as multipart files; ?model=NAME, ?top=K and, for one picture, ?row=true.
Out: for each picture its labels, the most probable first; what it became.

A net with its softmax inside answers with probabilities already; see probabilities.py.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np

from service.access.cors import Cors
from service.contract.picture_support import unsupported_reason
from service.errors import BadRequest, ServiceError
from service.http.body import Body, BodyReader
from service.http.connected import while_connected
from service.http.reply import JSON, Headers, Receive, Scope, Send, error_body
from service.models.registry import ModelRegistry
from service.models.served import Served
from service.pictures.decoder import PictureDecoder
from service.pictures.drawn import drawn_row
from service.routes.prediction import Predictions
from service.routes.request_record import RequestRecord, RequestRecorder

ALL_LABELS_UP_TO = 10
DEFAULT_TOP = 5
INLINE_NUMBERS = 4096  # of rows or answers: a label with its probability takes half a microsecond
MAX_KEPT = 64  # versions of which it is remembered what is made of their answers

Result = TypeVar("Result")


class Predictor:
    """An ASGI endpoint that answers pictures: `bodies` reads what a client sent, `decoder` makes rows of it.

    It stands beside the application, like health: FastAPI's way to an endpoint takes longer than a small
    picture's to a row.
    """

    def __init__(
        self,
        models: ModelRegistry,
        recorder: RequestRecorder,
        decoder: PictureDecoder,
        bodies: BodyReader,
        cors: Cors | None,
    ) -> None:
        self._models = models
        self._recorder = recorder
        self._decoder = decoder
        self._bodies = bodies
        self._cors = cors
        self._kept: dict[tuple[str, str, str], Predictions | str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with JSON or an error."""
        headers = dict(scope["headers"])
        given_id, trace_parent = headers.get(b"x-request-id"), headers.get(b"traceparent")
        record = self._recorder.open("predict", given_id, time.perf_counter(), trace_parent)
        try:
            self._models.check_open()
            query = _parsed(scope["query_string"])
            served = record.served = await self._choose(query.get("model"))
            with served.held():
                parts = await self._answer(record, served, query, headers, receive)
        except Exception as raised:
            status, parts, own = self._refusal(record, raised)
            lines = record.head
        else:
            total_s = time.perf_counter() - record.begun
            self._recorder.answered(record, total_s)
            status, own = 200, []
            lines = record.head_with_timing(total_s)
        if self._cors is not None:
            lines += self._cors.lines(headers.get(b"origin"))
        length = (b"content-length", b"%d" % sum(map(len, parts)))
        told = [(name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines())]
        await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *own, *told]})
        # In parts: joining those of a long answer would copy it on the event loop.
        for index, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": index < len(parts)})

    def _refusal(self, record: RequestRecord, raised: Exception) -> tuple[int, list[bytes], Headers]:
        # In a frame of its own: a variable in one of those that the error holds would close a circle, and
        # keep the body, up to 64 MiB, until garbage is collected.
        error = self._recorder.failed(record, raised)
        own = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        return error.status, [error_body(str(error))], own

    async def _choose(self, name: str | None) -> Served:
        if name is not None:
            return await self._models.find(name)
        if len(names := self._models.names) == 1:
            return await self._models.find(names[0])  # perhaps without pictures: the checks below say so
        if self._models.is_on_demand:  # which models are in memory must not decide who answers
            raise BadRequest("say which model with ?model=NAME")
        taking_pictures = [served for served in self._models.served if type(self._made(served)) is not str]
        if len(taking_pictures) == 1:
            return taking_pictures[0]
        listed = ", ".join(served.name for served in taking_pictures) or "none so far"
        raise BadRequest(f"say which model with ?model=NAME; those that take pictures: {listed}")

    def _made(self, served: Served) -> Predictions | str:
        """What is made of a version's answers, or why it takes no pictures."""
        key = (served.name, served.version, served.digest)
        if (made := self._kept.get(key)) is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            reason = unsupported_reason(served.manifest)
            made = reason or Predictions(served.manifest, ends_in_softmax=served.ends_in_softmax)
            self._kept[key] = made
        return made

    async def _answer(
        self,
        record: RequestRecord,
        served: Served,
        query: Mapping[str, str],
        headers: Mapping[bytes, bytes],
        receive: Receive,
    ) -> list[bytes]:
        """The answer's JSON, in parts."""
        made = self._made(served)
        if isinstance(made, str):
            raise BadRequest(f"model '{served.name}' takes no pictures: {made}")
        top = _top(query.get("top"), made.num_labels)
        wants_row = _flag("row", query.get("row"))
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        body = await self._bodies.read(
            receive,
            headers.get(b"content-length"),
            headers.get(b"content-encoding"),
            partial(self._decoder.check_start, content_type),
        )
        try:
            # What is begun for a client is over when it hangs up: parsing, decoding, waiting for the model.
            files, answers, shown = await while_connected(
                receive, self._answers(record, served, content_type, body, wants_row)
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
        wants_row: bool,
    ) -> tuple[list[str | None], np.ndarray, dict[str, Any] | None]:
        """The names of a body's files, the model's first output for them, (N, …); the row, if wanted."""
        preprocessing = served.manifest.preprocessing
        assert preprocessing is not None
        pictures = await self._decoder.pictures(content_type, body.take())
        files = [file for file, _ in pictures]
        if wants_row and len(pictures) != 1:
            raise BadRequest(f"'row' is for one picture, got {len(pictures)}")
        record.read_s = time.perf_counter() - record.begun
        async with self._decoder.rows(pictures, preprocessing) as rows:
            spec = served.manifest.inputs[0]
            is_quick = rows.size <= INLINE_NUMBERS or rows.dtype == spec.dtype
            tensors = {spec.name: await _inline_or_in_thread(is_quick, _as_dtype, rows, spec.dtype)}
            shown = await asyncio.to_thread(drawn_row, rows[0], preprocessing) if wants_row else None
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


@lru_cache(MAX_KEPT)
def _parsed(query: bytes) -> Mapping[str, str]:
    """A query's parameters; clients ask with few different ones."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


async def _inline_or_in_thread(is_inline: bool, work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work` returns: right away where that is quicker, in a thread where the event loop would wait."""
    return work(*arguments) if is_inline else await asyncio.to_thread(work, *arguments)


def _as_dtype(rows: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "uint8":  # the graph normalises pixels itself: a row is whole but for rounding
        rows = np.rint(rows)
    return rows.astype(dtype, copy=False)


def _are_finite(answers: np.ndarray) -> bool:
    return bool(np.isfinite(answers).all())


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
