"""Which offsets are settled: a sparse linear system, solved one equation at a time, with rollback.

In: equations Σ coefficient · b[i] = constant.  Out: each b as a constant plus a combination of free ones.

Gaussian elimination: an equation is reduced by what is solved already; if unknowns are left in it, it is
solved for one of them (the one that the fewest equations name, so that expressions stay short); if none is
left, it holds or it contradicts.  Earlier solutions are never rewritten when a later one becomes known,
which is what makes rollback a matter of dropping the last ones; `_reduce` substitutes in the order of
solving instead.
"""

from collections.abc import Iterable
from heapq import heappop, heappush

import numpy as np

EXACT = 1e-11

Terms = Iterable[tuple[int, float]]


class Offsets:
    """The offsets b of `rarity.size` unknowns, of which unknown 0 is the number 0.

    Args:
        rarity: how many equations name each unknown, int of shape (unknowns,).
    """

    # _solved: b[pivot] = constant + Σ coefficient · b[i], over unknowns that were free at the time, and the
    # largest number that went into the constant: one of 1e-16 may be what rounding left of a 0.
    # _when: the position of each pivot in _trail, the pivots in the order in which they were solved for.

    def __init__(self, rarity: np.ndarray) -> None:
        self._rarity = rarity
        self._solved: dict[int, tuple[float, dict[int, float], float]] = {0: (0.0, {}, 0.0)}
        self._trail: list[int] = []
        self._when: dict[int, int] = {0: -1}

    def require(self, terms: Terms, constant: float) -> bool:
        """Add Σ coefficient · b[i] = constant; False, and nothing changes, if it contradicts earlier ones."""
        free, rest, size = self._reduce(terms, -constant)
        if not free:  # 0 = rest, up to the rounding of the largest number that went into it
            return abs(rest) <= EXACT * size
        pivot = min(free, key=self._rarity.__getitem__)
        divisor = -free.pop(pivot)
        others = {i: c / divisor for i, c in free.items()}
        self._solved[pivot] = (rest / divisor, others, size / abs(divisor))
        self._when[pivot] = len(self._trail)
        self._trail.append(pivot)
        return True

    def mark(self) -> int:
        """The number of equations so far, for `rollback`."""
        return len(self._trail)

    def rollback(self, mark: int) -> None:
        """Forget every equation since `mark`."""
        for pivot in self._trail[mark:]:
            del self._solved[pivot], self._when[pivot]
        del self._trail[mark:]

    def known(self, unknown: int) -> float | None:
        """What the equations so far make of an unknown; None if they leave it free."""
        free, value, _ = self._reduce([(unknown, 1.0)], 0.0)
        return None if free else value

    def values(self) -> np.ndarray:
        """A solution, float64 of shape (unknowns,): free offsets are 0."""
        offsets = np.zeros(self._rarity.size)
        for pivot in self._trail:
            offsets[pivot] = self._reduce([(pivot, 1.0)], 0.0)[1]
        return offsets

    def _reduce(self, terms: Terms, rest: float) -> tuple[dict[int, float], float, float]:
        """Σ terms + rest in terms of free unknowns.

        Returns the coefficients of the free unknowns, the constant, and the largest number that went into the
        constant, by whatever solutions: what its rounding error is relative to.
        """
        amounts: dict[int, float] = {}
        queue: list[tuple[int, int]] = []
        size, largest = abs(rest), 0.0

        def put(unknown: int, coefficient: float) -> None:
            if unknown in self._when and unknown not in amounts:
                heappush(queue, (self._when[unknown], unknown))
            amounts[unknown] = amounts.get(unknown, 0.0) + coefficient

        for unknown, coefficient in terms:
            put(unknown, coefficient)
            largest = max(largest, abs(coefficient))
        # An expression names only unknowns solved for later than itself, or never: so in the order of
        # solving, each unknown is substituted once, when all that contributes to its coefficient is known.
        while queue:
            _, unknown = heappop(queue)
            coefficient = amounts.pop(unknown)
            known, others, known_size = self._solved[unknown]
            rest, size = rest + coefficient * known, max(size, abs(coefficient) * known_size)
            for other, c in others.items():
                put(other, coefficient * c)
                largest = max(largest, abs(coefficient * c))
        # A coefficient that cancelled but for rounding is none: dividing by it would make a huge, wrong
        # offset.
        return {i: c for i, c in amounts.items() if abs(c) > EXACT * largest}, rest, size
