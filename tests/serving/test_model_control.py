"""The model repository: index, load and unload, alone and under load.

6.10.3 and `vector_32` (reload under load) are in docs/protocol.md, `case_n` in docs/failure-cases.md.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from control_kit import FLAGS, INDEX, ask, control, index, write_models
from service_kit import Server, metric, serving, x_request
from tiny_nets import digits_net, echo_net, nudged, write_bundle


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_models(tmp_path)


@pytest.fixture
def server(models: Path) -> Iterator[Server]:
    with serving(models, *FLAGS) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def spoil(folder: Path) -> Path:
    """A version whose proof fails."""
    net = digits_net()
    return write_bundle(folder, net, graph=nudged(net))


def test_6_10_3_index(models: Path) -> None:
    spoil(models / "digits" / "2")
    spoil(models / "broken" / "1")
    with serving(models) as server, httpx.Client(base_url=server.url) as client:
        ready = [
            {"name": "digits", "version": "1", "state": "READY", "reason": ""},
            {"name": "echo", "version": "1", "state": "READY", "reason": ""},
        ]
        everything = index(client)
        assert [entry for entry in everything if entry["state"] == "READY"] == ready
        refused = [(entry["name"], entry["version"]) for entry in everything if entry not in ready]
        assert refused == [("broken", "1"), ("digits", "2")]
        assert all("differs" in entry["reason"] for entry in everything if entry not in ready)
        for body in (b"", b"{}", b" ", b'{"ready":false}', b'{"unknown":1}'):
            assert client.post(INDEX, content=body).json() == everything
        assert client.post(INDEX, json={"ready": True}).json() == ready


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested 101 deep"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "one JSON object"),
        (b"{", "not JSON"),
        (b'{"ready":1}', "'ready' must be true or false"),
    ],
)
def test_case_5_a_hostile_index_is_400(client: httpx.Client, body: bytes, message: str) -> None:
    answer = client.post(INDEX, content=body)
    assert (answer.status_code, message in answer.json()["error"]) == (400, True)
    assert client.post(INDEX).status_code == 200


def test_control_is_off_unless_asked_for(models: Path) -> None:
    with serving(models) as server, httpx.Client(base_url=server.url) as client:
        for verb in ("load", "unload"):
            answer = control(client, verb)
            assert (answer.status_code, "--model-control" in answer.json()["error"]) == (501, True)
        assert "model_repository" not in client.get("/v2").json()["extensions"]
        assert ask(client).status_code == 200


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"parameters":{"config":"{}"}}', 501),
        (b'{"parameters":{"file:1/model.onnx":"AAAA"}}', 501),
        (b'{"parameters":{"file:../../etc/passwd":"AAAA"}}', 501),  # pragma: allowlist secret
        (b'{"parameters":[]}', 400),
        (b"{", 400),
    ],
)
def test_case_26_models_come_from_the_folder_alone(
    client: httpx.Client, verb: str, body: bytes, status: int
) -> None:
    answer = control(client, verb, content=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert ask(client).status_code == 200


@pytest.mark.parametrize(
    "name", ["nope", "..", "%2e%2e", "..%2f..", "echo%2f1", ".hidden", "%00", "notes.txt"]
)
def test_case_26_a_name_leads_nowhere_else(models: Path, client: httpx.Client, name: str) -> None:
    (models / "notes.txt").write_text("not a model")
    write_bundle(models / ".hidden" / "1", echo_net("float32"))
    write_bundle(models.parent / "1", echo_net("float32"))
    before = index(client)
    for verb in ("load", "unload"):
        answer = control(client, verb, name)
        assert answer.status_code in (400, 404), answer.text
        assert list(answer.json()) == ["error"]
    assert index(client) == before


def test_case_23_a_new_version_swaps(models: Path, client: httpx.Client) -> None:
    assert "model_repository" in client.get("/v2").json()["extensions"]
    old = ask(client).headers["x-model-digest"]
    write_bundle(
        models / "echo" / "2", echo_net("float32"), change=lambda manifest: manifest.update(name="two")
    )
    assert ask(client).headers["x-model-version"] == "1"  # not loaded yet
    answer = control(client, "load")
    assert (answer.status_code, answer.json()) == (200, {})
    told = ask(client)
    assert (told.headers["x-model-version"], told.json()["model_version"]) == ("2", "2")
    assert told.headers["x-model-digest"] != old
    assert client.get("/v2/models/echo").json()["versions"] == ["2"]
    gone = client.post("/v2/models/echo/versions/1/infer", json=x_request([1, 2, 3]))
    assert (gone.status_code, list(gone.json())) == (404, ["error"])
    assert client.get("/v2/models/echo/versions/1/ready").status_code == 404
    assert {"name": "echo", "version": "2", "state": "READY", "reason": ""} in index(client)


def test_case_23_a_new_version_that_fails_leaves_the_old_one(models: Path, client: httpx.Client) -> None:
    spoil(models / "digits" / "2")
    answer = control(client, "load", "digits")
    assert (answer.status_code, "differs" in answer.text) == (400, True), answer.text
    assert client.get("/v2/models/digits").json()["versions"] == ["1"]
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/digits/ready").status_code == 200
    newest = client.get("/v2/models/digits/versions/2/ready")
    assert (newest.status_code, "differs" in newest.json()["error"]) == (503, True)
    states = {(entry["name"], entry.get("version")): entry["state"] for entry in index(client)}
    assert states == {
        ("digits", "1"): "READY",
        ("digits", "2"): "UNAVAILABLE",
        ("echo", "1"): "READY",
    }


def test_case_25_files_that_vanish_leave_what_is_served(models: Path, client: httpx.Client) -> None:
    shutil.rmtree(models / "echo" / "1")
    answer = control(client, "load")
    assert (answer.status_code, "holds no version" in answer.json()["error"]) == (400, True)
    assert ask(client).status_code == 200
    shutil.rmtree(models / "echo")
    assert control(client, "load").status_code == 400
    assert ask(client).status_code == 200


def test_case_24_back_to_a_smaller_version(models: Path, client: httpx.Client) -> None:
    write_bundle(models / "echo" / "2", echo_net("float32"))
    assert control(client, "load").status_code == 200
    shutil.rmtree(models / "echo" / "2")
    assert control(client, "load").status_code == 200
    assert ask(client).headers["x-model-version"] == "1"


def test_case_27_loaded_again_after_it_was_mended(models: Path, client: httpx.Client) -> None:
    golden = models / "echo" / "1" / "golden.npz"
    whole = golden.read_bytes()
    golden.write_bytes(b"half")
    assert control(client, "load").status_code == 400
    assert ask(client).status_code == 200
    golden.write_bytes(whole)
    assert control(client, "load").status_code == 200
    assert [entry["state"] for entry in index(client)] == ["READY", "READY"]


def test_a_model_that_is_new_in_the_folder(models: Path, client: httpx.Client) -> None:
    write_bundle(models / "late" / "3", echo_net("float32"))
    assert client.post("/v2/models/late/infer", json=x_request([1, 2, 3])).status_code == 404
    assert control(client, "load", "late").status_code == 200
    assert client.post("/v2/models/late/infer", json=x_request([1, 2, 3])).status_code == 200
    assert client.get("/v2/models").json()["models"].count("late") == 1


def test_6_10_3_unload_and_load_again(server: Server, client: httpx.Client) -> None:
    answer = control(client, "unload")
    assert (answer.status_code, answer.json()) == (200, {})
    refusal = ask(client)
    assert (refusal.status_code, "is unloaded" in refusal.json()["error"]) == (503, True)
    assert client.get("/v2/models/echo/ready").status_code == 503
    assert {"name": "echo", "state": "UNAVAILABLE", "reason": "unloaded"} in index(client)
    assert client.get("/v2/health/ready").status_code == 200  # as was asked for
    assert metric(client, 'foldserve_version_proved{model="echo",version="1"}') == 0
    assert control(client, "unload").status_code == 200  # again: as it is already
    assert control(client, "load").status_code == 200
    assert ask(client).json()["outputs"][0]["data"] == [1, 2, 3]
    assert index(client)[1] == {"name": "echo", "version": "1", "state": "READY", "reason": ""}


def test_the_openapi_document_follows_the_first_served_model(client: httpx.Client) -> None:
    def example() -> str:
        operation = client.get("/openapi.json").json()["paths"]["/v2/models/{model}/infer"]["post"]
        return str(operation["parameters"][0]["example"])

    assert [example(), example()] == ["digits", "digits"]
    assert control(client, "unload", "digits").status_code == 200
    assert example() == "echo"
