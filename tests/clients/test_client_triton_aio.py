"""tritonclient.http.aio, unmodified. docs/protocol.md, 6.12."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from client_kit import given, pictures
from service_kit import Server
from tiny_nets import pair_net

# aiohttp's own word on bodies over 1 MiB, which the client hands it as bytes.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


def connected(server: Server) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{server.port}")


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Any]:
    async with connected(server) as opened:
        yield opened


async def test_health_and_metadata(client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("a model")
    assert not await client.is_model_ready("nope")
    assert (await client.get_server_metadata())["name"] == "foldserve"
    assert (await client.get_model_metadata("digits"))["name"] == "digits"
    assert (await client.get_model_config("digits"))["name"] == "digits"
    (told,) = (await client.get_inference_statistics("digits"))["model_stats"]
    assert told["name"] == "digits"
    index = await client.get_model_repository_index()
    assert {"name": "digits", "version": "1", "state": "READY"}.items() <= index[
        [told["name"] for told in index].index("digits")
    ].items()


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("asks_binary", [True, False, None])
@pytest.mark.parametrize("is_binary", [True, False])
async def test_infer(client: Any, is_binary: bool, asks_binary: bool | None, compression: str | None) -> None:
    rows = pair_net().rows(5, seed=1)
    inputs = [
        given("a", rows["a"], "FP32", is_binary=is_binary),
        given("b", rows["b"], "INT64", is_binary=not is_binary),
    ]
    outputs = None
    if asks_binary is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=asks_binary) for name in ("sum", "product")]

    for _ in range(2):  # inputs are used again
        answer = await client.infer(
            "pair",
            inputs,
            outputs=outputs,
            request_id="seven",
            timeout=10**7,
            priority=1,
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        assert answer.get_response()["id"] == "seven"
        np.testing.assert_allclose(answer.as_numpy("sum"), rows["a"] + rows["b"], rtol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("product"), rows["a"] * rows["b"], rtol=1e-6)


async def test_many_at_once_get_their_own_rows(client: Any) -> None:
    async def ask(seed: int) -> None:
        rows, logits = pictures(1 + seed % 5, seed)
        answer = await client.infer("digits", [given("input", rows, "FP32", is_binary=seed % 2 == 0)])
        np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)

    await asyncio.gather(*(ask(seed) for seed in range(100)))


@pytest.mark.parametrize(
    ("model", "num_rows", "options", "message", "status"),
    [
        ("nope", 1, {}, "unknown model", "404"),
        ("digits", 1, {"model_version": "9"}, "unknown model", "404"),
        ("digits", 1, {"timeout": 1}, "timeout", "504"),
        ("digits", 600, {}, "batch-size must be <= 512", "400"),
        ("digits", 1, {"sequence_id": 5}, "not supported", "400"),
    ],
)
async def test_errors_carry_our_status_and_message(
    client: Any, model: str, num_rows: int, options: dict[str, Any], message: str, status: str
) -> None:
    tensor = given("input", pictures(num_rows)[0], "FP32", is_binary=True)
    with pytest.raises(InferenceServerException, match=message) as refused:
        await client.infer(model, [tensor], **options)
    assert refused.value.status() == status
    rows, logits = pictures(1)
    answer = await client.infer("digits", [given("input", rows, "FP32", is_binary=True)])
    np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)


async def test_a_client_that_gives_up_leaves_the_server_well(server: Server) -> None:
    """The client's own deadline: it hangs up, and others are answered."""
    tensor = given("input", pictures(512)[0], "FP32", is_binary=False)  # 400,000 numbers in JSON
    async with connected(server) as client:
        pending = asyncio.create_task(client.infer("digits", [tensor]))
        await asyncio.sleep(0)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending

    async with connected(server) as again:
        rows, logits = pictures(2)
        answer = await again.infer("digits", [given("input", rows, "FP32", is_binary=True)])
        np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)
