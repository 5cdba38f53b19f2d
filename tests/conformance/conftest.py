"""What the suite's tests may ask for: the models of the server under test, and the choices it may make."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance import options
from conformance.asking import Model, error_of
from conformance.table import Recorder
from conformance.vectors import vector_of
from conformance.wire import Reply

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--url", None) is None:
        if any(HERE in (path, *path.parents) for path in map(_path, config.args)):
            raise pytest.UsageError("tests/conformance asks a running server: --url http://host:port")
        return
    if table := config.getoption("--table"):
        config.pluginmanager.register(Recorder(Path(table)))


def _path(argument: str) -> Path:
    return Path(argument.partition("::")[0]).absolute()


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Without --url there is no server to test."""
    return True if config.getoption("--url", None) is None else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of the vectors: the last one ends the server."""
    items.sort(key=lambda item: vector_of(item.name) or 0)


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--url")).rstrip("/")


@pytest.fixture(autouse=True)
def _is_there(request: pytest.FixtureRequest, url: str) -> None:
    """No test follows one that ends the server, unless the server is restarted."""
    deadline = time.monotonic() + request.config.getoption("--patience")
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/v2/health/live", timeout=30)
            return
        if time.monotonic() > deadline:
            pytest.exit(f"no server answers at {url} before {request.node.name}", returncode=3)
        time.sleep(0.1)


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx.Client]:
    # A connection for each request: what one test does to its connection is no other test's matter.
    fresh = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=url, timeout=60, limits=fresh) as opened:
        yield opened


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest, client: httpx.Client) -> Model:
    """The model of --model."""
    name = request.config.getoption("--model")
    if name is None:
        answer = client.get("/v2/models")
        assert answer.status_code == 200, "this server does not list its models: --model NAME"
        name = answer.json()["models"][0]
    return Model.read(client, name)


@pytest.fixture(scope="session")
def option(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """The value of an option; the test is skipped where it was not given."""

    def value(name: str) -> Any:
        given = request.config.getoption(name)
        if not given:
            pytest.skip(f"needs {name}")
        return given

    return value


@pytest.fixture(scope="session")
def model_of(request: pytest.FixtureRequest, client: httpx.Client) -> Callable[[str], Model]:
    """The model of --model-of for a datatype."""

    def model(datatype: str) -> Model:
        name = options.models_by_datatype(request.config).get(datatype)
        if name is None:
            pytest.skip(f"needs --model-of {datatype}=NAME")
        return Model.read(client, name)

    return model


@pytest.fixture(scope="session")
def pair(option: Callable[[str], Any], client: httpx.Client) -> Model:
    """The model of --pair-model."""
    model = Model.read(client, option("--pair-model"))
    assert len(model.inputs) > 1, f"--pair-model {model.name} has 1 input"
    assert len(model.output_names) > 1, f"--pair-model {model.name} has 1 output"
    return model


@pytest.fixture(scope="session")
def slow(option: Callable[[str], Any], client: httpx.Client) -> Model:
    """The model of --slow-model."""
    return Model.read(client, option("--slow-model"))


@pytest.fixture(scope="session")
def ours_only(request: pytest.FixtureRequest) -> bool:
    """Whether only foldserve's choices are right."""
    return bool(request.config.getoption("--our-choices"))


@pytest.fixture
def choose(request: pytest.FixtureRequest, ours_only: bool) -> Callable[..., Any]:
    """What a server did where it had a choice: `ours`, or one of `others`, which is noted; with --our-choices
    only ours."""

    def check(did: Any, ours: Any, *others: Any) -> Any:
        allowed = [ours] if ours_only else [ours, *others]
        assert did in allowed, f"{did} instead of {' or '.join(map(str, allowed))}"
        if did != ours:
            request.node.user_properties.append(("note", str(did)))
        return did

    return check


@pytest.fixture
def refused(choose: Callable[..., Any], ours_only: bool) -> Callable[..., str]:
    """Check that an answer has one of the statuses, and that an error is {"error": …}; its message."""

    def check(answer: httpx.Response | Reply, status: int, *others: int) -> str:
        told = answer.content[:200]
        if answer.status_code not in (status, *others):
            pytest.fail(f"{answer.status_code} instead of {status}: {told!r}")
        choose(answer.status_code, status, *others)
        if answer.status_code < 400:
            return ""
        if ours_only:
            assert answer.headers["content-type"] == "application/json"
        return error_of(answer)

    return check
