"""`foldserve.client` and `foldserve predict`: against a real service, and against one that misbehaves."""

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from foldserve.client import (
    AsyncClient,
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
from foldserve.client.clients import MAX_FILES
from foldserve.client.pictures import encoded
from service_kit import ROOT, Server

SEVEN = ROOT / "docs/seven.png"
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def own(server: Server) -> Client:
    with Client(server.url) as client:
        yield client


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


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "pixels", "colour", "pillow"])
def test_a_picture_may_come_in_any_form(own: Client, kind: str) -> None:
    picture = Image.open(SEVEN).convert("L")
    given = {
        "path": SEVEN,
        "text": str(SEVEN),
        "bytes": SEVEN.read_bytes(),
        "pixels": np.asarray(picture),
        "colour": np.asarray(picture.convert("RGBA")),
        "pillow": picture,
    }[kind]
    found = own.predict(given, model="digits", top=3)
    assert found == own.predict(SEVEN, model="digits", top=3)
    assert (found.label, found.probability) == found.top[0]
    assert (len(found.top), found.model, found.version) == (3, "digits", "1")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 33)])
def test_pixels_become_a_png_without_loss(mode: str, size: tuple[int, int]) -> None:
    pixels = np.asarray(Image.effect_noise(size, 90).convert(mode))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(pixels)))), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(pixels[::-1, ::-1])))), pixels[::-1, ::-1])


@pytest.mark.parametrize("picture", [np.zeros((4, 4)), np.zeros((4, 4, 2), "u1"), np.zeros((0, 4), "u1"), 7])
def test_what_is_no_picture_is_refused_before_it_is_sent(picture: object) -> None:
    with pytest.raises(BadRequest, match=r"pixels are uint8|a picture is"):
        encoded(picture)


def test_many_pictures_keep_their_order(own: Client) -> None:
    pictures = [np.full((28, 28), shade % 256, "u1") for shade in range(MAX_FILES + 6)]
    found = own.predict_all(pictures, model="digits")
    assert found == [own.predict(picture, model="digits") for picture in pictures]
    assert own.predict_all([]) == []


@pytest.mark.parametrize("name", ["FP32", "FP16", "FP64", "UINT8", "INT8", "INT16", "INT32", "INT64", "BOOL"])
def test_every_datatype_comes_back(own: Client, name: str) -> None:
    dtype = {"FP": "float", "UI": "uint", "IN": "int", "BO": "bool"}[name[:2]] + name.strip("BOLFPUINT")
    rows = np.arange(6).reshape(2, 3).astype(dtype)
    answer = own.infer(f"echo-{dtype}", rows)
    (output,) = answer.outputs.values()
    assert output.dtype == rows.dtype
    assert np.array_equal(output, rows)
    assert answer.timing_ms["total"] > 0
    assert answer.request_id


def test_several_inputs_and_chosen_outputs(own: Client) -> None:
    described = own.metadata("pair")
    inputs = {one["name"]: np.ones((2, *one["shape"][1:]), "i2") for one in described["inputs"]}
    last = described["outputs"][-1]["name"]
    assert list(own.infer("pair", inputs, outputs=[last]).outputs) == [last]
    with pytest.raises(BadRequest, match="give a dict of arrays"):
        own.infer("pair", np.ones((2, 3), "f4"))
    with pytest.raises(BadRequest, match="has no input 'zzz'"):
        own.infer("pair", {"zzz": np.ones((2, 3), "f4")})


def test_an_array_is_cast_only_within_its_kind(own: Client) -> None:
    rows = np.ones((1, 1, 28, 28))
    assert own.infer("digits", rows).outputs["logits"].shape == (1, 10)
    assert own.infer("echo-float32", [[1, 2, 3]]).outputs
    with pytest.raises(BadRequest, match="is float64, the model takes UINT8: cast it yourself"):
        own.infer("echo-uint8", np.ones((1, 3)))


def test_the_servers_sentence_is_the_errors(own: Client) -> None:
    with pytest.raises(NotFound, match="unknown model: 'nope'") as unknown:
        own.infer("nope", np.ones(3))
    assert unknown.value.status == 404
    with pytest.raises(BadRequest, match="unexpected shape for input 'input'") as refused:
        own.infer("digits", np.ones((1, 5), "f4"))
    assert refused.value.request_id
    with pytest.raises(BadRequest, match="takes no pictures"):
        own.predict(SEVEN, model="log")


def test_names_are_quoted_and_models_listed(own: Client) -> None:
    assert "a model" in own.models()
    assert own.metadata("a model", "1")["name"] == "a model"
    assert own.is_ready()


def test_the_servers_own_timeout_is_the_clients(own: Client) -> None:
    own.metadata("digits")
    with pytest.raises(DeadlineExceeded):
        own.infer("digits", np.ones((1, 1, 28, 28), "f4"), timeout_s=1e-6)


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


def test_retry_after_is_honoured() -> None:
    handler, asked = in_turn(failed(503, **{"retry-after": "1"}), LABELLED)
    with mocked(handler) as client:
        client.predict(b"x")
    assert 1 <= asked[1] - asked[0] < 2


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


async def test_asynchronous_calls_run_together(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        rows = [np.full((1, 3), number, "f4") for number in range(20)]
        answers = await asyncio.gather(*(client.infer("echo-float32", row) for row in rows))
        assert [next(iter(answer.outputs.values())).tolist() for answer in answers] == [
            row.tolist() for row in rows
        ]
        assert (await client.predict(SEVEN, model="digits")).label
        assert await client.is_ready()


def test_a_client_that_is_not_closed_ends_with_its_program(server: Server) -> None:
    code = f"from foldserve.client import Client; c = Client({server.url!r}); print(c.is_ready())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def predict(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "foldserve", "predict", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, input=stdin, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_command_prints_a_table_or_json(server: Server, own: Client) -> None:
    expected = own.predict(SEVEN, model="digits", top=2)
    flags = ("--url", server.url, "--model", "digits", "--top", "2")
    code, table, _ = predict(*flags, str(SEVEN))
    ranked = "  ".join(f"{share:.4f} {label}" for label, share in expected.top)
    assert (code, table) == (0, f"{SEVEN}  {ranked}\n")
    code, lines, _ = predict(*flags, "--json", "-", stdin=SEVEN.read_bytes())
    (told,) = map(json.loads, lines.splitlines())
    assert (code, told["file"], told["label"], told["model"]) == (0, "-", expected.label, "digits")
    assert [(one["label"], one["probability"]) for one in told["top"]] == expected.top


def test_a_bad_picture_costs_only_itself(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    pictures = [str(SEVEN), str(tmp_path / "text.png"), str(tmp_path / "gone.png"), str(SEVEN)]
    code, table, errors = predict("--url", server.url, "--model", "digits", *pictures)
    assert code == 1
    assert [line.split()[0] for line in table.splitlines()] == [str(SEVEN)] * 2
    assert len(errors.splitlines()) == 2
    assert "text.png: " in errors
    assert "gone.png: No such file" in errors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--url", "http://127.0.0.1:9", "--timeout-s", "1", str(SEVEN)),
            "no answer from http://127.0.0.1:9",
        ),
        (("--top", "0", str(SEVEN)), "--top must be at least 1, got 0"),
        (("--timeout-s", "nan", str(SEVEN)), "--timeout-s must be positive, got nan"),
        ((), "the following arguments are required: PICTURE; see foldserve predict --help"),
    ],
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    code, table, errors = predict(*words)
    assert (code, table, errors.count("\n")) == (2, "", 1)
    assert sentence in errors
