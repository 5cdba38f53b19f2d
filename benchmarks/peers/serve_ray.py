"""Ray Serve: one replica with `serve.batch`, behind HAProxy, or behind Ray's own proxy.

Settings, and why:
- `--haproxy`: RAY_SERVE_ENABLE_HA_PROXY puts Ray's bundled HAProxy in front of the replica, which then
  handles HTTP itself; with Ray's default proxy, in Python, the throughput is a ninth of that.  Ray makes
  HAProxy listen on every interface of the machine while it runs.
- `serve.batch` of up to 64 rows without a delay: rows that arrive while a batch runs form the next one.
- one replica with all of ONNX Runtime's threads; on a few cores the proxy needs the others.
- RAY_SERVE_THROUGHPUT_OPTIMIZED, Ray's own switch: user code on the replica's loop, buffered logs.
- no access log, no dashboard, no usage statistics, no tokens.
- a plain `__call__` instead of FastAPI, which would add cost.
"""

# ruff: noqa: E402

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from net import MAX_ROWS, Net, arguments, free_port

SCRATCH = tempfile.gettempdir()
HAS_HAPROXY = "--haproxy" in sys.argv


SETTINGS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
if HAS_HAPROXY:
    sys.argv.remove("--haproxy")
    SETTINGS |= {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{SCRATCH}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{SCRATCH}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{SCRATCH}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": SCRATCH,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{SCRATCH}/server-state",
    }
os.environ.update(SETTINGS)

import numpy as np
import orjson
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class NetDeployment:
    """Accepts raw rows, rows as JSON, pictures of a form."""

    def __init__(self, bundle: Path, threads: int) -> None:
        self.net = Net(bundle, threads)

    @serve.batch(max_batch_size=MAX_ROWS, batch_wait_timeout_s=0)
    async def run(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.net.run(np.concatenate(rows)))

    async def __call__(self, request: Request) -> Any:
        match request.url.path:
            case "/predict":
                row = self.net.rows(orjson.loads(await request.body())["row"])
                return {"logits": (await self.run(row)).tolist()}
            case "/predict-binary":
                logits_k = await self.run(self.net.rows(await request.body()))
                return Response(logits_k.tobytes(), media_type="application/octet-stream")
            case _:
                form = await request.form()
                file = form["file"]
                assert not isinstance(file, str)
                row = self.net.row_of(await file.read())
                return self.net.predictions(await self.run(row))


def main() -> None:
    """Serve until SIGTERM."""
    options = arguments()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] = str(options.threads)
    cores = max(2, options.threads)
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, _temp_dir=SCRATCH)
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.start(http_options={"host": "127.0.0.1", "port": options.port}, logging_config=quiet)
    serve.run(NetDeployment.bind(options.bundle, options.threads), logging_config=quiet)  # type: ignore[attr-defined]
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
