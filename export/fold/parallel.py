"""Merge branches that read one tensor and are summed into one convolution (RepVGG, MobileOne).

In: a prepared graph whose Conv → BatchNorm folds are done.  Out: the same function, in place, with every
mergeable set of branches as one Conv, and what became of each BatchNormalization that went.

    conv(x; W, b, p) + conv(x; V, c, q) = conv(x; W', b + c, p)
        W'[:, :, o … o + k_V − 1] = W[…] + V      o = (p − q) / dilation, whole, in each dimension
    s·x + t = conv(x; V, t, 0)
        V of kernel 1, V[i, i mod C/g] = s[i]     (Ding et al. 2021, RepVGG, section 3.3)

Where 0 ≤ o and o + k_V ≤ k_W in each dimension, the larger kernel covers the smaller one, and the sum costs
what the larger one costs alone.  So 1×7 + 7×1 is not merged.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm, read_batchnorm
from export.fold.decomposed import is_decomposed
from export.fold.linear.weights import Refusal, bias_or_zeros, own_weight, write
from export.graph.edit import constant, has_one_reader
from export.graph.moments import forget, know, moments_of
from service.contract.account import FoldSite


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A term of the sum as a Conv: weight (C_out, C_in/g, k…) and bias (C_out,) in float64.

    `pads` are (begin, end) for each dimension, or how auto_pad shares them out.  `norm` is what the node is
    if it is no Conv.
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray
    dtypes: set[np.dtype]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | str
    norm: BatchNorm | None = None


def merge_parallel(graph: ir.Graph) -> dict[ir.Node, FoldSite]:
    """Merge in place; returns each BatchNormalization that went, with how."""
    adds = {node for node in graph if _is_a(node, "Add") and _sums_alike(node)}
    gone: dict[ir.Node, FoldSite] = {}
    for root in [node for node in graph if node in adds and not _is_inner(node, adds)]:
        groups: dict[ir.Value, list[ir.Node]] = {}
        for term in _terms(root, adds):
            node = term.producer()
            if node is not None and _is_branch(node) and node.inputs[0] is not None:
                groups.setdefault(node.inputs[0], []).append(node)
        for nodes in groups.values():
            if len(nodes) > 1:
                gone |= _merge_group(nodes, adds)
    return gone


def _merge_group(nodes: list[ir.Node], adds: set[ir.Node]) -> dict[ir.Node, FoldSite]:
    """Each Conv, the largest first, takes in every branch that its kernel covers; returns what went."""
    gone: dict[ir.Node, FoldSite] = {}
    convs = [conv for node in nodes if node.op_type == "Conv" and (conv := _read_conv(node))]
    for base in sorted(convs, key=lambda conv: -conv.weight.size):
        if base.node.graph is None:
            continue  # a larger one took it in
        others = [conv for conv in convs if conv is not base]
        others += [like for node in nodes if node.op_type != "Conv" and (like := _as_conv(node, base))]
        covered = [
            (other, place)
            for other in others
            if other.node.graph is not None and (place := _place(other, base))
        ]
        # A smaller Conv that is not covered by this one is a base itself, later in the loop.
        weight, bias = base.weight.copy(), base.bias.copy()
        for other, place in covered:
            weight[place] += other.weight
            bias += other.bias
        if not covered or write(base.node, {1: weight, 2: bias}, "merged"):
            continue
        forget([base.node.outputs[0], *(add.outputs[0] for add in adds if _is_inner(add, adds))])
        for other, _ in covered:
            _drop(other.node, adds)
            if other.norm is not None:
                how = f"into the weights of Conv '{base.node.name}' beside it, as an identity"
                gone[other.node] = other.norm.folded(how)
    return gone


def _place(small: Branch, large: Branch) -> tuple[slice, ...] | None:
    """The slices of the larger weight where the smaller one is added; None if it is not covered.

    Both kernels must meet the same pixels at the same places of the output: the smaller one starts (p_large
    − p_small) / dilation taps into the larger one, which must be whole, and its padding must fit at the end
    too.
    """
    alike = [(conv.weight.shape[:2], conv.strides, conv.dtypes) for conv in (small, large)]
    if alike[0] != alike[1]:
        return None
    place = [slice(None), slice(None)]
    if isinstance(small.pads, str) or isinstance(large.pads, str):
        kinds = [(conv.pads, conv.weight.shape, conv.dilations) for conv in (small, large)]
        return tuple(place) if kinds[0] == kinds[1] else None
    for axis, dilation in enumerate(large.dilations):
        size, room = small.weight.shape[2 + axis], large.weight.shape[2 + axis]
        before, after = np.subtract(large.pads[axis], small.pads[axis])
        start, rest = divmod(int(before), dilation)
        # At the end too, or the two would make outputs of different sizes.
        if rest or not 0 <= start <= room - size or before + after != dilation * (room - size):
            return None
        if size > 1 and small.dilations[axis] != dilation:
            return None
        place.append(slice(start, start + size))
    return tuple(place)


def _read_conv(node: ir.Node) -> Branch | None:
    weight = own_weight(node, 1)
    bias = weight if isinstance(weight, Refusal) else bias_or_zeros(node, 2, weight.shape[0])
    if isinstance(weight, Refusal) or isinstance(bias, Refusal):
        return None
    ones = (1,) * (weight.ndim - 2)
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    ends = node.attributes.get_ints("pads", []) if auto_pad == "NOTSET" else []
    begin, end = np.reshape(ends or [0, 0] * len(ones), (2, -1)).tolist()
    return Branch(
        node=node,
        weight=weight,
        bias=bias,
        dtypes=_dtypes(node),
        strides=tuple(node.attributes.get_ints("strides", ones)),
        dilations=tuple(node.attributes.get_ints("dilations", ones)),
        pads=auto_pad if auto_pad.startswith("SAME") else tuple(zip(begin, end, strict=True)),
    )


def _as_conv(node: ir.Node, base: Branch) -> Branch | None:
    """A BatchNorm as a Conv with kernel 1, in as many groups as the base has: they read the same channels."""
    norm = read_batchnorm(node)
    if isinstance(norm, FoldSite) or norm.axis != 1 or base.weight.shape[0] != norm.scale.size:
        return None
    ones = (1,) * (base.weight.ndim - 2)
    channels, per_group = base.weight.shape[:2]
    weight = np.zeros((channels, per_group, *ones))
    weight[range(channels), np.arange(channels) % per_group] = norm.scale.reshape(-1, *ones)
    # A chain's numbers are float64 for the fold's sake; what it computes with are the tensor's.
    dtypes = base.dtypes if is_decomposed(node) else _dtypes(node)
    as_conv = replace(base, node=node, weight=weight, bias=norm.shift, norm=norm, dtypes=dtypes)
    return replace(as_conv, strides=ones, dilations=ones, pads=tuple((0, 0) for _ in ones))


def _is_a(node: ir.Node, *op_types: str) -> bool:
    return node.op_type in op_types and node.domain in ("", "ai.onnx")


def _is_branch(node: ir.Node) -> bool:
    is_read_once = len(node.outputs) == 1 and has_one_reader(node.outputs[0])
    return is_read_once and _is_a(node, "Conv", "BatchNormalization")


def _dtypes(node: ir.Node) -> set[np.dtype]:
    return {array.dtype for value in node.inputs if (array := constant(value)) is not None}


def _sums_alike(add: ir.Node) -> bool:
    """Two computed tensors of one known shape, whose rows may be symbolic; nothing is broadcast."""
    shapes = [value.shape for value in add.inputs if value and value.shape and constant(value) is None]
    if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]):
        return False
    rows, *sizes = zip(*shapes, strict=True)
    is_one_kind = isinstance(rows[0], int) == isinstance(rows[1], int)
    known = [rows, *sizes] if isinstance(rows[0], int) else sizes
    return is_one_kind and all(isinstance(left, int) and left == right for left, right in known)


def _is_inner(add: ir.Node, adds: set[ir.Node]) -> bool:
    return has_one_reader(add.outputs[0]) and add.outputs[0].consumers()[0] in adds


def _terms(root: ir.Node, adds: set[ir.Node]) -> list[ir.Value]:
    """The terms that a tree of Adds sums up, from left to right.

    An Add whose sum another node reads too is itself a term: that sum must exist.
    """
    terms, pending = [], [*reversed(root.inputs)]
    while pending:
        value = pending.pop()
        assert value is not None
        add = value.producer()
        if add in adds and has_one_reader(value):
            pending += reversed(add.inputs)
        else:
            terms.append(value)
    return terms


def _drop(node: ir.Node, adds: set[ir.Node]) -> None:
    """Take a term out of its sum: the Add goes too, and its other operand takes its place.

    Of the last Add of a tree it also takes the name, which may be that of the graph's output.
    """
    ((add, index),) = node.outputs[0].uses()
    total, other = add.outputs[0], add.inputs[1 - index]
    assert node.graph is not None
    assert other is not None
    if not _is_inner(add, adds):
        other.name, other.shape = total.name, total.shape or other.shape
        know(other, moments_of(total))
    ir.convenience.replace_all_uses_with(total, other, replace_graph_outputs=True)
    node.graph.remove([add, node], safe=True)
