"""Two clients: one to be awaited, and one for ordinary code, which runs the other in its own thread."""

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import quote

import anyio
import httpx

from foldserve.client.call import send
from foldserve.client.errors import BadRequest
from foldserve.client.pictures import Picture, encoded
from foldserve.client.wire import LENGTH, Answer, Prediction, infer_body, read_answer, read_predictions

P = ParamSpec("P")
T = TypeVar("T")
MAX_FILES, MAX_BYTES = 64, 16 * 2**20  # of pictures in one request: far below what a service takes by default


class AsyncClient:
    """A service at `url`, for one event loop of asyncio or trio.

    `timeout_s` is for a whole call, `retries` for each of its requests; `options` are httpx.AsyncClient's:
    verify, cert, proxy …
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        **options: Any,
    ) -> None:
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=None, **options)
        self._timeout_s = timeout_s
        self._retries = retries
        self._datatypes: dict[tuple[str, str | None], Mapping[str, str]] = {}

    async def predict(
        self,
        picture: Picture,
        *,
        model: str | None = None,
        top: int | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """The label of one picture: a path, bytes, uint8 pixels or a Pillow picture."""
        return (await self.predict_all([picture], model=model, top=top, timeout_s=timeout_s))[0]

    async def predict_all(
        self,
        pictures: Sequence[Picture],
        *,
        model: str | None = None,
        top: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """The labels of pictures, in their order, many in one request; one bad picture fails them all."""
        params = {name: str(value) for name, value in (("model", model), ("top", top)) if value is not None}
        found: list[Prediction] = []
        deadline = anyio.current_time() + self._seconds(timeout_s)
        for part in _parts([encoded(picture) for picture in pictures]):
            files = [("file", (str(number), content)) for number, content in enumerate(part)]
            body: dict[str, Any] = {"content": part[0]} if len(part) == 1 else {"files": files}
            left_s = max(deadline - anyio.current_time(), 0)
            found += read_predictions(await self._send("POST", "/predict", left_s, params=params, **body))
        return found

    async def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Answer:
        """Answers to an array, or to a dict of arrays by input name, rows first; all outputs unless named."""
        deadline = anyio.current_time() + self._seconds(timeout_s)
        if (model, version) not in self._datatypes:
            described = await self.metadata(model, version, timeout_s=timeout_s)
            tensors = {tensor["name"]: tensor["datatype"] for tensor in described["inputs"]}
            self._datatypes[model, version] = tensors
        left_s = max(deadline - anyio.current_time(), 1e-6)
        body, length = infer_body(
            self._datatypes[model, version], inputs, outputs, priority=priority, timeout=int(left_s * 1e6)
        )
        path, headers = f"{_path(model, version)}/infer", {LENGTH: str(length)}
        try:
            return read_answer(await self._send("POST", path, left_s, content=body, headers=headers))
        except BadRequest:
            self._datatypes.pop((model, version), None)  # another version may be served by now
            raise

    async def models(self) -> list[str]:
        """The names of the models."""
        names: list[str] = (await self._send("GET", "/v2/models")).json()["models"]
        return names

    async def metadata(
        self, model: str, version: str | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """What a model takes and gives, as the protocol describes it."""
        described: dict[str, Any] = (await self._send("GET", _path(model, version), timeout_s)).json()
        return described

    async def is_ready(self) -> bool:
        """Whether the service has proved its models; False if it cannot be reached."""
        try:
            return (await self._http.get("/v2/health/ready", timeout=self._timeout_s)).is_success
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(
        self, method: str, path: str, timeout_s: float | None = None, **options: Any
    ) -> httpx.Response:
        seconds = self._seconds(timeout_s)
        return await send(self._http, method, path, timeout_s=seconds, retries=self._retries, **options)

    def _seconds(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """The same method, which returns when the answer is there."""

    @functools.wraps(method)
    def call(self: "Client", /, *values: P.args, **named: P.kwargs) -> T:
        future = asyncio.run_coroutine_threadsafe(method(self._client, *values, **named), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C, the request ends too
            raise

    return call


class Client:
    """A service at `url`, for ordinary code; safe to use from several threads.  Arguments as for AsyncClient.

    Make a new one in a process that was forked: its thread stays in the other.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(self._loop, self._client), daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _stop, self._loop, thread)

    predict = _blocking(AsyncClient.predict)
    predict_all = _blocking(AsyncClient.predict_all)
    infer = _blocking(AsyncClient.infer)
    models = _blocking(AsyncClient.models)
    metadata = _blocking(AsyncClient.metadata)
    is_ready = _blocking(AsyncClient.is_ready)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
    loop.run_forever()
    loop.run_until_complete(client.close())
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def _path(model: str, version: str | None) -> str:
    of_version = "" if version is None else f"/versions/{quote(version, safe='')}"
    return f"/v2/models/{quote(model, safe='')}{of_version}"


def _parts(pictures: Sequence[bytes]) -> list[list[bytes]]:
    """Pictures in requests of at most MAX_FILES and, but for a larger picture, MAX_BYTES."""
    parts: list[list[bytes]] = []
    size = 0
    for picture in pictures:
        if not parts or len(parts[-1]) == MAX_FILES or size + len(picture) > MAX_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(picture)
        size += len(picture)
    return parts
