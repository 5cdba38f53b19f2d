"""KServe's InferenceRESTClient, unmodified, from an environment of its own. docs/protocol.md, 6.12."""

import json
import subprocess
from typing import Any

import pytest

from extras import KSERVE_PYTHON, NEEDED
from service_kit import ROOT, Server

pytestmark = pytest.mark.skipif(KSERVE_PYTHON is None, reason=f"kserve is {NEEDED}")


@pytest.fixture(scope="module")
def received(server: Server) -> dict[str, Any]:
    """What the client received."""
    client = str(ROOT / "tests/kits/kserve_client.py")
    ran = subprocess.run(
        [str(KSERVE_PYTHON), client, server.url], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answers: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return answers


def test_health(received: dict[str, Any]) -> None:
    assert (received["live"], received["ready"], received["model ready"]) == (True, True, True)


@pytest.mark.parametrize("answered", ["JSON", "bytes", "listed"])
@pytest.mark.parametrize("sent", ["JSON", "bytes"])
def test_infer(received: dict[str, Any], sent: str, answered: str) -> None:
    assert received[f"{sent} {answered}"] == [[1, 2, 3], [4, 5, 6.5]]
    assert received["id"] == "seven"


def test_errors(received: dict[str, Any]) -> None:
    """It prints what `error` says where the Content-Type is exactly application/json."""
    status, message = received["wrong shape"]
    assert status == 400
    assert "unexpected shape for input 'x'" in message
    status, message = received["unknown"]
    assert status == 404
    assert "unknown model: 'nope'" in message
