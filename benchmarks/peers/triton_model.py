"""The code of Triton's Python backend: the models `net` (rows) and `picture` (JPEGs), one batch at a time.

In: Triton's requests.  Out: its responses.  The reasons for its settings are in serve_triton.py.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from net import Net


class TritonPythonModel:
    """A model; the class name is required by Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        self.net = Net(Path(os.environ["PEER_BUNDLE"]), int(os.environ["PEER_THREADS"]))
        self.takes_pictures = args["model_name"] == "picture"

    def execute(self, requests: list[Any]) -> list[Any]:
        name = "file" if self.takes_pictures else self.net.input
        given = [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
        if self.takes_pictures:
            rows = [self.net.row_of(bytes(picture)) for (picture,) in np.concatenate(given)]
            logits = self.net.run(np.concatenate(rows))
        else:
            logits = self.net.run(np.concatenate(given))
        ends = np.cumsum([len(array) for array in given])[:-1]
        return [self._response(part) for part in np.split(logits, ends)]

    def _response(self, logits: np.ndarray) -> Any:
        if not self.takes_pictures:
            return triton.InferenceResponse([triton.Tensor(self.net.output, logits)])
        labels = [[json.dumps(self.net.predictions(logits_k)).encode()] for logits_k in logits]
        return triton.InferenceResponse([triton.Tensor("predictions", np.array(labels, object))])
