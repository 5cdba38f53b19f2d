"""A well-behaved client in a process of its own: `python -m benchmarks.attacks.neighbour PORT SECONDS`.

In: a server with the model `digits`.  Out: JSON, milliseconds of each answer: {"infer": […], "predict": […],
"health": […]}, or an error as soon as an answer is not 200.

One request after another, 5 ms apart, on one connection: one row in binary, docs/seven.png, and health.
"""

import http.client
import json
import sys
import time
from pathlib import Path

PAUSE_S = 0.005
SEVEN = Path(__file__).parents[2] / "docs" / "seven.png"


def main(port: int, seconds: float) -> dict[str, list[float]]:
    """Ask for so many seconds."""
    tensor = {"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32"}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 4 * 784}}]}).encode()
    requests = {
        "infer": ("POST", "/v2/models/digits/infer", head + bytes(4 * 784)),
        "predict": ("POST", "/predict", SEVEN.read_bytes()),
        "health": ("GET", "/v2/health/live", None),
    }
    taken_ms: dict[str, list[float]] = {name: [] for name in requests}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, (method, path, body) in requests.items():
            headers = {"Inference-Header-Content-Length": str(len(head))} if name == "infer" else {}
            begun = time.perf_counter()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            taken_ms[name].append(1e3 * (time.perf_counter() - begun))
            if answer.status != 200:
                raise SystemExit(f"{name}: {answer.status} {content[:200]!r}")
        time.sleep(PAUSE_S)
    return taken_ms


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), float(sys.argv[2]))))
