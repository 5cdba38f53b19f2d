"""The unknown gauges of a graph's tensors, and the equations between them.

In: a prepared graph.  Out: for each tensor the numbers of its unknowns, and a list of `Equation`s.

A tensor v may be stored as v' = a · (v + b), with a ≠ 0 and b one number for each channel: its gauge.
A tensor's unknowns are an array of ids that broadcasts against it: (1, C, 1, 1) for a picture's channels,
(1, 1, C) for the features of a sequence.  Tensors whose gauges must be alike share ids.
Id 0 is the gauge a = 1, b = 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import combinations

import numpy as np
import onnx_ir as ir

from export.graph.edit import constant

FIXED = 0


class Price(Enum):
    """What an op costs more if one of its equations is left out."""

    BIAS = "an Add for its bias"
    THRESHOLD = "a Max or Min with a constant"
    BORDER = "an Add for its border"


class Choice(Enum):
    """What an op may do instead of what it does in a first walk (see `choices`)."""

    LAST_AXIS = "take scales on the axes of its weights, of which one is the output's last"
    OTHER_AXIS = "take scales on the axes of its weights, which are others"
    FACTOR = "let the other one of two computed factors pass its scale on"


FREE = frozenset({Price.BIAS})
"""What is always paid: an Add is the bias of a MatMul or Mul, and costs less than the BatchNorm did."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Link:
    """first = factor · second, for |a| or for its sign; three arrays of one shape."""

    first: np.ndarray
    second: np.ndarray
    factor: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Equation:
    """What one op requires of the gauges around it, channel by channel.

    Args:
        says: the same in words, for the reason why a BatchNorm stays.
        magnitude: a link between |a|s.
        sign: a link between signs of a.
        offset: pairs (ids, coefficients) and a constant, all of one shape: Σ coefficient · b[ids] = constant.
        price: what to pay for leaving it out; None if it cannot be left out.
        node: the op that would cost more.
        carries: whether it ties no offsets, and the second's rounding is in the first all the same.
    """

    says: str
    magnitude: Link | None = None
    sign: Link | None = None
    offset: tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray] | None = None
    price: Price | None = None
    node: ir.Node | None = None
    carries: bool = False

    def pairs(self, kind: str | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of id arrays that it ties: of one kind ("magnitude", "sign", "offset"), or of all."""
        links = [
            link for name in ("magnitude", "sign") if kind in (None, name) and (link := getattr(self, name))
        ]
        pairs = [(link.first, link.second) for link in links]
        if self.offset is not None and kind in (None, "offset"):
            columns = [ids for ids, _ in self.offset[0]]
            # b = constant ties one unknown to what is fixed: an edge to id 0, so that `blame` can find the
            # way.
            alone = [(columns[0], np.zeros_like(columns[0]))] if len(columns) == 1 else []
            pairs += [*alone, *combinations(columns, 2)]
        return pairs

    def ids(self) -> np.ndarray:
        """Every id that it names."""
        return np.concatenate([np.concatenate(pair) for pair in self.pairs()])


@dataclass(kw_only=True)
class System:
    """The ids of each tensor, and the equations between them; both grow as the rules walk through the graph.

    Args:
        size: how many ids there are, with id 0.
        own: ops that do what they may choose to do instead.
        choices: ops that can do something else, and what.
        left: tensors that lack a bias, which the constant of the Add or Sub after them is instead, and what
            they are shifted by, given the offsets by id: stored as a · (v + b + left), place by place.
    """

    size: int = 1
    own: frozenset[ir.Node] = frozenset()
    choices: dict[ir.Node, Choice] = field(default_factory=dict)
    left: dict[ir.Value, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    ids: dict[ir.Value, np.ndarray] = field(default_factory=dict)

    def of(self, value: ir.Value) -> np.ndarray:
        """A tensor's ids; those of constants, inputs and unknown ops are fixed."""
        if value not in self.ids:
            rank = 0 if value.shape is None else len(value.shape)
            self.ids[value] = np.zeros((1,) * rank, dtype=np.int64)
        return self.ids[value]

    def fresh(self, shape: tuple[int, ...]) -> np.ndarray:
        """New unknowns, ids in an array of this shape."""
        count = int(np.prod(shape))
        self.size += count
        return np.arange(self.size - count, self.size).reshape(shape)

    def equal(self, first: np.ndarray, second: np.ndarray, says: str) -> None:
        """The same a and b on both; their shapes broadcast."""
        self.same_scale(first, second, says)
        self.offset(says, (first, 1.0), (second, -1.0))

    def same_scale(self, first: np.ndarray, second: np.ndarray, says: str, *, carries: bool = False) -> None:
        """The same a on both; their shapes broadcast.  `carries` is as in `Equation`."""
        first, second = np.broadcast_arrays(first, second)
        link = Link(first=first.ravel(), second=second.ravel(), factor=np.ones(first.size))
        self.equations.append(Equation(says=says, magnitude=link, sign=link, carries=carries))

    def positive(self, ids: np.ndarray, node: ir.Node, price: Price | None = None) -> None:
        """a > 0, unless `price` is paid at the node."""
        ids = ids.ravel()
        link = Link(first=ids, second=np.zeros_like(ids), factor=np.ones(ids.size))
        says = f"{node.op_type} '{node.name}' allows no change of sign"
        self.equations.append(Equation(says=says, sign=link, price=price, node=node))

    def no_offset(
        self, ids: np.ndarray, node: ir.Node, why: str, price: Price | None = None, todo: str = ""
    ) -> None:
        """b = 0, because of `why` ("the zero padding of"), unless `price` is paid at the node.

        `todo` is what the user can do, for the end of the reason.
        """
        says = f"{why} {node.op_type} '{node.name}' allows no shift{todo}"
        self.offset(says, (ids, 1.0), price=price, node=node)

    def offset(
        self,
        says: str,
        *terms: tuple[np.ndarray, float | np.ndarray],
        equals: float | np.ndarray = 0.0,
        price: Price | None = None,
        node: ir.Node | None = None,
    ) -> None:
        """Σ coefficient · b[ids] = equals, for terms (ids, coefficient); everything broadcasts."""
        arrays = np.broadcast_arrays(equals, *(array for term in terms for array in term))
        constant_, *flat = (array.ravel() for array in arrays)
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        self.equations.append(Equation(says=says, offset=(pairs, constant_), price=price, node=node))

    def narrow(self, value: ir.Value, axis: int, node: ir.Node) -> np.ndarray | None:
        """The ids of a tensor that an op reads with one gauge for each place of an axis.

        Where the ids vary along other axes too (a Reshape makes channels out of a Gemm's features), those
        of one channel must be equal from here on, and all of them where they do not vary along this axis.
        None if the size of the axis is not known.
        """
        ids = self.of(value)
        if along(ids, axis):
            return ids
        size = ids.shape[axis % ids.ndim]
        if value.shape is not None and size not in (1, value.shape[axis % ids.ndim]):
            return None
        narrow = self.fresh(on_axis(ids.ndim, axis, size))
        says = f"{node.op_type} '{node.name}' needs one scale and shift for each channel"
        self.equal(np.broadcast_to(narrow, ids.shape), ids, says)
        self.ids[value] = narrow
        return narrow

    def fix(self, ids: np.ndarray, says: str) -> None:
        """a = 1, b = 0: the tensor is stored as the net computes it."""
        if ids.any():
            self.equal(ids, np.zeros_like(ids), says)


def wall(node: ir.Node) -> str:
    """That the op lets no gauge through; of one that quantizes what is computed, also what helps."""
    is_quantized = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    todo = " (fold the float file, and quantize what it becomes)" if is_quantized else ""
    return f"{node.op_type} '{node.name}' cannot absorb a scale or shift{todo}"


def along(ids: np.ndarray, axis: int) -> bool:
    """Whether the gauge varies along this axis alone, or not at all."""
    return all(size == 1 or index == axis % ids.ndim for index, size in enumerate(ids.shape))


def vary(ids: np.ndarray, axis: int) -> bool:
    """Whether the gauge varies along this axis."""
    return -ids.ndim <= axis < ids.ndim and ids.shape[axis] > 1


def on_axis(rank: int, axis: int, size: int) -> tuple[int, ...]:
    """The shape (1, …, size, …, 1)."""
    shape = [1] * rank
    shape[axis] = size
    return tuple(shape)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The gauge of every tensor, a and b by id, and the ops at which a price is paid.

    `left` are the shifts of `System.left`, but for those that are 0.
    """

    system: System
    a: np.ndarray
    b: np.ndarray
    paid: frozenset[ir.Node] = frozenset()
    left: Mapping[ir.Value, np.ndarray] = field(default_factory=dict)

    def is_plain(self, value: ir.Value) -> bool:
        """Whether the tensor is stored unchanged: a = 1 and b = 0 in every channel."""
        ids = self.system.of(value)
        return value not in self.left and bool((self.a[ids] == 1).all() and (self.b[ids] == 0).all())

    def along(self, value: ir.Value, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """a and b of a tensor whose gauge varies along one axis only, each of shape (size,)."""
        ids = np.broadcast_to(np.ravel(self.system.of(value)), (size,))
        assert along(self.system.of(value), axis)
        return self.a[ids], self.b[ids]


def has_constant(node: ir.Node, index: int) -> bool:
    """Whether input `index` is an initialiser."""
    return index < len(node.inputs) and constant(node.inputs[index]) is not None
