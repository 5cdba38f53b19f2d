"""Loading and unloading by clients: how to ask for it, and a models folder to ask it of."""

from pathlib import Path
from typing import Any

import httpx

from service_kit import x_request
from tiny_nets import digits_net, echo_net, write_bundle

INDEX = "/v2/repository/index"
INFER = "/v2/models/echo/infer"
FLAGS = ("--model-control", "--lanes", "1", "--threads", "1", "--request-log", "off")


def control(client: httpx.Client, verb: str, name: str = "echo", **options: Any) -> httpx.Response:
    return client.post(f"/v2/repository/models/{name}/{verb}", **options)


def ask(client: httpx.Client) -> httpx.Response:
    return client.post(INFER, json=x_request([1, 2, 3]))


def index(client: httpx.Client) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = client.post(INDEX).json()
    return entries


def write_models(folder: Path) -> Path:
    """A models folder with `echo` and `digits`, version 1 of each."""
    write_bundle(folder / "models" / "echo" / "1", echo_net("float32"))
    write_bundle(folder / "models" / "digits" / "1", digits_net())
    return folder / "models"
