"""LSTM, GRU and RNN of ONNX's reference implementation, which refuse what that leaves out.

It computes with the default activations, all of the sequence, and no limit, whatever a node says: an answer
that is wrong, and would be taken for the truth.  The truth is ONNX Runtime's then, in float32.
"""

from typing import Any

import numpy as np
from onnx.reference.ops import op_gru, op_lstm, op_rnn

_SEQUENCE_LENS = 4
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_LEFT_OUT = ("clip", "input_forget", "activation_alpha", "activation_beta")


def _check(op_type: str, inputs: tuple[np.ndarray | None, ...], attributes: dict[str, Any]) -> None:
    """Raise ValueError where the reference would answer something else than the node says."""
    sequence, lengths = inputs[0], inputs[_SEQUENCE_LENS] if len(inputs) > _SEQUENCE_LENS else None
    steps = 0 if sequence is None else sequence.shape[1 if attributes.get("layout") else 0]
    if lengths is not None and (lengths != steps).any():
        raise ValueError(f"an {op_type} with sequence_lens")
    found = [name for name in _LEFT_OUT if attributes.get(name)]
    activations, default = list(attributes.get("activations") or []), _DEFAULTS.get(op_type)
    if default is not None and activations and activations != default * (len(activations) // len(default)):
        found.append("activations")
    if found:
        raise ValueError(f"an {op_type} with {', '.join(found)}")


class LSTM(op_lstm.LSTM):
    """ONNX operator LSTM."""

    def _run(self, *inputs: np.ndarray | None, **attributes: Any) -> tuple[np.ndarray, ...]:
        _check("LSTM", inputs, attributes)
        return tuple(super()._run(*inputs, **attributes))  # type: ignore[no-untyped-call]


class GRU(op_gru.GRU):
    """ONNX operator GRU."""

    def _run(self, *inputs: np.ndarray | None, **attributes: Any) -> tuple[np.ndarray, ...]:
        _check("GRU", inputs, attributes)
        return tuple(super()._run(*inputs, **attributes))  # type: ignore[no-untyped-call]


class RNN(op_rnn.RNN_14):
    """ONNX operator RNN; it knows its activations."""

    def _run(self, *inputs: np.ndarray | None, **attributes: Any) -> tuple[np.ndarray, ...]:
        _check("RNN", inputs, attributes)
        return tuple(super()._run(*inputs, **attributes))  # type: ignore[no-untyped-call]
