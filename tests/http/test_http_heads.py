"""Heads of the hot route: its address in every spelling, and the headers that every answer carries."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from in_process_kit import Inside, inside
from tiny_nets import echo_net, write_bundle
from wire_kit import INFER, Answer, Wire, get, post, wire, x_body

BODY = x_body(1, 2, 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    models = tmp_path_factory.mktemp("heads")
    for name in ("echo", "a model", "ünï", "infer", "a+b", "per%cent"):
        write_bundle(models / name / "7", echo_net("float32"))
    with inside(models, "--max-body-mb", "1", "--lanes", "1", "--shutdown-timeout-s", "2") as running:
        yield running


@pytest.fixture
def line(server: Inside) -> Iterator[Wire]:
    with wire(server.port) as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/echo/infer?", "echo"),
        ("/v2/models/echo/infer?a=/b/c&x=%00", "echo"),
        ("/v2/models/echo/versions/7/infer?x", "echo"),
        ("/v2/models/echo/versions/%37/infer", "echo"),
        ("/v2/models/%65cho/infer", "echo"),
        ("/v2/models/a%20model/infer", "a model"),
        ("/v2/models/%C3%BCn%C3%AF/infer", "ünï"),
        ("/v2/models/infer/infer", "infer"),
        ("/v2/models/a+b/infer", "a+b"),
        ("/v2/models/a%2Bb/infer", "a+b"),
        ("/v2/models/per%25cent/infer", "per%cent"),
    ],
)
def test_vector_29_addresses_that_are_served(line: Wire, path: str, model: str) -> None:
    answer = line.send(post(BODY, path=path)).read()
    assert (answer.status, answer.json().get("model_name")) == (200, model)


@pytest.mark.parametrize("scheme", ["http://example.org", "http://127.0.0.1:8000", "HTTP://x"])
def test_absolute_form_is_served(line: Wire, scheme: str) -> None:
    """RFC 9112, 3.2.2: a server MUST accept the absolute form."""
    assert line.send(get(f"{scheme}/v2/health/live")).read().status == 200
    assert line.send(post(BODY, path=scheme + INFER)).read().status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models//infer",
        "/v2/models/echo/versions//infer",
        "/v2/models/echo/versions/8/infer",
        "/v2/models/echo/versions/07/infer",
        "/v2/models/echo/else/7/infer",
        "/v2/models/echo%2Finfer/infer",
        "/v2/models/echo%00/infer",
        "/v2/models/%ff%fe/infer",
        "/v2/models/../infer",
        "/v2/models/ECHO/infer",
        "/v2/models/echo/infer/",
        "/v2/models/echo//infer",
        "/v2/models/infer",
        "//v2/models/echo/infer",
        "/V2/models/echo/infer",
    ],
)
def test_case_11_addresses_that_are_nobodys(line: Wire, path: str) -> None:
    answer = line.send(post(BODY, path=path)).read()
    assert (answer.status in (404, 405), list(answer.json())) == (True, ["error"]), answer
    assert line.send(post(BODY)).read().status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_vector_19_other_methods_on_the_hot_route(line: Wire, method: str) -> None:
    answer = httpx.request(method, f"http://127.0.0.1:{line.sock.getpeername()[1]}{INFER}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert method == "HEAD" or list(answer.json()) == ["error"]


def test_6_1_4_options_on_the_hot_route(line: Wire) -> None:
    answer = httpx.options(f"http://127.0.0.1:{line.sock.getpeername()[1]}{INFER}")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, "POST", b"")


@pytest.mark.parametrize("connection", ["Upgrade, HTTP2-Settings", "upgrade", "keep-alive, Upgrade"])
@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_an_upgrade_is_declined_by_answering(line: Wire, connection: str, upgrade: str) -> None:
    """As curl --http2 asks; RFC 9110, 7.8: a server may ignore it and keep its protocol."""
    wants = (f"connection: {connection}", f"upgrade: {upgrade}", "http2-settings: AAMAAABkAAQAAP__")
    assert line.send(post(BODY, *wants)).read().data == [1, 2, 3]
    assert line.send(post(x_body(4, 5, 6))).read().data == [4, 5, 6]
    assert line.send(get("/v2/health/live", *wants)).read().status == 200
    assert line.send(post(x_body(7, 8, 9), *wants), post(x_body(1, 1, 1))).read().data == [7, 8, 9]
    assert line.read().data == [1, 1, 1]


@pytest.mark.parametrize("given", ["a", "x" * 128, "!~", "3f2b-…".encode().decode("latin-1")[:4], '{"a":1}'])
def test_a_fine_request_id_comes_back(line: Wire, given: str) -> None:
    for body in (BODY, b"{}"):
        assert line.send(post(body, f"x-request-id: {given}")).read().headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["x" * 129, "a b", "", "tab\tbed", "\xe4", "a" * 70_000])
def test_a_hostile_request_id_is_replaced(line: Wire, given: str) -> None:
    head = post(BODY).replace(b"host: x", b"host: x\r\nx-request-id: " + given.encode("latin-1"))
    answer = line.send(head).read()
    assert answer.status == 200
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", answer.headers["x-request-id"])


def answers(line: Wire) -> dict[str, Answer]:
    """One answer of each kind of the hot route."""
    asked = {
        "answer": post(BODY),
        "bad": post(b"{}"),
        "late": post(BODY.replace(b'{"inputs"', b'{"parameters":{"timeout":1},"inputs"')),
        "encoding": post(BODY, "content-encoding: br"),
        "not gzip": post(BODY, "content-encoding: gzip"),
        "large": post(b" " * (2**20 + 1)),
        "unknown": post(BODY, path="/v2/models/nope/infer"),
        "unknown version": post(BODY, path="/v2/models/echo/versions/9/infer"),
    }
    return {what: line.send(request).read() for what, request in asked.items()}


def test_every_answer_has_a_request_id_of_its_own(line: Wire) -> None:
    told = answers(line)
    statuses = {what: answer.status for what, answer in told.items()}
    assert list(statuses.values()) == [200, 400, 504, 415, 400, 413, 404, 404], statuses
    ids = [answer.headers["x-request-id"] for answer in told.values()]
    assert len(set(ids)) == len(ids)
    assert all(answer.headers["content-type"] == "application/json" for answer in told.values())


def test_digest_and_version_stand_on_answers_and_errors_of_a_known_model(server: Inside, line: Wire) -> None:
    told = answers(line)
    digest = server.on_loop(lambda: server.served("echo").digest)
    for what in ("answer", "bad", "late", "encoding", "not gzip", "large"):
        headers = told[what].headers
        assert (headers["x-model-digest"], headers["x-model-version"]) == (f"sha256:{digest}", "7"), what
    for what in ("unknown", "unknown version"):
        assert "x-model-digest" not in told[what].headers


def test_server_timing_has_six_phases_that_add_up(line: Wire) -> None:
    line.send(post(b"", f"content-length: {len(BODY)}", has_length=False))
    timing = line.send(BODY).read().headers["server-timing"]
    phases = dict(part.split(";dur=") for part in timing.split(","))
    assert list(phases) == ["read", "decode", "queue", "compute", "encode", "total"]
    spent = {phase: float(milliseconds) for phase, milliseconds in phases.items()}
    assert all(milliseconds >= 0 for milliseconds in spent.values())
    parts = sum(spent.values()) - spent["total"]
    assert parts <= spent["total"] + 0.01
    assert min(spent["decode"], spent["compute"], spent["encode"]) > 0


def test_the_date_is_told(line: Wire) -> None:
    assert line.send(post(BODY)).read().headers["date"].endswith("GMT")


def test_a_refused_model_answers_503_with_an_id(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    (folder / "golden.npz").write_bytes(b"spoilt")
    with inside(tmp_path, "--shutdown-timeout-s", "2") as server, wire(server.port) as line:
        answer = line.send(post(BODY, "x-request-id: mine")).read()
        assert (answer.status, answer.headers["x-request-id"]) == (503, "mine")
        assert int(answer.headers["retry-after"]) >= 1
