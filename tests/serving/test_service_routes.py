"""Health, metadata, metrics, docs and errors: Open Inference Protocol v2, sections 6.1 to 6.5 and 6.9."""

import json
import re
import tomllib
from collections.abc import Iterator

import httpx
import pytest
from conformance.memory import resident_mb

from service import __version__
from service.routes.answers import SCHEMAS, InferAnswer
from service_kit import ROOT, Server, metric, x_request
from tiny_nets import digits_net, echo_net, write_bundle
from wire_kit import get, until_closed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("routes") / "models"
    write_bundle(models / "digits" / "1", digits_net())
    write_bundle(models / "digits" / "12", digits_net())
    write_bundle(models / "digits" / "013", digits_net(seed=1))  # a leading zero: not a version
    write_bundle(models / "digits" / "latest", digits_net(seed=1))
    write_bundle(models / "a model" / "3", echo_net("float32"))
    (models / "notes.txt").write_text("not a model")
    (models / ".hidden").mkdir()
    server = Server(models, "--max-body-mb", "1")
    try:
        yield server.wait_until_loaded()
    finally:
        server.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def test_vector_1_health(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/digits/ready", "/v2/models/digits/versions/12/ready"):
        assert client.get(path).json() == {"name": "digits", "ready": True}
    for path in ("/v2/models/nope/ready", "/v2/models/digits/versions/2/ready"):
        assert client.get(path).status_code == 404


def test_6_4_server_metadata_names_only_what_works(client: httpx.Client) -> None:
    assert client.get("/v2").json() == {
        "name": "foldserve",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "parameters",
            "schedule_policy",
            "statistics",
        ],
    }


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_vector_28_v2_with_and_without_slash(client: httpx.Client) -> None:
    assert client.get("/v2").content == client.get("/v2/").content


def test_vector_2_model_metadata(client: httpx.Client) -> None:
    told = client.get("/v2/models/digits").json()
    assert told["versions"] == ["12"]  # the highest: 12, not 1, and not 013
    assert told["platform"] == "onnxruntime_onnx"
    assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 28, 28]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert all(isinstance(value, str) for value in told["properties"].values())
    assert client.get("/v2/models/digits/versions/12").json() == told
    unknown = client.get("/v2/models/nope")
    assert unknown.status_code == 404
    assert unknown.json() == {"error": "Request for unknown model: 'nope' is not found"}
    assert client.get("/v2/models/digits/versions/v10").status_code == 404


def test_6_2_list_of_models(client: httpx.Client) -> None:
    assert client.get("/v2/models").json() == {"models": ["a model", "digits"]}


def test_vector_29_a_name_with_a_space(client: httpx.Client) -> None:
    assert client.get("/v2/models/a%20model").json()["name"] == "a model"
    answer = client.post("/v2/models/a%20model/versions/3/infer", json=x_request([1, 2, 3]))
    assert answer.json()["model_version"] == "3"
    assert client.post("/v2/models/a%20model/versions/4/infer", json={}).status_code == 404


