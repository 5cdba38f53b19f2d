"""KServe's Python model server, with a custom model.

Settings, and why:
- one worker process per core, each with ONNX Runtime on one thread: the cost is in the HTTP side, in
  Python, and the model server itself does not batch (its batcher is a separate container, in Kubernetes).
- runs are in a thread, so that the event loop continues to read.
- no request log, which doubles the throughput; no gRPC; uvloop.

It listens on every interface of the machine: the address is fixed in KServe.

Pictures are sent as in KServe's own examples: JSON of the protocol v1, the file in base64.
"""

# ruff: noqa: E402

import asyncio
import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

# KServe reads its flags while it is imported, in every worker; it would log each request three times.
LOGGING = Path(tempfile.gettempdir(), "kserve_logging.json")
LOGGING.write_text(json.dumps({"version": 1, "root": {"level": "WARNING"}}), encoding="utf-8")
if "--log_config_file" not in sys.argv:
    sys.argv += ["--log_config_file", str(LOGGING)]

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from net import Net, arguments

MODEL = "net"


class NetModel(Model):
    """Accepts rows by the protocol v2, pictures by v1."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(MODEL)
        self._bundle = bundle
        self._net: Net | None = None
        self.ready = True

    @property
    def net(self) -> Net:
        """The net, opened on first use: each worker gets a copy of the model."""
        if self._net is None:
            self._net = Net(self._bundle, threads=1)
        return self._net

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        return await asyncio.to_thread(self._answer, payload)

    def _answer(self, payload: InferRequest | dict[str, Any]) -> InferResponse | dict[str, Any]:
        if isinstance(payload, dict):
            row = self.net.row_of(base64.b64decode(payload["instances"][0]["b64"]))
            return self.net.predictions(self.net.run(row)[0])
        logits = self.net.run(self.net.rows(payload.inputs[0].as_numpy()))
        output = InferOutput(self.net.output, list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=payload.use_binary_outputs)
        return InferResponse(
            response_id=payload.id or "",
            model_name=MODEL,
            infer_outputs=[output],
            use_binary_outputs=payload.use_binary_outputs,
        )


if __name__ == "__main__":
    options = arguments()
    ModelServer(
        http_port=options.port,
        workers=options.threads,
        enable_grpc=False,
        enable_latency_logging=False,
        event_loop="uvloop",
    ).start([NetModel(options.bundle)])
