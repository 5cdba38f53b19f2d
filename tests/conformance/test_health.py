"""Vectors 1, 2, 19, 28, 29: health, metadata, names, and paths that are not there."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from conformance.asking import Model, answered, error_of, same
from conformance.tensors import NUMPY
from conformance.wire import ask_once

Refused = Callable[..., str]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_vector_01_live_and_ready(client: httpx.Client, path: str) -> None:
    """6.3"""
    assert client.get(path).status_code == 200


def test_vector_01_a_model_is_ready(client: httpx.Client, model: Model) -> None:
    """6.2, 6.3: with and without its version."""
    path = f"/v2/models/{quote(model.name, safe='')}"
    assert client.get(f"{path}/ready").status_code == 200
    for version in model.metadata.get("versions") or []:
        assert client.get(f"{path}/versions/{version}/ready").status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/no-such-model/ready", "/v2/models/{}/versions/987654/ready"])
def test_vector_01_unknown_models_are_not_ready(
    client: httpx.Client, model: Model, refused: Refused, path: str
) -> None:
    """6.3: unknown model or version, 404."""
    refused(client.get(path.format(quote(model.name, safe=""))), 404)


def test_vector_01_what_is_not_ready(option: Callable[[str], Any], choose: Callable[..., Any]) -> None:
    """6.3: 503 where a model could not be loaded [US, KServe, OVMS]; Triton and MLServer answer 400."""
    base, name = option("--unready")
    path = f"/v2/models/{quote(name, safe='')}"
    assert httpx.get(f"{base}/v2/health/live").status_code == 200
    choose(httpx.get(f"{base}/v2/health/ready").status_code, 503, 400)
    answer = httpx.get(f"{base}{path}/ready")
    choose(answer.status_code, 503, 400)
    error_of(answer)


def test_vector_02_metadata_of_the_server(client: httpx.Client) -> None:
    """6.4: name, version, extensions."""
    told = client.get("/v2").json()
    assert isinstance(told["name"], str)
    assert isinstance(told["version"], str)
    assert isinstance(told["extensions"], list)


def test_vector_02_metadata_of_a_model(model: Model) -> None:
    """6.5: its name, its platform, and the name, datatype and shape of each tensor."""
    told = model.metadata
    assert told["name"] == model.name
    assert isinstance(told["platform"], str)
    assert told["inputs"]
    assert told["outputs"]
    for tensor in told["inputs"] + told["outputs"]:
        assert isinstance(tensor["name"], str)
        assert tensor["datatype"] in NUMPY
        assert all(type(dim) is int and dim >= -1 for dim in tensor["shape"])


def test_vector_02_metadata_with_a_version(client: httpx.Client, model: Model) -> None:
    """6.5: `versions` are strings that may be asked for."""
    versions = model.metadata.get("versions")
    assert versions, "the metadata names no version"
    for version in versions:
        assert isinstance(version, str)
        answer = client.get(f"/v2/models/{quote(model.name, safe='')}/versions/{version}")
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
        assert answer.json()["inputs"] == model.inputs
        assert answer.json()["outputs"] == model.metadata["outputs"]


@pytest.mark.parametrize("path", ["/v2/models/no-such-model", "/v2/models/{}/versions/987654"])
def test_vector_02_unknown_models(client: httpx.Client, model: Model, refused: Refused, path: str) -> None:
    """6.5: 404 and an error."""
    refused(client.get(path.format(quote(model.name, safe=""))), 404)


@pytest.mark.parametrize("path", ["no-such-model/infer", "{}/versions/987654/infer"])
def test_vector_02_unknown_models_do_not_infer(model: Model, refused: Refused, path: str) -> None:
    """6.6.15: 404 and an error."""
    path = f"/v2/models/{path.format(quote(model.name, safe=''))}"
    refused(model.client.post(path, content=model.request().body), 404)


@pytest.mark.parametrize("path", ["/no/such/path", "/v2/nope", "/v2/health", "/v2/models/{}/nope"])
def test_vector_19_unknown_paths(client: httpx.Client, model: Model, refused: Refused, path: str) -> None:
    """6.1.3, 6.1.4: 404 and an error."""
    refused(client.get(path.format(quote(model.name, safe=""))), 404)


@pytest.mark.parametrize("path", ["/no/such/path", "/v2/models/no-such-model", "infer"])
def test_vector_19_errors_say_that_they_are_json(client: httpx.Client, model: Model, path: str) -> None:
    """6.1.3: by their Content-Type, in any layer that refuses."""
    answer = model.post(b"{") if path == "infer" else client.get(path)
    error_of(answer)
    kind = answer.headers.get("content-type", "none")
    assert kind.startswith("application/json"), f"Content-Type of {answer.status_code}: {kind}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/{}/infer"),
        ("DELETE", "/v2/models/{}"),
        ("POST", "/v2/health/live"),
        ("PUT", "/v2"),
    ],
)
def test_vector_19_wrong_methods(
    client: httpx.Client, model: Model, refused: Refused, ours_only: bool, method: str, path: str
) -> None:
    """6.1.3, 6.1.4: 405 and an error; ours names what is allowed."""
    answer = client.request(method, path.format(quote(model.name, safe="")))
    refused(answer, 405)
    if ours_only:
        assert method not in answer.headers["allow"].replace(" ", "").split(",")


def test_vector_28_v2_with_and_without_a_slash(client: httpx.Client) -> None:
    """6.1.6: the same answer, not a redirection."""
    with_slash = client.get("/v2/")
    assert with_slash.status_code == 200
    assert with_slash.json() == client.get("/v2").json()


def test_vector_29_any_character_may_be_percent_encoded(url: str, model: Model) -> None:
    """6.1.5: %64igits is digits."""
    request = model.request()
    encoded = "".join(f"%{byte:02X}" for byte in model.name.encode())
    answer = ask_once(url, "POST", f"/v2/models/{encoded}/infer", request.body, request.headers)
    same(answered(answer)[1], answered(model.send(request))[1])
    assert ask_once(url, "GET", f"/v2/models/{encoded}").status_code == 200


def test_vector_29_a_name_that_must_be_encoded(option: Callable[[str], Any], client: httpx.Client) -> None:
    """6.1.5: clients send it quoted."""
    model = Model.read(client, option("--quoted-model"))
    assert quote(model.name, safe="") != model.name, f"--quoted-model {model.name} needs no quoting"
    document = answered(model.send(model.request()))[0]
    assert document["model_name"] == model.name
