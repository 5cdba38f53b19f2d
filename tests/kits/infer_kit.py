"""What the tests of `infer` share: how to ask, and what a refusal looks like."""

import json
from typing import Any

import httpx

from service_kit import x_request


def infer(client: httpx.Client, model: str, document: Any, **options: Any) -> httpx.Response:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return client.post(f"/v2/models/{model}/infer", content=content, **options)


def refused(client: httpx.Client, model: str, document: Any, message: str, status: int = 400) -> None:
    """The error says `message`, and the next request on the same connection works."""
    answer = infer(client, model, document)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert message in answer.json()["error"]
    assert infer(client, "echo-float32", x_request([1, 2, 3])).status_code == 200