def test_6_2_head_is_get_without_a_body(client: httpx.Client) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits", "/metrics"):
        head, got = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        if path != "/metrics":
            assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nope", 404, None),
        ("POST", "/v2/nope", 404, None),
        ("GET", "/v2/models/digits/infer/", 404, None),
        ("POST", "/v2/models/digits/x/infer", 404, None),
        ("POST", "/v2/models/infer", 405, "GET, HEAD"),
        ("POST", "/v2", 405, "GET, HEAD"),
        ("DELETE", "/v2/models/digits", 405, "GET, HEAD"),
        ("GET", "/v2/models/digits/infer", 405, "POST"),
        ("PUT", "/v2/models/digits/versions/1/infer", 405, "POST"),
        ("GET", "/predict", 405, "POST"),
        ("POST", "/metrics", 405, "GET, HEAD"),
        ("GET", "/static-offline-docs/nope.js", 404, None),
    ],
)
def test_vector_19_every_error_is_json(
    client: httpx.Client, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert answer.headers.get("allow") == allow
    assert client.get("/v2/health/live").status_code == 200


def test_6_9_a_body_over_the_limit(client: httpx.Client) -> None:
    for path, start in (("/v2/models/digits/infer", b"{"), ("/predict", b"\xff\xd8\xff")):
        declared = client.post(path, content=bytes(2**20 + 1))
        assert (declared.status_code, "at most 1048576 are allowed" in declared.text) == (413, True)
        chunked = client.post(path, content=iter([start.ljust(2**19), *[b" " * 2**19] * 2]))
        assert (chunked.status_code, "more than 1048576 bytes" in chunked.text) == (413, True)
        assert client.get("/v2/health/live").status_code == 200


def test_case_39_metrics_count_exactly(client: httpx.Client) -> None:
    labels = '{model="a model",version="3"}'
    names = {
        "requests": f"foldserve_requests_total{labels}",
        "rows": f"foldserve_rows_total{labels}",
        "executions": f"foldserve_executions_total{labels}",
        "padding": f"foldserve_padding_rows_total{labels}",
        "batches": f"foldserve_batch_rows_count{labels}",
        "bad": 'foldserve_failures_total{model="a model",reason="bad_request"}',
        "unknown": 'foldserve_failures_total{model="",reason="unknown_model"}',
    }
    before = {key: metric(client, name) for key, name in names.items()}
    for num_rows in (1, 3, 70):  # batches of 1, 3 and 64 + 6 rows; 1 and 2 rows of padding
        document = x_request([0] * 3 * num_rows, shape=[num_rows, 3])
        assert client.post("/v2/models/a%20model/infer", json=document).status_code == 200
    client.post("/v2/models/a%20model/infer", json={})
    client.post("/v2/models/<evil>/infer", json={})
    after = {key: metric(client, name) - before[key] for key, name in names.items()}
    assert after == {
        "requests": 3,
        "rows": 74,
        "executions": 4,
        "padding": 3,
        "batches": 4,
        "bad": 1,
        "unknown": 1,
    }
    assert metric(client, f"foldserve_queue_rows{labels}") == 0
    assert metric(client, "foldserve_ready") == 1
    parity = metric(client, 'foldserve_parity_difference{model="digits",output="logits",version="12"}')
    assert 0 < parity < 1e-4
    assert "evil" not in client.get("/metrics").text


def test_docs_need_nothing_from_elsewhere(client: httpx.Client) -> None:
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    page = client.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    assert not [link for link in links if "//" in link]
    for link in links:
        assert client.get(link).status_code == 200


def test_docs_show_the_hot_route_with_an_example_that_works(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v2/models/{model}/infer"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    name = operation["parameters"][0]["example"]
    assert client.post(f"/v2/models/{name}/infer", json=example).status_code == 200
    assert set(document["paths"]) >= {"/predict", "/metrics", "/v2", "/v2/health/ready"}


FILLED = {"model": "digits", "version": "12"}


def test_6_1_4_options_on_every_route(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    methods = {path.format_map(FILLED): set(operations) for path, operations in paths.items()}
    methods |= {path: {"get"} for path in ("/", "/docs", "/openapi.json", "/v2/")}
    for path, documented in methods.items():
        answer = client.options(path)
        assert (answer.status_code, answer.content) == (204, b""), path
        assert answer.headers["allow"] == ("GET, HEAD" if documented == {"get"} else "POST"), path
    assert client.options("/v2/nothing").status_code == 404


def test_answers_are_what_their_schemas_say(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]
    for path, model in SCHEMAS.items():
        (method,) = document["paths"][path]
        content = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]
        for example in content.get("examples", {}).values():
            model.model_validate(example["value"])
        if method == "get":
            model.model_validate_json(client.get(path.format_map(FILLED)).content)
    operation = document["paths"]["/v2/models/{model}/infer"]["post"]
    request = operation["requestBody"]["content"]["application/json"]["example"]
    path = f"/v2/models/{operation['parameters'][0]['example']}/infer"
    InferAnswer.model_validate_json(client.post(path, json=request | {"id": "1"}).content)


def test_case_33_readiness_probes_leave_nothing_behind(server: Server) -> None:
    """5,000 probes on connections of their own and on kept ones; a leak of 4 KiB each would show."""

    def probe(times: int) -> None:
        with httpx.Client(base_url=server.url) as kept:
            for number in range(times):
                if number % 10 == 0:
                    until_closed(server.port, get("/v2/health/ready", "connection: close"))
                assert kept.get("/v2/health/ready").status_code == 200

    probe(500)  # what grows once
    before = resident_mb(server.process.pid)
    probe(5000)
    assert resident_mb(server.process.pid) - before < 16
