"""What rows make of every tensor of a graph, as they stream through: extremes, means, and histograms.

In: a float32 graph and batches of rows.  Out: `Seen` for each float tensor.

Only one batch of a graph's tensors is in memory at a time, so any number of rows may come.  There are two
passes, because a histogram needs its ends first.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from export.compute.runtime import load

NUM_BINS = 2048
Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
"""Called once for each pass; each time it gives the same batches."""


@dataclass(kw_only=True, eq=False)
class Seen:
    """One tensor: its extremes, its mean for each place of axis 1, how its numbers spread."""

    low: float = np.inf
    high: float = -np.inf
    sums: np.ndarray = field(default_factory=lambda: np.zeros(1))
    count: int = 0
    bins: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS))

    @property
    def mean(self) -> np.ndarray:
        """Of shape (C,): over all but axis 1."""
        return self.sums / max(self.count, 1)

    def see(self, array: np.ndarray) -> None:
        """Extremes and sums of one batch."""
        if array.size == 0:
            return
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        axes = tuple(axis for axis in range(array.ndim) if axis != 1)
        sums = array.sum(axis=axes, dtype=np.float64).reshape(-1)
        self.sums = self.sums + sums if self.count else sums
        self.count += array.size // sums.size

    def spread(self, array: np.ndarray) -> None:
        """Count one batch into the bins, between the extremes of the first pass."""
        if self.high > self.low:
            self.bins += np.histogram(array, NUM_BINS, (self.low, self.high))[0]


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """The inputs and every tensor that a node of the graph makes, of type float32."""
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    kinds = {info.name: info.type.tensor_type.elem_type for info in infos}
    names = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output if name]
    return [name for name in names if kinds.get(name) == onnx.TensorProto.FLOAT]


def showing(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """A copy of the graph that puts these tensors out too."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {value.name for value in (*model.graph.input, *model.graph.output)}
    for name in names:
        if name not in there:
            shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(shown.SerializeToString())


def observe(model: onnx.ModelProto, batches: Batches, *, with_bins: bool) -> dict[str, Seen]:
    """Every float tensor as these rows show it."""
    names = float_tensors(model)
    run = load(showing(model, names), optimised=False)
    seen = {name: Seen() for name in names}
    for see in ("see", "spread") if with_bins else ("see",):
        for rows in batches():
            tensors = {**rows, **run(rows)}
            for name in names:
                getattr(seen[name], see)(tensors[name])
    return seen
