"""The hot route: POST /v2/models/M[/versions/V]/infer, a plain ASGI endpoint.

In: an HTTP request.  Out: its answer.  Nothing else happens on the way:

    read the body → parse → submit → wait → encode → send

Long JSON is parsed in a thread. A failure is counted and sent as {"error": "…"}.
"""

import asyncio
import logging
import time
from concurrent.futures import Executor
from urllib.parse import unquote

from service.body import Buffer, read_body
from service.errors import HungUp, ServiceError, UnknownModel
from service.models import Models
from service.protocol.response import encode_response
from service.reply import JSON, Headers, Receive, Scope, Send, send_error, send_reply
from service.served import Served
from service.watchman import Watchman

LONG_JSON = 256 * 1024

_BINARY = (b"content-type", b"application/octet-stream")
_log = logging.getLogger("foldserve")


class InferEndpoint:
    """Answers inference requests to every model."""

    def __init__(self, models: Models, watchman: Watchman, threads: Executor, max_body_bytes: int) -> None:
        self._models = models
        self._watchman = watchman
        self._threads = threads
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        begun = time.perf_counter()
        model = ""
        try:
            name, version = _target(scope["raw_path"])
            self._models.check_open()
            served = self._models.get(name, version)
            model = name
            headers, body = await self._answer(served, scope, receive, begun)
        except ServiceError as error:
            self._models.metrics.failed(error.reason, model)
            if not isinstance(error, HungUp):
                await send_error(send, error)
            return
        except Exception:
            _log.exception("event=internal_error route=infer model=%s", model)
            self._models.metrics.failed(ServiceError.reason, model)
            await send_error(send, ServiceError("internal server error"))
            return
        await send_reply(send, 200, headers, body)

    async def _answer(
        self, served: Served, scope: Scope, receive: Receive, begun: float
    ) -> tuple[Headers, bytes]:
        declared = encoding = header_length = None
        for key, value in scope["headers"]:
            if key == b"content-length":
                declared = value
            elif key == b"inference-header-content-length":
                header_length = value
            elif key == b"content-encoding":
                encoding = value
        body = await read_body(receive, declared, encoding, self._max_body_bytes)
        if len(body) <= LONG_JSON or _json_length(body, header_length) <= LONG_JSON:
            request = served.parser.parse(body, header_length)
        else:
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(self._threads, served.parser.parse, body, header_length)
        head = request.head
        queue_s = compute_s = 0.0
        if head.num_rows == 0:
            tensors = served.no_rows
        else:
            job = served.batcher.submit(request.tensors, head.num_rows, head.timeout_s or None)
            tensors = await self._watchman.wait_for_answers(served.batcher, job, receive)
            queue_s, compute_s = job.queue_s, job.compute_s
        response = encode_response(served.signature, head.id, head.outputs, tensors)
        timing = b"queue;dur=%.3f,compute;dur=%.3f" % (queue_s * 1e3, compute_s * 1e3)
        headers = [served.digest_header, (b"server-timing", timing)]
        if response.header_length is None:
            headers.append(JSON)
        else:
            headers += (_BINARY, (b"inference-header-content-length", b"%d" % response.header_length))
        served.metrics.nonfinite_outputs += response.num_nonfinite
        served.metrics.answered(head.num_rows, time.perf_counter() - begun, queue_s)
        return headers, response.body


def _json_length(body: Buffer, header_length: bytes | None) -> int:
    """How much of a body is JSON, as far as the header can be believed."""
    if header_length is None or not header_length.isdigit():
        return len(body)
    return min(len(body), int(header_length[:18]))


def is_infer(scope: Scope) -> bool:
    """Whether a request is for this route."""
    path: bytes = scope["raw_path"]
    return (
        scope["method"] == "POST"
        and path.endswith(b"/infer")
        and path.startswith(b"/v2/models/")
        and path.count(b"/") in (4, 6)
    )


def _target(raw_path: bytes) -> tuple[str, str | None]:
    """Model and version from …/models/M/infer or …/models/M/versions/V/infer."""
    segments = raw_path.decode("ascii").split("/")
    match segments:
        case ["", "v2", "models", name, "infer"]:
            return (unquote(name) if "%" in name else name), None
        case ["", "v2", "models", name, "versions", version, "infer"]:
            return unquote(name), unquote(version)
        case _:
            raise UnknownModel("Not Found")
