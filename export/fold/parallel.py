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
from export.fold.sums import adds_of, drop, is_a, is_inner, terms, trees
from export.graph.edit import constant, has_one_reader
from export.graph.moments import forget
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
    adds = adds_of(graph)
    gone: dict[ir.Node, FoldSite] = {}
    for root in trees(graph, adds):
        groups: dict[ir.Value, list[ir.Node]] = {}
        for term in terms(root, adds):
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
        forget([base.node.outputs[0], *(add.outputs[0] for add in adds if is_inner(add, adds))])
        for other, _ in covered:
            drop(other.node.outputs[0], adds, adds)
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


def _is_branch(node: ir.Node) -> bool:
    is_read_once = len(node.outputs) == 1 and has_one_reader(node.outputs[0])
    return is_read_once and is_a(node, "Conv", "BatchNormalization")


def _dtypes(node: ir.Node) -> set[np.dtype]:
    return {array.dtype for value in node.inputs if (array := constant(value)) is not None}
