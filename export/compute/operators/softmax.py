"""Softmax, LogSoftmax and Hardmax for ONNX's reference implementation, by the rule of the file's own opset.

    from opset 13    along one axis, the last unless it is stated
    before           along all axes from `axis` on, 1 unless it is stated: of (N, C, H, W), over C·H·W numbers

ONNX's own has the newer rule at every opset.
"""

import numpy as np
from onnx.reference.op_run import OpRun

FIRST_OF_ONE_AXIS = 13


class _AlongAxis(OpRun):
    def _run(self, x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        # An axis that a node does not state arrives as -1, the default of the newest opset.
        is_stated = any(attribute.name == "axis" for attribute in self.onnx_node.attribute)
        if self.run_params["opsets"][""] >= FIRST_OF_ONE_AXIS:
            return (self._of(x, axis if is_stated and axis is not None else -1),)
        first = (axis if is_stated and axis is not None else 1) % max(x.ndim, 1)
        merged = x.reshape(*x.shape[:first], -1)
        return (self._of(merged, -1).reshape(x.shape),)

    def _of(self, x: np.ndarray, axis: int) -> np.ndarray:
        raise NotImplementedError


class Softmax(_AlongAxis):
    """ONNX operator Softmax: eˣ / Σ eˣ."""

    def _of(self, x: np.ndarray, axis: int) -> np.ndarray:
        grown = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.asarray((grown / grown.sum(axis=axis, keepdims=True)).astype(x.dtype))


class LogSoftmax(_AlongAxis):
    """ONNX operator LogSoftmax: x − log Σ eˣ."""

    def _of(self, x: np.ndarray, axis: int) -> np.ndarray:
        below = x - x.max(axis=axis, keepdims=True)
        return np.asarray((below - np.log(np.exp(below).sum(axis=axis, keepdims=True))).astype(x.dtype))


class Hardmax(_AlongAxis):
    """ONNX operator Hardmax: 1 at the first maximum, 0 elsewhere."""

    def _of(self, x: np.ndarray, axis: int) -> np.ndarray:
        places = np.expand_dims(x.argmax(axis=axis), axis)
        found = np.zeros_like(x)
        np.put_along_axis(found, places, 1, axis=axis)
        return found
