"""Loop for ONNX's reference implementation.

ONNX's own (1.23) runs no round where the condition is left out, which means that it is true, and joins what
the rounds put out along the first axis, instead of stacking it along a new one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx.reference.ops.op_loop import Loop as NumpyLoop


class Loop(NumpyLoop):
    """ONNX operator Loop: the last state, and what each round put out, stacked."""

    body: Any
    _run_body: Any  # set by ONNX's own class, for each attribute that is a graph

    def _run(  # type: ignore[override]
        self,
        rounds: np.ndarray | None = None,
        condition: np.ndarray | None = None,
        *initial: np.ndarray,
        context: Mapping[str, np.ndarray] | None = None,
        attributes: Any = None,
        bindings: Any = None,
        **_: Any,
    ) -> tuple[np.ndarray, ...]:
        index, going, *names = self.body.input_names
        state, scanned = list(initial), []
        goes_on, count = condition is None or bool(condition), 0
        while goes_on and (rounds is None or count < int(rounds)):
            values = {**(context or {}), index: np.array(count), going: np.array(True)}
            values |= dict(zip(names, state, strict=True))
            condition, *outputs = self._run_body(values, attributes=attributes, bindings=bindings)
            goes_on, count = bool(condition), count + 1
            state = outputs[: len(names)]
            scanned.append(outputs[len(names) :])
        if not scanned and self.K:
            raise ValueError(f"Loop '{self.onnx_node.name}' ran no round, so what it scans has no shape")
        return (*state, *(np.stack(arrays) for arrays in zip(*scanned, strict=True)))
