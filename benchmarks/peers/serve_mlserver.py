"""MLServer: a custom runtime, served by MLServer's own HTTP server.

Settings, and why:
- max_batch_size 64 with max_batch_time 1 ms: MLServer batches only requests that wait that long.
- parallel_workers 0: its pool of processes copies every row through queues, for one session that uses all
  cores anyway.
- runs are in a thread, so that the event loop continues to read.
- no metrics, no access log, no gzip of answers of a few hundred bytes; gRPC on an unused port.

MLServer supports the protocol v2 in JSON; a binary body gets 422.  Pictures have their own route, which
MLServer allows a runtime; it is not batched.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from fastapi import UploadFile
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.handlers import custom_handler
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from net import MAX_ROWS, Net, arguments, free_port

MODEL = "net"


class Runtime(MLModel):
    """A runtime that answers rows with logits."""

    async def load(self) -> bool:
        self.net = Net(Path(os.environ["PEER_BUNDLE"]), int(os.environ["PEER_THREADS"]))
        return True

    @custom_handler(rest_path="/picture")
    async def picture(self, file: UploadFile) -> dict[str, Any]:
        row = self.net.row_of(await file.read())
        return self.net.predictions((await asyncio.to_thread(self.net.run, row))[0])

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        logits = await asyncio.to_thread(self.net.run, self.net.rows(given.data.root))
        output = ResponseOutput(
            name=self.net.output, shape=list(logits.shape), datatype="FP32", data=logits.ravel().tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve until a signal."""
    options = arguments()
    os.environ["PEER_BUNDLE"], os.environ["PEER_THREADS"] = str(options.bundle), str(options.threads)
    settings = Settings(
        host="127.0.0.1",
        http_port=options.port,
        grpc_port=free_port(),
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
        debug=False,
        load_models_at_startup=False,
    )
    logging.getLogger("uvicorn.access").disabled = True
    model = ModelSettings(
        name=MODEL,
        implementation=Runtime,
        max_batch_size=MAX_ROWS,
        max_batch_time=0.001,
        parameters=ModelParameters(version="1"),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
