"""A model's first output as an answer of /predict, by the task that its manifest states.

In: one row of the first output.  Out: the keys of a prediction.

    classification   label, probability, top       probabilities sum to 1
    multi-label      labels, top                   each probability by itself; labels from the threshold on
    embedding        embedding                     the vector
    spatial          output                        name, datatype, shape and the row, flattened in C order
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from service.contract.manifest import Manifest
from service.contract.picture_support import activation_of, labels_of, task_of
from service.contract.probabilities import sigmoid, softmax
from service.protocol.datatypes import BY_DTYPE
from service.protocol.long_answers import HOLE, json_in_parts


class Predictions:
    """What is made of the answers of one model; `num_labels` is 0 for tasks without labels."""

    def __init__(self, manifest: Manifest, *, ends_in_softmax: bool) -> None:
        self.task = task_of(manifest)
        self._activation = activation_of(manifest, ends_in_softmax=ends_in_softmax)
        self._output = manifest.outputs[0]
        has_labels = self.task in ("classification", "multi-label")
        self._labels = labels_of(manifest) if has_labels else []
        self._threshold = manifest.postprocessing.threshold if manifest.postprocessing else 0.5

    @property
    def num_labels(self) -> int:
        """How many labels a row has values for."""
        return len(self._labels)

    def activated(self, answers: np.ndarray) -> np.ndarray:
        """The answers after the declared activation, over classes; float64 where they are probabilities."""
        if self._activation == "softmax" and answers.ndim == 2:
            return softmax(answers)
        if self._activation == "softmax":
            flat = answers.reshape(len(answers), answers.shape[1], -1)
            return np.stack([softmax(flat[..., place]) for place in range(flat.shape[2])], axis=2).reshape(
                answers.shape
            )
        if self._activation == "sigmoid":
            return sigmoid(answers)
        return answers.astype(np.float64) if self._labels else answers

    def body(
        self, document: dict[str, Any], files: Sequence[dict[str, Any]], answers: np.ndarray, top: int
    ) -> list[bytes]:
        """An answer's JSON in parts: `document`, and for each of `files` its keys and the prediction."""
        holes: list[np.ndarray] = []
        document["predictions"] = [
            {**keys, **self._prediction(row, top, holes)}
            for keys, row in zip(files, self.activated(answers), strict=True)
        ]
        return json_in_parts(document, holes) if holes else [orjson.dumps(document)]

    def _prediction(self, row: np.ndarray, top: int, holes: list[np.ndarray]) -> dict[str, Any]:
        """The keys for one row of `activated` answers, with the `top` labels; its numbers go to `holes`."""
        if self.task in ("embedding", "spatial"):
            holes.append(row.ravel())
        if self.task == "embedding":
            return {"embedding": HOLE}
        if self.task == "spatial":
            name, datatype = self._output.name, BY_DTYPE[row.dtype.name]
            return {"output": {"name": name, "datatype": datatype, "shape": list(row.shape), "data": HOLE}}
        ranked = _ranked(row, self._labels, top if self.task == "classification" else len(row))
        if self.task == "multi-label":
            labels = [each for each in ranked if each["probability"] >= self._threshold]
            return {"labels": labels, "top": ranked[:top]}
        return {**ranked[0], "top": ranked}


def _ranked(row: np.ndarray, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    order = np.argsort(-row, kind="stable")[:top]
    return [
        {"label": labels[k], "probability": round(probability, 6)}
        for k, probability in zip(order.tolist(), row[order].tolist(), strict=True)
    ]
