"""How all tests run, and what each may ask for: an event loop, groups of processes, a server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, settings

import sources_kit

# Tests that look inside run the sources; servers that they start run what users run: compiled, where it is.
if "TESTS_COMPILED_INSIDE" not in os.environ:
    sources_kit.prefer_sources()

from service_kit import Server, every_net, serving
from training.__main__ import ENVIRONMENT

for name, value in ENVIRONMENT.items():  # before torch, as the command does
    os.environ.setdefault(name, value)
# Processes of a parallel run share the cores: with a thread per core each, threads would wait for each other.
if (num_processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
import torch  # noqa: E402

from distributed_kit import Everywhere, processes  # noqa: E402

# Servers that tests start share what they measured, and leave the user's own folder alone.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="foldserve-tests-")
    os.environ["FOLDSERVE_CACHE"] = _CACHE.name


pytest_plugins = ["durations", "turns"]

# No test asserts on wall time: a machine that is busy for two seconds makes none of them fail.
settings.register_profile("no wall time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no wall time")


def _gpu_missing() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi on this machine"
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return None if answer.returncode == 0 and "GPU" in answer.stdout else "nvidia-smi finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _gpu_missing()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA GPU: {reason}"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What runs `async def test_…`: asyncio's own event loop, a new one for each test."""
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def _threads_stay() -> Iterator[None]:
    """Training sets torch's threads for the whole process; the next file of tests begins with them all."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two() -> Iterator[Everywhere]:
    """Two processes of a group."""
    with processes(2) as everywhere:
        yield everywhere


@pytest.fixture(scope="module")
def three() -> Iterator[Everywhere]:
    """Three of them."""
    with processes(3) as everywhere:
        yield everywhere


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = every_net(tmp_path_factory.mktemp("infer") / "models")
    with serving(models, "--max-body-mb", "30", "--queue-rows", "512") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened
