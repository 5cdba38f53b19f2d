"""Fold every BatchNorm that a linear op stands right before; account for every one.

In: an ir.Model.  Out: a new ir.Model that computes the same, and one `Site` for each BatchNorm found.
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from export.batchnorm import Affine, Declined, Folded, Health, read_batchnorm
from export.folds.conv import fold_conv, fold_conv_transpose
from export.folds.linear import fold_add, fold_gemm, fold_matmul
from export.graph import batchnorms, has_one_reader, tidy
from service.manifest import FoldAccount, FoldSite

Rewrite = Callable[[ir.Node, Affine], Folded | Declined]

REWRITES: dict[str, Rewrite] = {
    "Conv": fold_conv,
    "ConvTranspose": fold_conv_transpose,
    "Gemm": fold_gemm,
    "MatMul": fold_matmul,
    "Add": fold_add,
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """One BatchNorm: its name, what became of it, and its statistics' health if they could be read."""

    name: str
    outcome: Folded | Declined
    health: Health | None


def fold(model: ir.Model) -> tuple[ir.Model, list[Site]]:
    """Fold a prepared graph (see `export.graph.prepare`); the given model stays as it is."""
    model = model.clone()
    sites = [_fold_one(node, model.graph) for node in list(batchnorms(model))]
    return tidy(model), sites


def account(sites: list[Site]) -> FoldAccount:
    """The sites as fold.json and the manifest show them."""
    entries = [
        FoldSite(
            name=site.name,
            status="folded" if isinstance(site.outcome, Folded) else "declined",
            how=site.outcome.how if isinstance(site.outcome, Folded) else None,
            reason=site.outcome.reason if isinstance(site.outcome, Declined) else None,
        )
        for site in sites
    ]
    folded = sum(entry.status == "folded" for entry in entries)
    return FoldAccount(found=len(entries), folded=folded, declined=len(entries) - folded, sites=entries)


def _fold_one(node: ir.Node, graph: ir.Graph) -> Site:
    name = node.name or node.outputs[0].name or "BatchNormalization"
    affine = read_batchnorm(node)
    if isinstance(affine, Declined):
        return Site(name=name, outcome=affine, health=None)
    outcome = _fold_backward(node, affine) if node.graph is graph else _in_subgraph()
    if isinstance(outcome, Folded):
        _replace_by_input(node, graph)
    return Site(name=name, outcome=outcome, health=affine.health)


def _in_subgraph() -> Declined:
    return Declined(reason="inside a subgraph (If, Loop, Scan): those are left alone")


def _fold_backward(node: ir.Node, affine: Affine) -> Folded | Declined:
    source = node.inputs[0]
    before = source.producer() if source is not None else None
    if source is None or before is None:
        return Declined(reason="it is the first op: nothing stands before it to take its scale")
    rewrite = REWRITES.get(before.op_type) if before.domain in ("", "ai.onnx") else None
    if rewrite is None:
        return Declined(
            reason=f"{before.op_type} before it ('{before.name}') has no weights to take its scale"
        )
    if not has_one_reader(source):
        readers = [reader.name for reader, _ in source.uses() if reader is not node]
        others = ", ".join(f"'{reader}'" for reader in readers) or "the graph's output"
        return Declined(reason=f"the output of {before.op_type} '{before.name}' is also read by {others}")
    return rewrite(before, affine)


def _replace_by_input(node: ir.Node, graph: ir.Graph) -> None:
    """Let the op before stand for the BatchNorm; it takes the name of the value that it now computes."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    name, shape = output.name, output.shape
    ir.convenience.replace_all_uses_with(output, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    source.name, source.shape = name, shape or source.shape
