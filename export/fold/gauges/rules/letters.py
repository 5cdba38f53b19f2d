"""One letter for each axis of what a MatMul or an Einsum reads and makes.

MatMul of (B, N, C) and (C, D)     "abd,de->abe", so to say
Einsum "...vw,wu->...vu"           with letters for its "...", the same ones in every term
"""

from collections.abc import Sequence
from string import ascii_letters

import numpy as np
import onnx_ir as ir

Terms = tuple[str, str, str]
"""The letters of the first operand, of the second, and of the output."""


def of_einsum(node: ir.Node, ranks: Sequence[int]) -> Terms | None:
    """`ranks` are those of both operands and of the output: "..." stands for the axes that are not named."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms, arrow, out = equation.partition("->")
    first, comma, second = terms.partition(",")
    unused = [letter for letter in ascii_letters if letter not in equation]
    one, other, made = (
        _spelled(term, rank, unused) for term, rank in zip((first, second, out), ranks, strict=True)
    )
    if not arrow or not comma or not (one + other + made).isalpha():
        return None
    return one, other, made


def of_matmul(ranks: Sequence[int]) -> Terms | None:
    """Of two operands of rank 2 or more; their leading axes are lined up from the right."""
    if min(ranks[:2]) < 2:
        return None
    batches = ascii_letters[: max(ranks[:2]) - 2]
    first, second = (batches[len(batches) - (rank - 2) :] for rank in ranks[:2])
    return first + "XY", second + "YZ", batches + "XZ"


def is_contraction(terms: Terms) -> bool:
    """Whether each term names an axis once, and only what both operands have is summed up."""
    if any(len(set(term)) != len(term) for term in terms):
        return False
    one, other, out = map(set, terms)
    return one - other <= out and other - one <= out and out <= one | other


def aligned(array: np.ndarray, letters: str, wanted: str) -> np.ndarray:
    """The array with an axis for each of the `wanted` letters; it does not vary along any other."""
    kept = [axis for axis, letter in enumerate(letters) if letter in wanted]
    dropped = tuple(axis for axis in range(len(letters)) if axis not in kept)
    order = sorted(range(len(kept)), key=lambda place: wanted.index(letters[kept[place]]))
    moved = array.squeeze(dropped).transpose(order)
    present = iter(moved.shape)
    return moved.reshape([next(present) if letter in letters else 1 for letter in wanted])


def _spelled(term: str, rank: int, unused: Sequence[str]) -> str:
    """A term with letters for its "...", the same ones in every term, from the last axis on."""
    count = rank - len(term.replace("...", ""))
    return term.replace("...", "".join(unused[:count][::-1])) if count >= 0 else ""
