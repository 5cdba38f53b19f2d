"""Einsum of a tensor and a constant, and the MatMuls that do not make their features on the last axis.

y[…] = Σ x[…] · W[…], one letter for each axis

an axis of W            W' = W · a_y / a_x        "nchw,co->nohw" absorbs on c and o
any other axis of x     a_y = a_x                 "nctv,vw->nctw" passes on c, as graph convolutions do

It does one or the other: where x has scales on its other axes they are passed on, unless the system says that
this node is to take scales on its own (see `choices`).
Of two tensors that are both computed see `product`.
"..." stands for axes as well; of one size where both have them: what is repeated is not understood.

b_y = Σ W · b_x, or an Add or Sub of a constant after it takes the shift, place by place, or the price is an
Add after it.  Passed on without either, that is one number r for each channel only if
W ≥ 0 sums up to r everywhere, as the means over neighbours do; then b_y = r · b_x.  Of both signs, what a
large b_x leaves after cancelling is its rounding.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import add_constant, check
from export.fold.gauges.rules import product
from export.fold.gauges.rules.letters import aligned, is_contraction, of_einsum
from export.fold.gauges.rules.operand import has_bias_after
from export.fold.gauges.system import Choice, Price, Solution, System, has_constant
from export.fold.linear.weights import write
from export.graph.edit import constant

_LETTERS = "abcdefghijklmnopqrstuvwxy"
_MADE = "z"
SAME = 1e-14
"""By how much sums of the same numbers in another order may differ."""


@dataclass(frozen=True, kw_only=True)
class _Contraction:
    """The letters of x, of W and of y, and W with one axis for each of its letters."""

    index: int
    source: str
    weight: str
    out: str
    array: np.ndarray


def constrain(node: ir.Node, system: System) -> bool:
    """Unknowns for the axes that only W has, or the input's where they lie on axes that W has not."""
    found = _read(node)
    if found is None:
        return product.constrain(node, system)
    source = node.inputs[1 - found.index]
    assert source is not None
    given, sizes = system.of(source), dict(zip(found.weight, found.array.shape, strict=True))
    if node in system.own:
        given = _on_axes_of_weight(node, found, source, system)
    passing = {
        letter: size
        for letter, size in zip(found.source, given.shape, strict=True)
        if size > 1 and letter not in found.weight
    }
    if passing:  # along W's own axes the scales must then be equal
        system.choices[node] = Choice.LAST_AXIS if found.out[-1] in found.weight else Choice.OTHER_AXIS
        out = system.fresh(tuple(passing.get(letter, 1) for letter in found.out))
        passed = aligned(out, found.out, found.source)
        says = f"{node.op_type} '{node.name}' passes the scale on"
        system.same_scale(passed, given, says, carries=True)
        if (total := _total(found, given)) is not None:
            system.ids[node.outputs[0]] = out
            says = f"{node.op_type} '{node.name}' sums up the shift"
            system.offset(says, (passed, 1.0), (given, -total), price=Price.BIAS, node=node)
            return True
    else:
        out = system.fresh(tuple(sizes.get(letter, 1) for letter in found.out))
    system.ids[node.outputs[0]] = out
    if has_bias_after(node):
        system.left[node.outputs[0]] = lambda b: _summed(found, b[given])
        return True
    for ids in (out, given):
        system.no_offset(ids, node, "the missing bias of", Price.BIAS)
    return True


def _on_axes_of_weight(node: ir.Node, found: _Contraction, source: ir.Value, system: System) -> np.ndarray:
    """The ids of x, from here on the same along every axis that W has not."""
    ids = system.of(source)
    shape = [
        size if letter in found.weight else 1 for letter, size in zip(found.source, ids.shape, strict=True)
    ]
    narrow = system.fresh(tuple(shape))
    says = f"{node.op_type} '{node.name}' takes scales on the axes of its weights"
    system.equal(np.broadcast_to(narrow, ids.shape), ids, says)
    system.ids[source] = narrow
    return narrow


