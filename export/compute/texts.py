"""Outputs that are texts: no client could send for them, and no float64 is computed of them.

In: a graph.  Out: a copy without them; whether an answer is one; the labels that they are chosen from.

    probabilities (N, C)        label (N): "cat", "dog", … of the largest        the first alone is served
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from export.compute.rows import constant

_LABELS = ("classlabels_strings", "values_strings")


def is_text(value: ir.Value) -> bool:
    """Whether a tensor holds texts."""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.STRING


def without_texts(model: ir.Model) -> ir.Model:
    """A copy without outputs that are texts; the graph itself if it has none, or nothing else."""
    kept = [value for value in model.graph.outputs if not is_text(value)]
    if not kept or len(kept) == len(model.graph.outputs):
        return model
    model = model.clone()
    for place in reversed(range(len(model.graph.outputs))):
        if is_text(model.graph.outputs[place]):
            model.graph.outputs.pop(place)
    passes.RemoveUnusedNodesPass()(model)
    return model


def labels_in(model: ir.Model) -> list[str] | None:
    """The texts that the first such output is chosen from, in their order; None where they are not found."""
    pending, seen = [value for value in model.graph.outputs if is_text(value)][:1], set[ir.Value]()
    while pending:
        value = pending.pop()
        seen.add(value)
        array = constant(value) if is_text(value) else None
        if array is not None and array.ndim == 1 and array.size > 1:
            return [_decoded(text) for text in array]
        if (node := value.producer()) is None:
            continue
        for name in _LABELS:
            if name in node.attributes:
                return [_decoded(text) for text in node.attributes[name].as_strings()]
        pending += [one for one in node.inputs if one is not None and one not in seen]
    return None


def texts_apart(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> str | None:
    """Which texts of two runs differ, in words; None if they are equal."""
    for name, answer in one.items():
        if answer.dtype.kind in "OUS" and not np.array_equal(answer, other[name]):
            return f"output '{name}' is another text in {np.mean(answer != other[name]):.1%} of its places"
    return None


def _decoded(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)
