"""Whether a traced graph answers as its net does: exporters write some ops as others.

In: a net, its graph and a few rows.  Out: nothing, or a TraceError.

    e_graph    max |the graph in float32 − the net in float64|
    e_net      max |the net in float32 − the net in float64|
    e_wide     max |the graph in float64 − the net in float64|

A tolerance follows from e_graph, so that a graph of another function would only widen it.  torch's exporter
writes `torch.hamming_window`, whose α is 0.54, as ONNX's HammingWindow, whose α is 25/46: 0.4 % of the range.
What float32 rounds, the net's own float32 rounds as much, and float64 does not: e_graph is about e_net, and
e_wide is nothing.  Where neither holds, the two are not one function.
"""

import numpy as np
import onnx_ir as ir

from export.compute.reference import Arrays, Evaluate, graph_evaluator
from export.compute.runtime import load
from export.errors import ProofError, TraceError, UnrunnableError
from export.graph.file import serialize

SUSPECT = 1e-5
"""Of an output's range: smaller errors are those of float32 over a zoo of nets, and widen no tolerance."""
UNLIKE = 4.0
"""How many times e_net an e_graph may be: the two sum up in other orders."""
UNLIKE_UNSEEN = 32.0
"""The same where the graph cannot be computed in float64."""


def check_answers(graph: ir.Model, wide: Evaluate, narrow: Evaluate, rows: Arrays) -> None:
    """Raise TraceError where the graph is another function than the net.

    Args:
        wide: the net in float64.
        narrow: the same in float32.
        rows: a few of every input, by name; what is not finite of their answers says nothing.
    """
    try:
        found = load(serialize(graph), optimised=False)(rows)
    except UnrunnableError:
        return  # the proof says so
    truth, own = wide(rows), narrow(rows)
    made: Arrays | None = None
    for name, answer in found.items():
        error, error_of_net = _apart(answer, truth[name]), _apart(own[name], truth[name])
        size = float(np.abs(truth[name]).max(initial=0.0))
        if error <= max(SUSPECT * size, UNLIKE * error_of_net):
            continue
        try:
            made = graph_evaluator(graph)(rows) if made is None else made
            is_another = _apart(made[name], truth[name]) > error / 2
        except ProofError:
            is_another = error > UNLIKE_UNSEEN * error_of_net
        if is_another:
            raise TraceError(
                f"the traced graph is not the net: '{name}' differs by {error:.3g} with answers up to "
                f"{size:.3g}, where the net's own float32 error is {error_of_net:.3g}: torch's exporter "
                "writes an op of its forward as another one; write it in others"
            )


def _apart(answer: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference; 0 of what is not comparable: other shapes, integers, or numbers not finite."""
    if answer.shape != truth.shape or answer.dtype.kind != "f":
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(answer.astype(np.float64) - truth)
    return float(apart[np.isfinite(apart)].max(initial=0.0))
