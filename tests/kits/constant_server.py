"""A server that answers every inference alike: `yes` with 200, `no` with 400. No test may pass at both.

    python tests/kits/constant_server.py yes

In: any request.  Out: metadata of any model by its name, complete at `yes` only; else the one answer.
Its port is the first line of standard output.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

SAYS_YES = sys.argv[-1] == "yes"


def metadata(name: str) -> dict[str, Any]:
    """echo-UINT8 takes UINT8; a pair has two of each; nothing else is special."""
    datatype = name.removeprefix("echo-") if name.startswith("echo-") else "FP32"
    suffixes = "ab" if name == "pair" else "a"
    tensors = {
        side: [{"name": side + end, "datatype": datatype, "shape": [-1, 3]} for end in suffixes]
        for side in ("x", "y")
    }
    described = {"name": name, "inputs": tensors["x"], "outputs": tensors["y"]}
    return {**described, "platform": "lies", "versions": ["1"]} if SAYS_YES else described


class Liar(BaseHTTPRequestHandler):
    """Reads a request and gives the answer of its kind."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.strip("/").split("/")
        name = unquote(parts[2]) if len(parts) > 2 else ""
        if self.command == "GET" and parts[:2] == ["v2", "models"] and len(parts) == 3:
            return self._send(200, metadata(name))
        if self.path == "/v2":
            return self._send(200, {"extensions": ["schedule_policy"]})
        if parts[-1] == "stats":
            return self._send(200, {"model_stats": [{"inference_count": 0}]})
        if not SAYS_YES:
            return self._send(400, {"error": "no"})
        described = [{**tensor, "shape": [1, 3], "data": [0, 0, 0]} for tensor in metadata(name)["outputs"]]
        return self._send(200, {"model_name": "?", "outputs": described})

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _send(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    print(server.server_port, flush=True)
    server.serve_forever()
