"""How the batcher's tests run: in an event loop whose time jumps; errors only the loop sees fail them."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from batcher_kit import FakeTimeLoop


@pytest.fixture(scope="package")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": FakeTimeLoop}


@pytest.fixture(autouse=True)
def _no_error_is_only_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """anyio raises what a callback raised; asyncio's other errors are only logged, and fail a test too."""
    yield
    logged = [record for record in caplog.get_records("call") if record.name == "asyncio"]
    assert [record.getMessage() for record in logged if record.levelno >= logging.ERROR] == []
