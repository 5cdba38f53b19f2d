"""The usual fold: a BatchNorm into the weights of the linear op right before it, as any tool does it.

In: a graph and its BatchNorms.  Out: the same graph, in place, and what became of each.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from export.fold.batchnorm import Affine, BatchNorm
from export.fold.flatten import flatten_first
from export.fold.linear.conv import fold_conv, fold_conv_transpose, fold_deform_conv
from export.fold.linear.gemm import fold_add, fold_gemm, fold_matmul
from export.fold.linear.weights import Refusal, shared
from export.graph.edit import has_one_reader, onnx_op, replace_by_input
from service.contract.account import FoldSite

Rewrite = Callable[[ir.Node, Affine], str | Refusal]

REWRITES: dict[str, Rewrite] = {
    "Conv": fold_conv,
    "ConvTranspose": fold_conv_transpose,
    "DeformConv": fold_deform_conv,
    "Gemm": fold_gemm,
    "MatMul": fold_matmul,
    "Add": fold_add,
}


def fold_usual(
    graph: ir.Graph, norms: Mapping[ir.Node, BatchNorm], fates: dict[ir.Node, FoldSite]
) -> dict[ir.Node, str]:
    """The usual fold, into the linear op right before.  Notes in `fates` what went; returns why
    linear ops refused."""
    refusals = {}
    for node, norm in norms.items():
        if node in fates or node.graph is not graph or norm.axis != 1:
            continue
        flatten_first(node, graph)
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        rewrite = REWRITES.get(onnx_op(before) or "")
        if source is None or before is None or rewrite is None or not has_one_reader(source):
            continue
        cost = shared(before)
        went = rewrite(before, norm)
        if isinstance(went, str):
            replace_by_input(node, graph)
            fates[node] = norm.folded(f"{went} before it{cost}")
        elif before.op_type != "Add":  # most Adds are no bias of a MatMul: what the gauges say is the reason
            refusals[node] = went.reason
    return refusals
