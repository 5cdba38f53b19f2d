"""Two clients: one to be awaited, and one for ordinary code, which runs the other in its own thread."""

import contextlib
import functools
import itertools
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from foldserve.client import wire
from foldserve.client.errors import BadRequest, DeadlineExceeded, Unreachable, error_of
from foldserve.client.wire import Answer, Picture, Prediction

P = ParamSpec("P")
T = TypeVar("T")
Timeout = float | None  # seconds for a whole call; None: the client's own
MAX_FILES, MAX_BYTES = 64, 16 * 2**20  # of pictures in one request: far below what a service takes by default
FIRST_PAUSE_S = 0.1  # before the first retry; each next one is twice as long


class AsyncClient(contextlib.AbstractAsyncContextManager["AsyncClient"]):
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
        self._datatypes: dict[str, Mapping[str, str]] = {}  # of a model's inputs, by its path

    async def predict(
        self, picture: Picture, *, model: str | None = None, top: int | None = None, timeout_s: Timeout = None
    ) -> Prediction:
        """The label of one picture: a path, bytes, uint8 pixels or a Pillow picture."""
        return (await self.predict_all([picture], model=model, top=top, timeout_s=timeout_s))[0]

    async def predict_all(
        self,
        pictures: Iterable[Picture],
        *,
        model: str | None = None,
        top: int | None = None,
        timeout_s: Timeout = None,
    ) -> list[Prediction]:
        """The labels of pictures, in their order, many in one request; one bad picture fails them all."""
        params = {name: str(value) for name, value in (("model", model), ("top", top)) if value is not None}
        found: list[Prediction] = []
        with self._within(timeout_s):
            for part in _parts(map(wire.encoded, pictures)):
                files = [("file", (str(number), content)) for number, content in enumerate(part)]
                body: dict[str, Any] = {"content": part[0]} if len(part) == 1 else {"files": files}
                found += wire.read_predictions(await self._send("POST", "/predict", params=params, **body))
        return found

    async def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] = (),
        priority: int = 0,
        timeout_s: Timeout = None,
    ) -> Answer:
        """Answers to an array, or to a dict of arrays by input name, rows first; all outputs unless named."""
        path = _path(model, version)
        with self._within(timeout_s):
            if path not in self._datatypes:
                described = await self.metadata(model, version)
                self._datatypes[path] = {each["name"]: each["datatype"] for each in described["inputs"]}
            limits = {"priority": priority, "timeout": _microseconds(_left_s())}
            body, length = wire.infer_body(self._datatypes[path], inputs, outputs, **limits)
            options = {"content": body, "headers": {wire.LENGTH: str(length)}}
            try:
                return wire.read_answer(await self._send("POST", f"{path}/infer", **options))
            except BadRequest:
                self._datatypes.pop(path, None)  # another version may be served by now
                raise

    async def models(self) -> list[str]:
        """The names of the models."""
        with self._within(None):
            return list((await self._send("GET", "/v2/models")).json()["models"])

    async def metadata(
        self, model: str, version: str | None = None, *, timeout_s: Timeout = None
    ) -> dict[str, Any]:
        """What a model takes and gives, as the protocol describes it."""
        with self._within(timeout_s):
            return dict((await self._send("GET", _path(model, version))).json())

    async def is_ready(self) -> bool:
        """Whether the service has proved its models; False if it cannot be reached."""
        try:
            with self._within(None):
                return (await self._http.get("/v2/health/ready")).is_success
        except (httpx.TransportError, DeadlineExceeded):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @contextlib.contextmanager
    def _within(self, timeout_s: Timeout) -> Iterator[None]:
        """What is inside ends in time, its retries and pauses too; raises DeadlineExceeded."""
        seconds = self._timeout_s if timeout_s is None else timeout_s
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"no answer within {seconds:.3g} s")

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A 2xx, after retries where they can help; raises a ClientError.  `options` are httpx's.

        Every call may be repeated: an inference changes nothing on the server.
        """
        for attempt in itertools.count():
            pause_s = FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1)
            try:
                response = await self._http.request(method, path, **options)
                if response.is_success:
                    return response
                failure = error_of(response)
                pause_s = _asked_pause_s(response.headers.get("retry-after", ""), pause_s)
            except httpx.TransportError as error:
                failure = Unreachable(
                    f"no answer from {self._http.base_url}: {error or type(error).__name__}"
                )
            # What is wrong says more than that the deadline would pass meanwhile.
            if not failure.may_pass or attempt >= self._retries or pause_s >= _left_s():
                raise failure
            await anyio.sleep(pause_s)
        raise AssertionError


def _microseconds(seconds: float) -> int:
    """As the protocol's `timeout`, where 0 would mean none."""
    return int(min(max(seconds, 1e-6), 86_400) * 1e6)


def _left_s() -> float:
    """The seconds until the deadline of what runs."""
    return anyio.current_effective_deadline() - anyio.current_time()


def _asked_pause_s(retry_after: str, default_s: float) -> float:
    """The pause that a `Retry-After` asks for: seconds, or from proxies a date."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0)
    except ValueError:  # none, or neither of both
        return default_s


def _path(model: str, version: str | None) -> str:
    of_version = "" if version is None else f"/versions/{quote(version, safe='')}"
    return f"/v2/models/{quote(model, safe='')}{of_version}"


def _parts(pictures: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Pictures in requests of at most MAX_FILES and, but for a larger picture, MAX_BYTES."""
    part: list[bytes] = []
    for picture in pictures:
        if part and (len(part) == MAX_FILES or sum(map(len, part)) + len(picture) > MAX_BYTES):
            yield part
            part = []
        part.append(picture)
    if part:
        yield part


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """The same method, which returns when the answer is there."""

    @functools.wraps(method)
    def call(self: "Client", /, *values: P.args, **named: P.kwargs) -> T:
        bound: Callable[[], Awaitable[T]] = functools.partial(method, self._client, *values, **named)
        future = self._portal.start_task_soon(bound)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C, the request ends too
            raise

    return call


class Client(contextlib.AbstractContextManager["Client"]):
    """A service at `url`, for ordinary code; safe to use from several threads.  Arguments as for AsyncClient.

    Make a new one in a process that was forked: its thread stays in the other.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        until_closed = contextlib.ExitStack()
        self._portal = until_closed.enter_context(start_blocking_portal())
        until_closed.callback(self._portal.call, self._client.close)
        self._end = weakref.finalize(self, until_closed.close)  # also at the program's end

    predict = _blocking(AsyncClient.predict)
    predict_all = _blocking(AsyncClient.predict_all)
    infer = _blocking(AsyncClient.infer)
    models = _blocking(AsyncClient.models)
    metadata = _blocking(AsyncClient.metadata)
    is_ready = _blocking(AsyncClient.is_ready)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._end()

    def __exit__(self, *error: object) -> None:
        self.close()
