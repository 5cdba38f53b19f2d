"""Merge BatchNorms that read one tensor and are summed, with that tensor itself where it is a term too.

In: a prepared graph and its BatchNorms.  Out: the same function, in place, with one BatchNorm for each such
set, and what became of the others.

    (s₁·x + t₁) + (s₂·x + t₂) + x = (s₁ + s₂ + 1)·x + (t₁ + t₂)
    (s₁·x + t₁) − (s₂·x + t₂)     = (s₁·x + t₁) + (−s₂·x − t₂)        (s·x + t) − x = (s − 1)·x + t

What makes x had several readers, none of which could be folded into it; then it has one.
"""

from collections import defaultdict
from collections.abc import MutableMapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.decomposed import is_decomposed
from export.fold.linear.weights import write
from export.fold.sums import adds_of, are_alike, drop, is_a, is_inner, terms, trees
from export.graph.edit import constant, has_one_reader
from export.graph.moments import forget
from service.contract.account import FoldSite


def merge_summed(graph: ir.Graph, norms: MutableMapping[ir.Node, BatchNorm]) -> dict[ir.Node, FoldSite]:
    """Merge in place; `norms` then tell what those that stay do.  Returns what went, with how."""
    _add_what_is_subtracted(graph, norms)
    adds = adds_of(graph)
    gone: dict[ir.Node, FoldSite] = {}
    for root in trees(graph, adds):
        tree: set[ir.Node] = set()
        found = terms(root, adds, tree)
        groups: dict[tuple[ir.Value, int], list[ir.Node]] = defaultdict(list)
        for term in found:
            node = term.producer()
            if node is not None and node in norms and node.inputs[0] is not None and has_one_reader(term):
                groups[node.inputs[0], norms[node].axis].append(node)
        for (source, _), nodes in groups.items():
            own = sum(value is source for add in tree if add.graph is not None for value in add.inputs)
            # The net's own first: one that stands for a Mul and Add is a trial.
            base, *others = sorted(nodes, key=is_decomposed)
            if not (others or own) or not _write_sum(base, others, own, norms):
                continue
            for node in others:
                drop(node.outputs[0], tree, adds)
                gone[node] = norms[node].folded(f"into BatchNorm '{base.name}' beside it")
            for _ in range(own):
                drop(source, tree, adds)
            forget([base.outputs[0], *(add.outputs[0] for add in adds if is_inner(add, adds))])
    return gone


def _add_what_is_subtracted(graph: ir.Graph, norms: MutableMapping[ir.Node, BatchNorm]) -> None:
    """In place: where BatchNorms of one tensor are subtracted, add what is, with its sign turned.

    Only where the other side has a term of the same tensor: else nothing would be merged.
    """
    for node in list(graph):
        if not (is_a(node, "Sub") and are_alike(node)):
            continue
        adds = adds_of(graph)
        left, right = node.inputs
        assert left is not None
        assert right is not None
        maker, sum_before = right.producer(), left.producer()
        is_sum = sum_before in adds and has_one_reader(left)
        found = terms(sum_before, adds) if is_sum and sum_before is not None else [left]
        if maker is not None and maker in norms and has_one_reader(right):
            source, axis = maker.inputs[0], norms[maker].axis
            if any(term is source or _is_norm_of(term, source, axis, norms) for term in found):
                _turn_sign(maker, norms)
                node.op_type, node.version = "Add", None
            continue
        base = next((term.producer() for term in found if _is_norm_of(term, right, None, norms)), None)
        if base is not None and _write_sum(base, [], -1, norms):
            drop(right, {node}, set())
            forget([base.outputs[0], *(add.outputs[0] for add in adds if is_inner(add, adds))])


def _is_norm_of(
    term: ir.Value,
    source: ir.Value | None,
    axis: int | None,
    norms: MutableMapping[ir.Node, BatchNorm],
) -> bool:
    """Whether it is the answer of a BatchNorm of `source` that no other node reads, on any axis if None."""
    node = term.producer()
    if node is None or node not in norms or node.inputs[0] is not source or not has_one_reader(term):
        return False
    return axis is None or norms[node].axis == axis


def _turn_sign(node: ir.Node, norms: MutableMapping[ir.Node, BatchNorm]) -> None:
    gamma, beta = (constant(value) for value in node.inputs[1:3])
    assert gamma is not None
    assert beta is not None
    refusal = write(node, {1: -gamma, 2: -beta}, "turned")
    assert refusal is None, "the same numbers with another sign"
    norms[node] = replace(norms[node], scale=-norms[node].scale, shift=-norms[node].shift)
    forget([node.outputs[0]])


def _write_sum(
    base: ir.Node, others: Sequence[ir.Node], own: int, norms: MutableMapping[ir.Node, BatchNorm]
) -> bool:
    """Make `base` the sum of all, and of its input `own` times, which may be −1.

    False where its dtype cannot hold that.
    """
    terms = [norms[node] for node in (base, *others)]
    first = terms[0]
    scale = np.sum([norm.scale for norm in terms], axis=0) + own
    shift = np.sum([norm.shift for norm in terms], axis=0)
    if write(base, {1: scale, 2: shift, 3: np.zeros(scale.size), 4: np.ones(scale.size)}, "summed"):
        return False
    base.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    outputs = np.sum([norm.outputs for norm in terms], axis=0) + abs(own) * first.inputs
    norms[base] = replace(first, scale=scale, shift=shift, outputs=outputs)
    return True
