"""Softmax, LogSoftmax and Hardmax for ONNX's reference implementation, by the rule of the file's own opset.

    from opset 13    along one axis, the last unless it is stated
    before           along all axes from `axis` on, 1 unless it is stated: of (N, C, H, W), over C·H·W numbers

ONNX's own has the newer rule at every opset.
"""

from collections.abc import Callable

import numpy as np
from onnx.reference.op_run import OpRun

FIRST_OF_ONE_AXIS = 13
Along = Callable[[np.ndarray, int], np.ndarray]


def _by_opset(node: OpRun, x: np.ndarray, axis: int | None, of: Along) -> tuple[np.ndarray]:
    # An axis that a node does not state arrives as -1, the default of the newest opset.
    stated = axis if any(attribute.name == "axis" for attribute in node.onnx_node.attribute) else None
    if node.run_params["opsets"][""] >= FIRST_OF_ONE_AXIS:
        return (of(x, -1 if stated is None else stated),)
    first = (1 if stated is None else stated) % max(x.ndim, 1)
    return (of(x.reshape(*x.shape[:first], -1), -1).reshape(x.shape),)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    grown = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray((grown / grown.sum(axis=axis, keepdims=True)).astype(x.dtype))


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    below = x - x.max(axis=axis, keepdims=True)
    return np.asarray((below - np.log(np.exp(below).sum(axis=axis, keepdims=True))).astype(x.dtype))


def _hardmax(x: np.ndarray, axis: int) -> np.ndarray:
    found = np.zeros_like(x)
    np.put_along_axis(found, np.expand_dims(x.argmax(axis=axis), axis), 1, axis=axis)
    return found


class Softmax(OpRun):
    """ONNX operator Softmax: eˣ / Σ eˣ."""

    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        return _by_opset(self, x, axis, _softmax)


class LogSoftmax(OpRun):
    """ONNX operator LogSoftmax: x − log Σ eˣ."""

    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        return _by_opset(self, x, axis, _log_softmax)


class Hardmax(OpRun):
    """ONNX operator Hardmax: 1 at the first maximum, 0 elsewhere."""

    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        return _by_opset(self, x, axis, _hardmax)
