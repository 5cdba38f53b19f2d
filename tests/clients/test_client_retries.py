"""`foldserve.client` against a service that misbehaves: what is tried again, how long, and the errors."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import numpy as np
import pytest

from foldserve.client import (
    BadRequest,
    Client,
    ClientError,
    DeadlineExceeded,
    Denied,
    NotFound,
    ServerFailed,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from service_kit import ROOT

Handler = Callable[[httpx.Request], httpx.Response]


def mocked(handler: Handler, **options) -> Client:
    return Client("http://service", transport=httpx.MockTransport(handler), **options)


def in_turn(*answers: httpx.Response | Exception) -> tuple[Handler, list[float]]:
    """A handler that gives one answer after another, the last one for ever; and when it was asked."""
    asked: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        given = answers[min(len(asked), len(answers)) - 1]
        if isinstance(given, Exception):
            raise given
        return given

    return answer, asked


def failed(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": f"no: {status}"}, headers=headers)


LABELLED = httpx.Response(
    200,
    json={
        "model_name": "m",
        "model_version": "3",
        "predictions": [{"label": "7", "probability": 0.9, "top": [{"label": "7", "probability": 0.9}]}],
    },
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (413, BadRequest),
        (500, ServerFailed),
    ],
)
def test_what_cannot_succeed_is_not_tried_again(status: int, kind: type[ClientError]) -> None:
    handler, asked = in_turn(failed(status, **{"x-request-id": "r1"}))
    with mocked(handler) as client, pytest.raises(kind, match=f"no: {status}") as raised:
        client.predict(b"x")
    assert (len(asked), raised.value.status, raised.value.request_id) == (1, status, "r1")


@pytest.mark.parametrize("first", [failed(503), failed(429), failed(502), httpx.ConnectError("refused")])
def test_what_may_succeed_is_tried_again(first: httpx.Response | Exception) -> None:
    handler, asked = in_turn(first, LABELLED)
    with mocked(handler) as client:
        assert client.predict(b"x").label == "7"
    assert len(asked) == 2


@pytest.mark.parametrize("is_date", [False, True])
def test_retry_after_is_honoured(is_date: bool) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=2)  # a date has whole seconds: 1 to 2 s from now
    retry_after = format_datetime(moment, usegmt=True) if is_date else "1"
    handler, asked = in_turn(failed(503, **{"retry-after": retry_after}), LABELLED)
    with mocked(handler) as client:
        client.predict(b"x")
    assert 0.9 <= asked[1] - asked[0] < 2.5 - 0.5 * (not is_date)


def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    handler, asked = in_turn(failed(503, **{"retry-after": "60"}))
    with mocked(handler, timeout_s=2) as client, pytest.raises(Unavailable, match="no: 503"):
        client.predict(b"x")
    assert (len(asked), time.monotonic() - asked[0] < 1) == (1, True)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(failed(503), Unavailable), (failed(429), TooManyRequests), (httpx.ReadError(""), Unreachable)],
)
def test_retries_end(answer: httpx.Response | Exception, kind: type[ClientError]) -> None:
    handler, asked = in_turn(answer)
    with mocked(handler, retries=2) as client, pytest.raises(kind):
        client.predict(b"x")
    assert len(asked) == 3


def test_a_deadline_ends_a_call_whose_answer_does_not_come() -> None:
    async def silent(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    begun = time.monotonic()
    with mocked(silent, timeout_s=0.2) as client, pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        client.predict(b"x")
    assert time.monotonic() - begun < 2


def test_a_model_that_was_swapped_for_another_is_described_anew() -> None:
    datatypes = iter(["FP64", "FP32"])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"inputs": [{"name": "x", "datatype": next(datatypes)}]})
        if b"FP64" in request.content:
            return failed(400)
        body = {"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [5]}]}
        return httpx.Response(200, json=body)

    with mocked(handler) as client:
        with pytest.raises(BadRequest):
            client.infer("m", np.ones(1))
        assert client.infer("m", np.ones(1)).outputs["y"].tolist() == [5]


def test_a_proxys_page_is_a_sentence() -> None:
    handler, _ = in_turn(httpx.Response(502, text="<html>Bad Gateway"))
    with (
        mocked(handler, retries=0) as client,
        pytest.raises(Unavailable, match="/predict answered 502 Bad Gateway"),
    ):
        client.predict(b"x")


def test_a_key_is_sent() -> None:
    seen, key = [], "of this test"

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return LABELLED

    with mocked(handler, api_key=key) as client:
        client.predict(b"x")
    assert seen == [f"Bearer {key}"]


PAGE = (ROOT / "docs/pictures.md").read_text(encoding="utf-8")
TASKS = ("classification", "multi-label", "embedding", "spatial")
BY_TASK = dict(zip(TASKS, re.findall(r'^{"model_n.*', PAGE, re.MULTILINE), strict=True))


def test_the_answer_to_every_task_is_read() -> None:
    """The answers are those that docs/pictures.md shows."""
    found = {}
    for task, body in BY_TASK.items():
        with mocked(in_turn(httpx.Response(200, text=body))[0]) as client:
            found[task] = client.predict(b"x")
    assert found["classification"].labels == [("cat", 0.91)]
    assert found["multi-label"].top == [("cat", 0.91), ("dog", 0.4)]
    assert (found["multi-label"].labels, found["multi-label"].label) == ([("cat", 0.91)], "cat")
    assert found["classification"].values is None
    assert found["embedding"].values.tolist() == [0.25, -1.5]
    assert found["spatial"].values.tolist() == [[[0.25, -1.5]]]
    assert found["spatial"].values.dtype == "float32"
    several = json.loads(BY_TASK["multi-label"])
    several["predictions"][0]["labels"] = several["predictions"][0]["top"]
    with mocked(in_turn(httpx.Response(200, json=several))[0]) as client:
        assert client.predict(b"x").labels == [("cat", 0.91), ("dog", 0.4)]
