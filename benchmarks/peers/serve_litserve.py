"""LitServe: an API process that speaks HTTP, an inference process that batches.

Settings, and why:
- max_batch_size 64 with batch_timeout 1 ms.  With a timeout of 0 the inference process polls its queue
  without a pause and uses a whole core; with 5 ms a lone request takes three times as long and 64 are not
  faster.
- one API process per core, which doubles the throughput of one; one inference process with one session on all
  cores, because two would halve the batches.
- fast_queue, LitServe's own advice for many small requests: ZeroMQ instead of a multiprocessing queue.
- no access log, no tracking of requests; a payload is passed on unchanged and decoded in the inference
  process, as LitServe intends.

LitServe accepts JSON or forms, so binary rows are sent as a file of a form.
"""

from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request, Response
from net import MAX_ROWS, Net, arguments


class NetAPI(litserve.LitAPI):
    """Accepts rows as JSON, rows as a file, pictures as a file."""

    def __init__(self, bundle: Path, threads: int) -> None:
        super().__init__(max_batch_size=MAX_ROWS, batch_timeout=0.001)
        self._bundle = bundle
        self._threads = threads

    def setup(self, device: str) -> None:
        self.net = Net(self._bundle, self._threads)

    def decode_request(self, request: Request) -> tuple[str, np.ndarray]:
        """The kind of answer, and the row."""
        if "row" in request:
            return "json", self.net.rows(request["row"])
        if "binary" in request:
            return "binary", self.net.rows(request["binary"].file.read())
        return "picture", self.net.row_of(request["file"].file.read())

    def batch(self, inputs: list[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
        return [kind for kind, _ in inputs], np.concatenate([row for _, row in inputs])

    def predict(self, batch: tuple[list[str], np.ndarray]) -> tuple[list[str], np.ndarray]:
        kinds, rows = batch
        return kinds, self.net.run(rows)

    def unbatch(self, output: tuple[list[str], np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return list(zip(*output, strict=True))

    def encode_response(self, output: tuple[str, np.ndarray]) -> Any:
        kind, logits_k = output
        if kind == "json":
            return {"logits": logits_k.tolist()}
        if kind == "binary":
            return Response(logits_k.tobytes(), media_type="application/octet-stream")
        return self.net.predictions(logits_k)


if __name__ == "__main__":
    options = arguments()
    server = litserve.LitServer(
        NetAPI(options.bundle, options.threads), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(
        port=options.port,
        num_api_servers=options.threads,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
