"""Say of each BatchNorm that stays which flag would fold it.

In: the equations, and the plan without the flag.  Out: the flags by node, tried with the solver, not guessed.

What a flag costs in accuracy is not tried: the proof measures that when it is given.
"""

from collections.abc import Mapping

import onnx_ir as ir

from export.fold.gauges.solve import Settled
from export.fold.gauges.system import Equation, Price, System

_FLAGS = {Price.THRESHOLD: "--threshold", Price.BORDER: "--pad"}
_TRIED = (
    frozenset({Price.THRESHOLD}),
    frozenset({Price.BORDER}),
    frozenset({Price.THRESHOLD, Price.BORDER}),
)


def flags_that_fold(
    system: System,
    candidates: Mapping[ir.Node, Equation],
    staying: Mapping[ir.Node, str],
    prices: frozenset[Price],
) -> dict[ir.Node, str]:
    """The fewest flags with which each of those that stay would go, where there are any.

    Args:
        candidates: what each BatchNorm asks for if it goes.
        staying: those that stay, with the reasons.
        prices: what is paid already.
    """
    offered = {equation.price for equation in system.equations} - prices
    hints: dict[ir.Node, str] = {}
    for more in _TRIED:
        left = [node for node in staying if node in candidates and node not in hints]
        if not left or not more <= offered:
            continue
        relaxed = Settled(system, candidates.values(), without=prices | more)
        for node in candidates:
            if node not in staying:
                relaxed.add(candidates[node])
        words = " ".join(_FLAGS[price] for price in Price if price in more)
        hints |= {node: words for node in left if relaxed.add(candidates[node]) is None}
    return hints
