"""Two workers on one port, for the tests of this folder."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service_kit import Server, serving, wait_until
from tiny_nets import echo_net, write_bundle
from workers_kit import TWO_WORKERS, descendants, is_alive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "models" / "echo" / "1", echo_net("float32"))
    return tmp_path


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The servers' TMPDIR, in which they leave nothing; its path is short, because Unix sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def server(folder: Path, temporary: Path) -> Iterator[Server]:
    environment = {"TMPDIR": str(temporary)}
    with serving(folder / "models", *TWO_WORKERS, environment=environment) as running:
        yield running
        below = descendants(running.process.pid)
    wait_until(lambda: not any(map(is_alive, below)), "no process is left")
