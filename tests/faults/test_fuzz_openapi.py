"""Requests that schemathesis makes of our OpenAPI schema: none gets a 5xx, answers are what the schema says.

`FOLDSERVE_FUZZ_EXAMPLES=2000 pytest tests/faults/test_fuzz_openapi.py` runs it for long; the default is a few
seconds. Skips unless `make test-extras` has installed schemathesis.
"""

import os
import subprocess
from pathlib import Path

import httpx
import pytest

from extras import NEEDED, SCHEMATHESIS
from service_kit import serving
from tiny_nets import digits_net, echo_net, write_bundle

NUM_EXAMPLES = int(os.environ.get("FOLDSERVE_FUZZ_EXAMPLES", "5"))  # of each route
CHECKS = (
    "not_a_server_error,content_type_conformance,response_schema_conformance,response_headers_conformance"
)
TIMEOUT_S = 30 + 10 * NUM_EXAMPLES


@pytest.mark.skipif(SCHEMATHESIS is None, reason=NEEDED)
def test_what_the_schema_allows_is_answered_as_it_says(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models / "digits" / "1", digits_net())
    write_bundle(models / "echo" / "1", echo_net("float32"))
    with serving(models, "--request-log", "off") as server:
        command = [str(SCHEMATHESIS), "run", f"{server.url}/openapi.json", "--checks", CHECKS]
        command += [
            "--max-examples",
            str(NUM_EXAMPLES),
            "--seed",
            "1",
            "--phases",
            "examples,coverage,fuzzing",
        ]
        # Loading and unloading are off: 501, as documented.
        command += ["--exclude-path-regex", "/v2/repository/models/.*"]
        command += ["--no-color", "--suppress-health-check", "all", "--request-timeout", "10"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
