"""POST /predict: pictures in, labels with probabilities out.

In: a picture as the body, or several as multipart files; ?model=NAME and ?top=K.
Out: for each picture its labels, the most probable first.

A net with its softmax inside answers with probabilities already; see probabilities.py.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from service.contract.manifest import Preprocessing
from service.contract.picture_support import labels_of, unsupported_reason
from service.contract.pictures import PictureError, Target, UnknownFormatError, read_pixels, to_row
from service.contract.probabilities import softmax
from service.errors import BadPicture, BadRequest, ServiceError
from service.http.body import Buffer, read_body
from service.http.connected import while_connected
from service.http.reply import error_body
from service.models.registry import ModelRegistry
from service.models.served import Served
from service.routes.request_record import RequestRecord, RequestRecorder

MAX_FILES = 256
ALL_LABELS_UP_TO = 10
DEFAULT_TOP = 5

Picture = tuple[str | None, bytes]


class Predictor:
    """Answers pictures; `threads` decode them, `max_pixels` is the maximum of one picture."""

    def __init__(
        self,
        models: ModelRegistry,
        recorder: RequestRecorder,
        threads: Executor,
        *,
        max_body_bytes: int,
        max_pixels: int,
    ) -> None:
        self._models = models
        self._recorder = recorder
        self._threads = threads
        self._max_body_bytes = max_body_bytes
        self._max_pixels = max_pixels

    async def __call__(self, request: Request) -> Response:
        """The answer to one request, as JSON, or its error."""
        headers = dict(request.scope["headers"])
        given_id, trace_parent = headers.get(b"x-request-id"), headers.get(b"traceparent")
        record = self._recorder.open("predict", given_id, time.perf_counter(), trace_parent)
        try:
            self._models.check_open()
            served = record.served = self._choose(request.query_params.get("model"))
            with served.held():
                body = orjson.dumps(await self._answer(record, served, request))
        except Exception as raised:
            error = self._recorder.failed(record, raised)
            return _response(error.status, error_body(str(error)), record.head, error.headers)
        total_s = time.perf_counter() - record.begun
        self._recorder.answered(record, total_s)
        return _response(200, body, record.head_with_timing(total_s))

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

    async def _answer(self, record: RequestRecord, served: Served, request: Request) -> dict[str, Any]:
        if reason := unsupported_reason(served.manifest):
            raise BadRequest(f"model '{served.name}' takes no pictures: {reason}")
        preprocessing = served.manifest.preprocessing
        assert preprocessing is not None
        labels = labels_of(served.manifest)
        top = _top(request.query_params.get("top"), len(labels))
        pictures = await self._pictures(request)
        record.read_s = time.perf_counter() - record.begun
        rows = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._rows, pictures, preprocessing
        )
        dtype = served.manifest.inputs[0].dtype
        if dtype == "uint8":  # the graph normalises pixels itself; the row is a whole number but for rounding
            rows = np.rint(rows)
        tensors = {served.manifest.inputs[0].name: rows.astype(dtype, copy=False)}
        record.num_rows = len(rows)
        record.decode_s = time.perf_counter() - record.begun - record.read_s
        asking = served.batcher.ask(tensors, len(rows), served.default_timeout_s)
        job = await while_connected(request.receive, asking)
        assert job.answers is not None
        record.queue_s, record.compute_s = job.queue_s, job.compute_s
        begun = time.perf_counter()
        logits_nk = job.answers[served.manifest.outputs[0].name]
        if not np.isfinite(logits_nk).all():
            raise ServiceError(f"model '{served.name}' answered with numbers that are not finite")
        probabilities_nk = logits_nk.astype(np.float64) if served.ends_in_softmax else softmax(logits_nk)
        predictions = [
            _prediction(file, probabilities_k, labels, top)
            for (file, _), probabilities_k in zip(pictures, probabilities_nk, strict=True)
        ]
        record.encode_s = time.perf_counter() - begun
        return {"model_name": served.name, "model_version": served.version, "predictions": predictions}

    async def _pictures(self, request: Request) -> list[Picture]:
        headers = {key: value for key, value in request.scope["headers"] if key.startswith(b"content-")}
        body = await read_body(
            request.receive,
            headers.get(b"content-length"),
            headers.get(b"content-encoding"),
            self._max_body_bytes,
        )
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return await _files(request.headers, body)
        return [(None, bytes(body))]

    def _rows(self, pictures: Sequence[Picture], preprocessing: Preprocessing) -> np.ndarray:
        """The pictures as rows (N, C, H, W) float32, in a thread; raises BadPicture with the file's name."""
        rows = []
        for file, content in pictures:
            try:
                rows.append(read_picture(content, preprocessing, self._max_pixels))
            except BadPicture as error:
                raise BadPicture(f"{file}: {error}" if file else str(error)) from None
        return np.concatenate(rows)


def read_picture(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> np.ndarray:
    """The row (1, C, H, W) float32 of one picture of at most `max_pixels`; raises BadPicture."""
    target = Target(
        mode=preprocessing.mode,
        height=preprocessing.height,
        width=preprocessing.width,
        max_pixels=max_pixels,
    )
    try:
        pixels_chw = read_pixels(content, target)
    except UnknownFormatError:
        raise BadPicture("the body is not a JPEG, PNG or WebP picture") from None
    except PictureError as error:
        raise BadPicture(f"the picture {error}") from None
    return to_row(pixels_chw, preprocessing.mean, preprocessing.std)


def _response(
    status: int,
    body: bytes,
    head: bytes,
    headers: Mapping[str, str] | None = None,
) -> Response:
    response = Response(body, status, headers, media_type="application/json")
    lines = (line.partition(b": ") for line in head.splitlines())
    response.raw_headers += [(name, value) for name, _, value in lines]
    return response


def _prediction(file: str | None, probabilities_k: np.ndarray, labels: list[str], top: int) -> dict[str, Any]:
    order = np.argsort(-probabilities_k, kind="stable")[:top]
    ranked = [{"label": labels[k], "probability": round(float(probabilities_k[k]), 6)} for k in order]
    named: dict[str, Any] = {} if file is None else {"file": file}
    return {**named, **ranked[0], "top": ranked}


def _top(text: str | None, num_labels: int) -> int:
    if text is None:
        return num_labels if num_labels <= ALL_LABELS_UP_TO else DEFAULT_TOP
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise BadRequest(f"'top' must be a number from 1 on, got '{text[:40]}'")
    return min(int(text), num_labels)


class _InMemory(MultiPartParser):
    """Files stay in memory: the body's size is limited already, and the disk may be read-only."""

    spool_max_size = 2**62


async def _files(headers: Headers, body: Buffer) -> list[Picture]:
    boundary = headers["content-type"].partition("boundary=")[2].partition(";")[0].strip().strip('"')
    if boundary and f"--{boundary}--".encode("latin-1") not in body:
        raise BadRequest("the multipart body ends too early: its closing boundary is missing")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield bytes(body)

    try:
        form = await _InMemory(headers, stream(), max_files=MAX_FILES, max_fields=MAX_FILES).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "malformed"
        raise BadRequest(f"the multipart body cannot be read: {reason}") from None
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise BadRequest("the multipart body holds no file; send each picture as a file")
    return [(file.filename or "file", await file.read()) for file in files]