def _total(found: _Contraction, given: np.ndarray) -> float | None:
    """What W sums up to, in each of its sums alike; None if it does not, or has numbers below 0."""
    varying = {letter for letter, size in zip(found.source, given.shape, strict=True) if size > 1}
    if varying & set(found.weight) or (found.array < 0).any():
        return None
    summed = tuple(axis for axis, letter in enumerate(found.weight) if letter not in found.out)
    totals = np.ravel(found.array.sum(summed))
    return float(totals[0]) if np.allclose(totals, totals[0], rtol=SAME, atol=0) else None


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write scales into W; an Add takes the offset that is left."""
    found = _read(node)
    if found is None:
        product.absorb(node, solution)
        return
    source = node.inputs[1 - found.index]
    assert source is not None
    before, after = solution.system.of(source), solution.system.of(node.outputs[0])
    shift = solution.a[after] * (solution.b[after] - _summed(found, solution.b[before]))
    if node in solution.paid and shift.any():
        add_constant(solution, node, shift)
    shapes = ((found.source, before.shape), (found.out, after.shape))
    varying = {
        letter for letters, shape in shapes for letter, size in zip(letters, shape, strict=True) if size > 1
    }
    if varying <= set(found.weight):
        inside = aligned(solution.a[before], found.source, found.weight)
        outside = aligned(solution.a[after], found.out, found.weight)
        old = constant(node.inputs[found.index])
        assert old is not None
        check(write(node, {found.index: (found.array * outside / inside).reshape(old.shape)}))


def _summed(found: _Contraction, offsets: np.ndarray) -> np.ndarray:
    """Σ W · b_x, with an axis for each letter of y; `offsets` are those of x, one axis for each of its."""
    both = found.weight + "".join(letter for letter in found.source if letter not in found.weight)
    made = aligned(found.array, found.weight, both) * aligned(offsets, found.source, both)
    summed = tuple(axis for axis, letter in enumerate(both) if letter not in found.out)
    return aligned(made.sum(summed, keepdims=True), both, found.out)


def _read(node: ir.Node) -> _Contraction | None:
    if len(node.inputs) != 2 or has_constant(node, 0) == has_constant(node, 1):
        return None
    index = 1 if has_constant(node, 1) else 0
    array, source, out = constant(node.inputs[index]), node.inputs[1 - index], node.outputs[0]
    if array is None or source is None or source.shape is None or out.shape is None:
        return None
    array, rank = array.astype(np.float64), len(source.shape)
    if node.op_type == "MatMul":
        found = _of_matmul(index, array, source)
    else:
        found = _of_einsum(node, index, array, (rank, len(out.shape)))
    if found is None or len(found.source) != rank or len(found.out) != len(out.shape):
        return None
    # A letter of x alone that is summed up, or of W alone, would be no contraction of both.
    return found if is_contraction((found.source, found.weight, found.out)) else None


def _of_matmul(index: int, array: np.ndarray, source: ir.Value) -> _Contraction | None:
    """Batches of W that are one matrix for all are no axis of it."""
    assert source.shape is not None
    rank, batches = len(source.shape), array.shape[:-2]
    if array.ndim < 2 or rank < 2 or array.ndim > rank:
        return None
    letters = _LETTERS[:rank]
    contracted = letters[-1] if index == 1 else letters[-2]
    places = range(rank - array.ndim, rank - 2)
    shared = [
        (letters[place], source.shape[place], size) for place, size in zip(places, batches, strict=True)
    ]
    if any(size != 1 and found != size for _, found, size in shared):
        return None
    own = "".join(letter for letter, _, size in shared if size != 1)
    matrix = contracted + _MADE if index == 1 else _MADE + contracted
    return _Contraction(
        index=index,
        source=letters,
        weight=own + matrix,
        out=letters.replace(contracted, _MADE),
        array=array.reshape([*(size for size in batches if size != 1), *array.shape[-2:]]),
    )


def _of_einsum(node: ir.Node, index: int, array: np.ndarray, ranks: tuple[int, int]) -> _Contraction | None:
    """`ranks` are those of x and of y."""
    x, y = ranks
    terms = of_einsum(node, (x, array.ndim, y) if index == 1 else (array.ndim, x, y))
    if terms is None or len(terms[index]) != array.ndim:
        return None
    found = _Contraction(index=index, source=terms[1 - index], weight=terms[index], out=terms[2], array=array)
    return found if _is_of_one_size(node, found) else None


def _is_of_one_size(node: ir.Node, found: _Contraction) -> bool:
    """Whether no axis of "..." is broadcast, as one of size 1 is: both have one size, or one has it."""
    source = node.inputs[1 - found.index]
    if "..." not in node.attributes.get_string("equation", "") or source is None or source.shape is None:
        return True
    sizes = dict(zip(found.source, source.shape, strict=False))
    weights = dict(zip(found.weight, found.array.shape, strict=True))
    return all(sizes[letter] == size for letter, size in weights.items() if letter in sizes)
