"""Keys, rates, CORS and TLS at a real server: what passes, what does not, and no way around."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.access.keys import new_key
from service_kit import Server, one_sentence, serving, start, x_request
from tiny_nets import echo_net, write_bundle

INFER = "/v2/models/echo/infer"
PAGE = "https://shop.example"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder / "echo" / "1", echo_net("float32"))
    return folder


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The keys of the server, and the path of their file."""
    folder = tmp_path_factory.mktemp("keys")
    made = {name: new_key(name, scopes) for name, scopes in {"shop": "infer", "ops": "admin,metrics"}.items()}
    (folder / "keys").write_text("\n".join(line for _, line in made.values()))
    return {"file": str(folder / "keys")} | {name: secret for name, (secret, _) in made.items()}


@pytest.fixture(scope="module")
def server(models: Path, secrets: dict[str, str]) -> Iterator[Server]:
    with serving(models, "--api-keys", secrets["file"], "--model-control", "--cors-origins", PAGE) as running:
        yield running


def ask(server: Server, method: str, path: str, key: str | None = None, **options: object) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    headers |= options.pop("headers", {})
    return httpx.request(method, f"{server.url}{path}", headers=headers, **options)


def test_case_12_what_each_key_may_do(server: Server, secrets: dict[str, str]) -> None:
    body = {"json": x_request([1, 2, 3])}
    for method, path, scope, options in (
        ("POST", INFER, "shop", body),
        ("GET", "/v2/models/echo", "shop", {}),
        ("POST", "/v2/repository/index", "shop", {}),
        ("GET", "/metrics", "ops", {}),
        ("GET", "/v2/models/stats", "ops", {}),
        ("POST", "/v2/repository/models/echo/load", "ops", {}),
    ):
        other = "ops" if scope == "shop" else "shop"
        assert ask(server, method, path, **options).status_code == 401, path
        assert ask(server, method, path, "wrong", **options).status_code == 401, path
        assert ask(server, method, path, secrets[other], **options).status_code == 403, path
        assert ask(server, method, path, secrets[scope], **options).status_code == 200, path


def test_health_and_documentation_need_no_key(server: Server) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
        assert ask(server, "GET", path).status_code == 200, path


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository%2Fmodels/echo/load",
        "/v2/repository/models%2Fecho%2Fload",
        "/v2%2Frepository/models/echo/load",
        "/%76%32/repository/models/echo/load",
        "//v2/repository/models/echo/load",
        "/v2/health/ready/..%2F..%2Frepository/models/echo/load",
    ],
)
def test_no_spelling_of_a_path_leads_around_the_gate(
    server: Server, secrets: dict[str, str], path: str
) -> None:
    assert ask(server, "POST", path, secrets["shop"]).status_code in (403, 404)
    assert ask(server, "POST", path).status_code in (401, 404)


def test_a_refusal_is_json_and_the_next_request_on_the_connection_works(
    server: Server, secrets: dict[str, str]
) -> None:
    with httpx.Client(base_url=server.url) as client:
        for path in (INFER, "/predict"):
            answer = client.post(path, json=x_request([1, 2, 3]))
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert list(answer.json()) == ["error"]
        key = {"x-api-key": secrets["shop"]}
        assert client.post(INFER, json=x_request([1, 2, 3]), headers=key).status_code == 200


def test_pages_of_an_allowed_origin_may_read_answers(server: Server, secrets: dict[str, str]) -> None:
    asks = {"origin": PAGE, "access-control-request-method": "POST"}
    leave = ask(server, "OPTIONS", INFER, headers=asks | {"access-control-request-headers": "authorization"})
    assert (leave.status_code, leave.headers["access-control-allow-origin"]) == (200, PAGE)
    for origin, allowed in ((PAGE, PAGE), ("https://evil.example", None)):
        for method, path, options in (
            ("POST", INFER, {"json": x_request([1, 2, 3])}),
            ("GET", "/v2/models/echo", {}),
            ("POST", "/predict", {"content": b"no picture"}),
        ):
            answer = ask(server, method, path, secrets["shop"], headers={"origin": origin}, **options)
            assert answer.status_code == (400 if path == "/predict" else 200)
            assert answer.headers.get("access-control-allow-origin") == allowed
    assert ask(server, "OPTIONS", INFER, headers=asks | {"origin": "https://evil.example"}).status_code == 400
    plain = ask(server, "OPTIONS", INFER, headers={"origin": PAGE})  # not a browser's question for leave
    assert (plain.status_code, plain.headers["allow"]) == (204, "POST")
    assert plain.headers["access-control-allow-origin"] == PAGE


def test_a_rate_is_kept_and_told(models: Path) -> None:
    with serving(models, "--rate-limit", "5") as limited, httpx.Client(base_url=limited.url) as client:
        answers = [client.post(INFER, json=x_request([1, 2, 3])) for _ in range(30)]
        codes = {answer.status_code for answer in answers}
        assert codes == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (refused.headers["retry-after"], list(refused.json())) == ("1", ["error"])
        assert client.get("/v2/health/ready").status_code == 200


def test_pages_carry_security_headers_and_answers_do_not(server: Server, secrets: dict[str, str]) -> None:
    page = ask(server, "GET", "/docs")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in ask(server, "GET", "/v2/models", secrets["shop"]).headers


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    openssl(
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-days",
        2,
        *subject,
        "-out",
        certificate,
        "-keyout",
        key,
    )
    return certificate, key


def test_tls_and_clients_that_must_show_a_certificate(models: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "server")
    client_certificate, client_key = make_certificate(tmp_path, "client")
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    trusting = ssl.create_default_context(cafile=str(certificate))
    body = {"json": x_request([1, 2, 3])}
    with serving(models, *flags) as server:
        url = server.url
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=trusting) as client:
            assert client.post(INFER, **body).json()["outputs"][0]["data"] == [1, 2, 3]
            assert client.get("/v2/health/ready").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/v2/health/ready")
        server.terminate()
        assert server.wait(30) == 0
    with serving(models, *flags, "--tls-client-ca", str(client_certificate)) as server:
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{server.url}{INFER}", verify=trusting, **body)
        shown = ssl.create_default_context(cafile=str(certificate))
        shown.load_cert_chain(client_certificate, client_key)
        assert httpx.post(f"{server.url}{INFER}", verify=shown, **body).status_code == 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--api-keys", "nowhere"), "nowhere: No such file"),
        (("--tls-certificate", "nowhere"), "nowhere: No such file"),
        (("--tls-key", "key.pem"), "go with tls_certificate"),
        (("--trusted-proxies", "nonsense"), "nonsense"),
        (("--model-control", "--host", "0.0.0.0"), "needs api_keys with an admin key"),
        (("--rate-limit", "-1"), "--rate-limit"),
    ],
)
def test_what_cannot_be_is_one_sentence(models: Path, flags: tuple[str, ...], message: str) -> None:
    one_sentence(start("--models", str(models), *flags), message)
