"""The net that every peer serves: ONNX Runtime on a bundle's graph, pictures to rows, logits to labels.

In: a bundle's folder and ONNX Runtime's threads.  Out: a `Net`.  Needs onnxruntime, numpy and Pillow only.

Every peer does the same work per row, with the same code, so that only the peer differs.  All accept the same
flags, which `arguments()` reads:

    python serve_X.py --bundle models/digits/1 --port 8000 --threads 2
"""

import argparse
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort
from PIL import Image

TOP = 5
MAX_ROWS = 64


def arguments() -> argparse.Namespace:
    """The flags --bundle, --port and --threads; others are ignored."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_known_args()[0]


def free_port() -> int:
    """A free TCP port on 127.0.0.1."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Net:
    """A session on a bundle's graph, with its preprocessing and labels."""

    def __init__(self, bundle: Path, threads: int) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.input: str = manifest["inputs"][0]["name"]
        self.output: str = manifest["outputs"][0]["name"]
        self.row_shape: list[int] = manifest["inputs"][0]["shape"][1:]
        self.num_classes: int = manifest["outputs"][0]["shape"][1]
        self.labels: list[str] = manifest["labels"] or [str(k) for k in range(self.num_classes)]
        self._preprocessing = manifest["preprocessing"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Spinning threads take the cores from the HTTP side: every peer is faster without spinning.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Logits (N, K) of rows (N, …), float32 both."""
        logits: np.ndarray = self._session.run(None, {self.input: rows})[0]
        return logits

    def rows(self, values: Any) -> np.ndarray:
        """Rows (N, …) from the bytes or the numbers of one or more rows."""
        if isinstance(values, bytes | bytearray | memoryview):
            return np.frombuffer(values, "<f4").reshape(-1, *self.row_shape)
        return np.asarray(values, np.float32).reshape(-1, *self.row_shape)

    def row_of(self, picture: bytes) -> np.ndarray:
        """The row (1, C, H, W) of a JPEG."""
        return self.row_of_image(Image.open(io.BytesIO(picture)))

    def row_of_image(self, image: Image.Image) -> np.ndarray:
        """The row (1, C, H, W) of an opened picture."""
        how = self._preprocessing
        image = image.convert(how["mode"])
        if image.size != (how["width"], how["height"]):
            image = image.resize((how["width"], how["height"]), Image.Resampling.BILINEAR)
        pixels_hwc = np.asarray(image, np.float32).reshape(how["height"], how["width"], -1) / np.float32(255)
        row_hwc = (pixels_hwc - np.array(how["mean"], np.float32)) / np.array(how["std"], np.float32)
        return np.ascontiguousarray(row_hwc.transpose(2, 0, 1)[np.newaxis])

    def predictions(self, logits_k: np.ndarray) -> dict[str, Any]:
        """The most probable labels of one picture."""
        exponents = np.exp(logits_k - logits_k.max())
        probabilities_k = exponents / exponents.sum()
        best = np.argsort(-probabilities_k)[:TOP]
        return {
            "predictions": [
                {"label": self.labels[k], "probability": round(float(probabilities_k[k]), 6)} for k in best
            ]
        }
