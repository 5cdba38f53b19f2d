"""What the fold did to the weights: the range of each op's, before and after.

In: the graph before and after its fold.  Out: a `WeightRange` for each op whose weights are stored.

A fold multiplies a filter by γ/√(σ²+ε), so one channel with a tiny σ² can stretch the range of a whole
tensor: harmless in float32, costly in float16 and int8.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

MIN_RANK = 2  # biases and scales are not what float16 and int8 suffer from


@dataclass(frozen=True, kw_only=True)
class WeightRange:
    """The weights of one op: smallest and largest number; `before` is None where the op is new."""

    name: str
    op_type: str
    shape: tuple[int, ...]
    before: tuple[float, float] | None
    after: tuple[float, float]

    @property
    def growth(self) -> float | None:
        """Largest |w| after the fold ÷ before it, None where there is nothing to compare."""
        largest = max(map(abs, self.before)) if self.before is not None else 0.0
        return max(map(abs, self.after)) / largest if largest else None


def weight_ranges(before: ir.Model, after: ir.Model) -> list[WeightRange]:
    """One for each op of the folded graph, in its order; ops are the same where their names are."""
    old = {(node.name, node.op_type): _range(array) for node, array in _weights(before.graph)}
    return [
        WeightRange(
            name=node.name or "",
            op_type=node.op_type,
            shape=array.shape,
            before=old.get((node.name, node.op_type)),
            after=_range(array),
        )
        for node, array in _weights(after.graph)
    ]


def _weights(graph: ir.Graph) -> Iterator[tuple[ir.Node, np.ndarray]]:
    """Each op with its first stored tensor of floating point that has more than one axis."""
    for node in graph:
        for value in node.inputs:
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            array = value.const_value.numpy()
            if array.ndim >= MIN_RANK and array.dtype.kind == "f" and array.size:
                yield node, array
                break


def _range(array: np.ndarray) -> tuple[float, float]:
    return float(array.min()), float(array.max())
