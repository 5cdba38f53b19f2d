"""Asks a server with KServe's own inference client; prints its answers, as JSON.

    python tests/kits/kserve_client.py http://127.0.0.1:8000

In: a base URL. Runs where kserve is installed, which need not be this project's environment.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from httpx import HTTPStatusError
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(rows: np.ndarray, *, binary: bool, **members: Any) -> InferRequest:
    tensor = InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model_name="echo-float32", infer_inputs=[tensor], **members)


async def ask(url: str) -> dict[str, Any]:
    """Every call that the client has."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    rows = np.array([[1, 2, 3], [4, 5, 6.5]], np.float32)
    answers: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "echo-float32"),
    }
    for sent in ("JSON", "bytes"):
        for answered in ("JSON", "bytes", "listed"):
            members: dict[str, Any] = {"parameters": {"binary_data_output": answered == "bytes"}}
            if answered == "listed":
                members = {"request_outputs": [RequestedOutput("y", {"binary_data": True})]}
            asked = request(rows, binary=sent == "bytes", request_id="seven", **members)
            answer = await client.infer(url, asked, model_name="echo-float32")
            answers[f"{sent} {answered}"] = answer.outputs[0].as_numpy().tolist()
            answers["id"] = answer.id
    try:
        await client.infer(url, request(rows[:, :2], binary=True), model_name="echo-float32")
    except HTTPStatusError as error:
        answers["wrong shape"] = [error.response.status_code, str(error)]
    try:
        await client.infer(url, request(rows, binary=True), model_name="nope")
    except HTTPStatusError as error:
        answers["unknown"] = [error.response.status_code, str(error)]
    await client.close()
    return answers


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1]))))
