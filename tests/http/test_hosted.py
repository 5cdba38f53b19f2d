"""The service as an ASGI application: what its host sees, driven message by message.

That it speaks the whole protocol under a real host is tested in tests/protocol/test_conformance.py.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from foldserve.asgi import AsgiService
from service_kit import x_request
from tiny_nets import digits_net, echo_net, nudged, write_bundle

BODY = json.dumps(x_request([1, 2, 3])).encode()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hosted")
    write_bundle(root / "a model" / "1", echo_net("float32"))
    return root


class Host:
    """Runs an application's lifespan, and asks it."""

    def __init__(self, app: AsgiService) -> None:
        self.app = app
        self.told: list[dict[str, Any]] = []

    async def ask(self, path: str, *parts: bytes, **scope: Any) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the answer to a POST whose body comes in `parts`; then it hangs up."""
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        sent: list[dict[str, Any]] = []
        answered = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            if not sent and not answered.is_set() and parts:
                answered.set()
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(
            {"type": "http", "method": "POST", "path": path, "headers": [], **scope}, receive, send
        )
        start, *bodies = sent
        assert [message.get("more_body", False) for message in bodies] == [True] * (len(bodies) - 1) + [False]
        return (
            start["status"],
            dict(start["headers"]),
            b"".join(message.get("body", b"") for message in bodies),
        )


@asynccontextmanager
async def hosted(app: AsgiService) -> AsyncIterator[Host]:
    """An application between its startup and its shutdown; a startup that failed is in `told`."""
    host = Host(app)
    stops = asyncio.Event()
    started = asyncio.Event()
    messages = [{"type": "lifespan.startup"}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await stops.wait()
            return {"type": "lifespan.shutdown"}
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        host.told.append(message)
        started.set()

    living = asyncio.create_task(app({"type": "lifespan"}, receive, send))
    await started.wait()
    try:
        yield host
    finally:
        stops.set()
        await living


async def test_below_a_root_path_with_a_body_in_parts(models: Path) -> None:
    """A host may give the path decoded only, and stand at a path of its own."""
    async with hosted(AsgiService(["--models", str(models)], {})) as host:
        assert host.told == [{"type": "lifespan.startup.complete"}]
        assert host.app.reason is None
        status, headers, body = await host.ask(
            "/at/v2/models/a model/infer", BODY[:9], b"", BODY[9:], root_path="/at"
        )
        assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [1, 2, 3])
        assert headers[b"x-model-version"] == b"1"
        assert b"date" not in headers, "the host's"
        assert (await host.ask("/at/v2/health/ready", root_path="/at", method="GET"))[0] == 200
        assert (await host.ask("/v2/models/a model/infer", b"{}"))[0] == 400
        assert (await host.ask("/v2/models/none/infer", BODY))[0] == 404
    assert [message["type"] for message in host.told] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    status, _, body = await host.ask("/v2/models/a model/infer", BODY)
    assert (status, json.loads(body)) == (503, {"error": "not started: the host has to run ASGI's lifespan"})


async def test_limits_hold_under_a_host(models: Path) -> None:
    flags = ("--max-body-mb", "1", "--max-inflight-mb", "1")
    megabyte = b" " * 2**20
    async with hosted(AsgiService(["--models", str(models), *flags], {})) as host:
        path = "/v2/models/a model/infer"
        status, _, body = await host.ask(path, headers=[(b"content-length", b"%d" % (2**20 + 1))])
        assert status == 413, "before a byte of the body is asked for"
        assert b"at most 1048576" in body
        assert (await host.ask(path, megabyte, b" "))[0] == 413
        host.app._service.shared.inflight_bytes = 100_000  # others'
        status, headers, _ = await host.ask(path, megabyte)
        assert (status, headers[b"retry-after"], headers[b"connection"]) == (503, b"1", b"close")
        _, headers, _ = await host.ask(path, megabyte, http_version="2")
        assert b"connection" not in headers, "HTTP/2 has none"
        assert host.app._service.shared.inflight_bytes == 100_000, "what was held is let go"


async def test_a_gate_stands_before_every_route(models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("shop infer " + "0" * 64 + "\n")
    keys.chmod(0o600)
    async with hosted(AsgiService(["--models", str(models), "--api-keys", str(keys)], {})) as host:
        assert host.told == [{"type": "lifespan.startup.complete"}]
        for path, method in (("/v2/models/a model/infer", "POST"), ("/v2/models", "GET")):
            assert (await host.ask(path, BODY, method=method, client=("10.0.0.1", 1)))[0] == 401
        assert (await host.ask("/v2/health/live", method="GET"))[0] == 200


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--models", "nowhere"), "there is no folder 'nowhere'"),
        (("--model", "x"), "--model"),
        ((), "model 'wrong' version 1 is not served"),
    ],
)
async def test_a_startup_that_fails_says_why(tmp_path: Path, flags: tuple[str, ...], reason: str) -> None:
    if not flags:
        write_bundle(tmp_path / "wrong" / "1", digits_net(), graph=nudged(digits_net()))
        flags = ("--models", str(tmp_path))
    async with hosted(AsgiService(flags, {})) as host:
        (told,) = host.told
        assert told["type"] == "lifespan.startup.failed"
        assert reason in told["message"]
        assert "\n" not in told["message"]


async def test_settings_that_the_host_decides_are_named(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosted(AsgiService(["--models", str(models), "--port", "9", "--drain-delay-s", "1"], {})):
        told = [line for line in caplog.messages if "setting_of_the_host" in line]
        assert [line.split()[1] for line in told] == ["drain_delay_s", "port"]
