"""A service written by hand in an afternoon: FastAPI, a pydantic body, one `run` per request.

Settings, and why:
- `def` routes, as in the tutorials: FastAPI runs them in its thread pool, so that a run of ONNX Runtime,
  which releases the interpreter lock, does not block the event loop.  The binary route must be `async def`
  to read the raw body, and passes the run to the same pool.
- ONNX Runtime uses all cores for a request, which is its default.
- uvicorn with uvloop and httptools, no access log; one process, or with --workers one per core, each with
  one thread.
"""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from net import Net, arguments
from pydantic import BaseModel


class Row(BaseModel):
    """The body of a request: one row as numbers."""

    row: list[float]


class Logits(BaseModel):
    """The body of an answer: the logits as numbers."""

    logits: list[float]


def build_app(net: Net) -> FastAPI:
    """The three routes."""
    app = FastAPI()

    @app.post("/predict")
    def predict(row: Row) -> Logits:
        return Logits(logits=net.run(net.rows(row.row))[0].tolist())

    @app.post("/predict-binary")
    async def predict_binary(request: Request) -> Response:
        logits: np.ndarray = await run_in_threadpool(net.run, net.rows(await request.body()))
        return Response(logits.tobytes(), media_type="application/octet-stream")

    @app.post("/predict-picture")
    def predict_picture(file: UploadFile) -> dict[str, list[dict[str, str | float]]]:
        return net.predictions(net.run(net.row_of(file.file.read()))[0])

    return app


def worker_app() -> FastAPI:
    """The application of one of several workers."""
    return build_app(Net(arguments().bundle, threads=1))


if __name__ == "__main__":
    has_workers = "--workers" in sys.argv
    if has_workers:
        sys.argv.remove("--workers")
    options = arguments()
    uvicorn.run(
        "serve_hand:worker_app" if has_workers else build_app(Net(options.bundle, options.threads)),
        factory=has_workers,
        workers=options.threads if has_workers else None,
        port=options.port,
        access_log=False,
        log_level="warning",
        loop="uvloop",
        http="httptools",
    )
