"""BentoML: one service with three batched routes.

Settings, and why:
- batchable routes of up to 64 rows.  max_latency_ms is not a delay but a promise: requests that
  BentoML's optimiser expects to exceed it get 503, so it is as long as clients wait.
- one worker per core, each with ONNX Runtime on one thread: the cost is in the HTTP side, in Python.
- uvloop and httptools are installed too; no metrics, no traces, no access log.

A batched route accepts and returns batches, so a row is a batch of one.  A route reads JSON or forms, so
binary rows are sent as base64 in JSON, and logits are returned as numbers.
"""

import base64
import os
import sys
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from net import MAX_ROWS, Net, arguments
from PIL.Image import Image

BATCHED: dict[str, Any] = {"batchable": True, "max_batch_size": MAX_ROWS, "max_latency_ms": 60_000}


@bentoml.service(
    workers=int(os.environ.get("PEER_WORKERS", "1")),
    traffic={"timeout": 60, "max_concurrency": 1024},
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0},
    logging={"access": {"enabled": False}},
)
class NetService:
    """Rows as JSON, rows as base64, pictures as files."""

    def __init__(self) -> None:
        self.net = Net(Path(os.environ["PEER_BUNDLE"]), threads=1)

    @bentoml.api(**BATCHED)
    def logits(self, rows: np.ndarray) -> np.ndarray:
        return self.net.run(self.net.rows(rows))

    @bentoml.api(**BATCHED)
    def binary(self, rows: list[str]) -> list[list[float]]:
        content = b"".join(base64.b64decode(row) for row in rows)
        return self.net.run(self.net.rows(content)).tolist()

    @bentoml.api(**BATCHED)
    def pictures(self, files: list[Image]) -> list[dict[str, Any]]:
        rows = np.concatenate([self.net.row_of_image(image) for image in files])
        return [self.net.predictions(logits_k) for logits_k in self.net.run(rows)]


if __name__ == "__main__":
    options = arguments()
    os.environ["PEER_BUNDLE"] = str(options.bundle)
    os.environ["PEER_WORKERS"] = str(options.threads)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = ["-m", "bentoml", "serve", "serve_bentoml:NetService", "--port", str(options.port)]
    os.chdir(Path(__file__).parent)
    os.execv(sys.executable, [sys.executable, *command, "--host", "127.0.0.1"])
