"""What is asked while a model is being loaded: the file that it reads stops it as long as a test wants.

`case_n` are the cases of docs/failure-cases.md.
"""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from control_kit import FLAGS, ask, control, index, write_models
from service.contract.signature import SIGNATURE_FILE, sign
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
    """A file that stops its next reader until the test lets go: a lease, which the reader's open() breaks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "HeldFile":
        self._on_break = signal.signal(signal.SIGIO, signal.SIG_IGN)
        self._descriptor = os.open(self._path, os.O_RDWR)
        fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return self

    def wait_for_reader(self) -> None:
        """Until a process opens the file, and waits in open()."""
        wait_until(
            lambda: fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK, "the file is opened"
        )

    def let_go(self) -> None:
        """The reader continues: closing ends the lease."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __exit__(self, *unused: object) -> None:
        self.let_go()
        signal.signal(signal.SIGIO, self._on_break)


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


def test_a_model_that_is_loaded_while_the_start_loads_others(models: Path) -> None:
    """It joins the models that the loading thread goes through; that thread must not notice."""
    with HeldFile(models / "digits" / "1" / "golden.npz") as golden:
        server = Server(models, *FLAGS)
        try:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                golden.wait_for_reader()
                write_bundle(models / "new" / "1", echo_net("float32"))
                assert control(client, "load", "new").status_code == 200
                golden.let_go()
                server.wait_until_loaded()
                assert {entry["name"]: entry["state"] for entry in index(client)} == dict.fromkeys(
                    ("digits", "echo", "new"), "READY"
                )
                assert client.get("/v2/health/ready").status_code == 200
        finally:
            server.close()


def test_a_model_that_is_new_never_makes_the_server_unready(models: Path, client: httpx.Client) -> None:
    write_bundle(models / "new" / "1", echo_net("float32"))
    with HeldFile(models / "new" / "1" / "golden.npz") as golden, ThreadPoolExecutor(1) as threads:
        loading = threads.submit(control, client, "load", "new")
        golden.wait_for_reader()
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            assert other.get("/v2/health/ready").status_code == 200
            assert other.get("/v2/models/new/ready").status_code == 503
            golden.let_go()
            assert loading.result().status_code == 200
            (models / "broken" / "1").mkdir(parents=True)
            assert control(other, "load", "broken").status_code == 400
            assert other.get("/v2/health/ready").status_code == 200


def is_ready(models: Path, *flags: str) -> bool:
    with serving(models, *flags) as server:
        return httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def test_case_21_strict_and_lenient(models: Path, tmp_path: Path) -> None:
    assert is_ready(models)
    (models / "broken" / "1").mkdir(parents=True)
    assert not is_ready(models)
    assert not is_ready(models, "--readiness", "strict")
    assert is_ready(models, "--readiness", "lenient")
    (tmp_path / "none" / "broken" / "1").mkdir(parents=True)
    assert not is_ready(tmp_path / "none", "--readiness", "lenient"), "nothing is served"


def test_only_signed_bundles_are_served_where_signatures_are_required(models: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    for command in (
        ("genpkey", "-algorithm", "ed25519", "-out", str(private)),
        ("pkey", "-in", str(private), "-pubout", "-out", str(public)),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    folder = models / "digits" / "1"
    (folder / SIGNATURE_FILE).write_bytes(sign((folder / "manifest.json").read_bytes(), private))
    flags = ("--require-signature", str(public), "--readiness", "lenient")
    with serving(models, *flags) as server, httpx.Client(base_url=server.url) as client:
        states = {entry["name"]: (entry["state"], entry["reason"]) for entry in index(client)}
    assert states["digits"] == ("READY", "")
    assert states["echo"][0] == "UNAVAILABLE"
    assert "manifest.json.sig: there is none, and only signed bundles are served" in states["echo"][1]
