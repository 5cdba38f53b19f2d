"""What is asked while a model is being loaded: the file that it reads stops it as long as a test wants.

`case_n` are the cases of docs/failure-cases.md.
"""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from control_kit import FLAGS, ask, control, index, write_models
from service_kit import Server, serving, wait_until
from tiny_nets import echo_net, write_bundle


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


class HeldFile:
    """A file that stops its reader until the test lets go: a FIFO in its place."""

    def __init__(self, path: Path) -> None:
        self._path, self._content = path, path.read_bytes()
        self._writing: int | None = None

    def __enter__(self) -> "HeldFile":
        self._path.unlink()
        os.mkfifo(self._path)
        return self

    def wait_for_reader(self) -> None:
        """Somebody has opened it and waits for its content."""

        def is_open() -> bool:
            with contextlib.suppress(OSError):
                self._writing = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            return self._writing is not None

        wait_until(is_open, "somebody reads")
        assert self._writing is not None
        os.set_blocking(self._writing, True)

    def let_go(self) -> None:
        """The content comes."""
        writing, self._writing = self._writing, None
        assert writing is not None
        with os.fdopen(writing, "wb") as file:
            file.write(self._content)

    def __exit__(self, *unused: object) -> None:
        if self._writing is not None:
            os.close(self._writing)


def test_case_24_unload_while_it_is_loading_at_the_start(models: Path) -> None:
    """The last word counts: what was unloaded is not served, however its loading ends."""
    with HeldFile(models / "echo" / "1" / "golden.npz") as golden:
        server = Server(models, *FLAGS)
        try:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                golden.wait_for_reader()
                assert ask(client).status_code == 503
                assert control(client, "unload").status_code == 200
                golden.let_go()
                server.wait_until_loaded()
                assert ask(client).status_code == 503
                assert {"name": "echo", "state": "UNAVAILABLE", "reason": "unloaded"} in index(client)
        finally:
            server.close()


def test_the_old_version_serves_while_the_new_one_is_proved(models: Path, client: httpx.Client) -> None:
    write_bundle(models / "echo" / "2", echo_net("float32"))
    with HeldFile(models / "echo" / "2" / "golden.npz") as golden, ThreadPoolExecutor(1) as threads:
        loading = threads.submit(control, client, "load")
        golden.wait_for_reader()
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            assert ask(other).headers["x-model-version"] == "1"
            assert other.get("/v2/health/ready").status_code == 200
            golden.let_go()
            assert loading.result().status_code == 200
            assert ask(other).headers["x-model-version"] == "2"


def test_case_30_sigterm_while_a_model_is_loaded_again(models: Path) -> None:
    with serving(models, *FLAGS, "--shutdown-timeout-s", "1") as server:
        golden = HeldFile(models / "echo" / "1" / "golden.npz")
        client = httpx.Client(base_url=server.url, timeout=60)
        with golden, client, ThreadPoolExecutor(1) as threads:
            loading = threads.submit(control, client, "load")
            golden.wait_for_reader()
            server.terminate()
            answer = loading.result()
            assert (answer.status_code, list(answer.json())) == (503, ["error"])
            assert server.wait(20) == 0
