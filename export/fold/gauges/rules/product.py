"""MatMul and Einsum of two computed tensors: one of them passes its scales on, the other stays as it is.

    y[…] = Σ p[…] · v[…], one letter for each axis          P · V: attention, graph convolutions

v carries     a_v is the same along every axis that is summed up        a_y = a_v        a_p = 1, b_p = 0
    p is a Softmax along the one axis that is summed up: Σ p = 1        b_y = b_v
    any other p                                                         b_v = 0, b_y = 0, or an Add

The carrier is the one that has more scales on the axes of the output; where both have some, `choices` tries
the other as well.  (Both could carry, but a_y = a_p · a_v is no equation between two unknowns.)
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import add_constant
from export.fold.gauges.rules.layout import agreeing
from export.fold.gauges.rules.letters import Terms, aligned, is_contraction, of_einsum, of_matmul
from export.fold.gauges.system import Choice, Price, Solution, System, has_constant
from export.graph.edit import onnx_op
from export.graph.sizes import sizes_of

FIRST_SOFTMAX_OF_ONE_AXIS = 13


def constrain(node: ir.Node, system: System) -> bool:
    """The carrier's unknowns on the axes that the output has, and 1 along all others."""
    terms = _read(node)
    if terms is None:
        return False
    carrier = _carrier(node, terms, system)
    source, other = node.inputs[carrier], node.inputs[1 - carrier]
    assert source is not None
    assert other is not None
    given, out_term, source_term = system.of(source), terms[2], terms[carrier]
    if not given.any():
        return False
    system.fix(
        system.of(other), f"the other operand of {node.op_type} '{node.name}' cannot absorb a scale or shift"
    )
    kept = _kept(given, source_term, out_term)
    system.equal(given, kept, f"{node.op_type} '{node.name}' sums up what has one scale and shift only")
    sizes = dict(zip(source_term, kept.shape, strict=True))
    out = system.fresh(tuple(sizes.get(letter, 1) for letter in out_term))
    passed = aligned(out, out_term, source_term)
    system.same_scale(passed, kept, f"{node.op_type} '{node.name}' passes the scale on", carries=True)
    summed = [letter for letter in terms[1 - carrier] if letter not in out_term]
    if len(summed) == 1 and _sums_to_one(node, terms, 1 - carrier, summed[0]):
        system.offset(f"{node.op_type} '{node.name}' passes the shift on", (passed, 1.0), (kept, -1.0))
    else:
        system.no_offset(given, node, "the other operand of")
        system.no_offset(out, node, "the other operand of", Price.BIAS)
    system.ids[node.outputs[0]] = out
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """An Add takes the shift of the output, where that is paid."""
    output = node.outputs[0]
    ids = solution.system.of(output)
    shift = solution.a[ids] * solution.b[ids]
    if node in solution.paid:
        dtype = np.dtype(np.float32) if output.dtype is None else output.dtype.numpy()
        add_constant(solution, node, shift.astype(dtype))


def _read(node: ir.Node) -> Terms | None:
    """The letters of two computed operands and the output."""
    values = (*node.inputs, node.outputs[0])
    if has_constant(node, 0) or has_constant(node, 1):
        return None
    ranks = [len(value.shape) for value in values if value is not None and value.shape is not None]
    if len(ranks) != 3:
        return None
    terms = of_matmul(ranks) if node.op_type == "MatMul" else of_einsum(node, ranks)
    if terms is None or [len(term) for term in terms] != ranks or not is_contraction(terms):
        return None
    return terms


def _carrier(node: ir.Node, terms: Terms, system: System) -> int:
    """The place of the operand that passes its scales on."""
    first, second = (system.of(value) for value in node.inputs if value is not None)
    if not first.any() or not second.any():
        return 0 if first.any() else 1
    system.choices[node] = Choice.FACTOR
    is_second = _kept(second, terms[1], terms[2]).size >= _kept(first, terms[0], terms[2]).size
    return int(is_second != (node in system.own))


def _kept(ids: np.ndarray, term: str, out: str) -> np.ndarray:
    """The ids of one place along each axis that is summed up."""
    for axis, letter in enumerate(term):
        ids = ids if letter in out else ids.take([0], axis)
    return ids


def _sums_to_one(node: ir.Node, terms: Terms, index: int, letter: str) -> bool:
    """Whether what an operand gives to each sum along the axis of a letter is 1 in all."""
    values = node.inputs[:2]
    sizes = [sizes_of(value)[term.index(letter)] for value, term in zip(values, terms, strict=False) if value]
    # Einsum repeats an axis of size 1.
    if sizes[0] != sizes[1] or sizes[0] is None:
        return False
    return _is_softmax(values[index], terms[index].index(letter))


def _is_softmax(value: ir.Value | None, axis: int) -> bool:
    """Whether the numbers along an axis are those of a Softmax along it, perhaps moved to other places."""
    node = value.producer() if value is not None else None
    source = node.inputs[0] if node is not None else None
    if node is None or value is None or value.shape is None or source is None or source.shape is None:
        return False
    kind, rank = onnx_op(node), len(value.shape)
    if kind == "Softmax":
        is_of_one = isinstance(node.graph, ir.Graph) and (
            node.graph.opset_imports.get("", 0) >= FIRST_SOFTMAX_OF_ONE_AXIS
        )
        found = node.attributes.get_int("axis", -1 if is_of_one else 1) % rank
        return found == axis and (is_of_one or axis == rank - 1)
    if kind == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
        return _is_softmax(source, order[axis])
    if kind in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        before, after = sizes_of(source), sizes_of(value)
        if axis < agreeing(before, after):
            return _is_softmax(source, axis)
        from_end = rank - axis
        return from_end <= agreeing(before[::-1], after[::-1]) and _is_softmax(source, len(before) - from_end)
    return False
