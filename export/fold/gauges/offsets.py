"""Which offsets are settled: a sparse linear system, solved as its equations come.

In: equations Σ coefficient · b[i] = constant.  Out: each b as a constant plus a combination of free ones.

Gaussian elimination: an equation is reduced by what is solved already; if an unknown is left in it, that one
is solved for (the rarest, so that expressions stay short); if none is left, it holds or it contradicts.
"""

from collections.abc import Iterable
from heapq import heappop, heappush

import numpy as np

EXACT = 1e-11

Terms = Iterable[tuple[int, float]]


class Offsets:
    """The offsets b of `rarity.size` unknowns, of which the first is 0.

    Args:
        rarity: how many equations name each unknown, int of shape (unknowns,).
    """

    def __init__(self, rarity: np.ndarray) -> None:
        self._rarity = rarity
        self._solved: dict[int, tuple[float, dict[int, float]]] = {0: (0.0, {})}
        self._trail: list[int] = []
        self._when: dict[int, int] = {0: -1}

    def require(self, terms: Terms, constant: float) -> bool:
        """Add one equation; False, and nothing changes, if it contradicts those before it."""
        free, rest, size = self._reduce(terms, -constant)
        if not free:
            return abs(rest) <= EXACT * size
        pivot = min(free, key=self._rarity.__getitem__)
        divisor = -free.pop(pivot)
        self._solved[pivot] = (rest / divisor, {i: c / divisor for i, c in free.items()})
        self._when[pivot] = len(self._trail)
        self._trail.append(pivot)
        return True

    def mark(self) -> int:
        """Where we are, for `rollback`."""
        return len(self._trail)

    def rollback(self, mark: int) -> None:
        """Forget every equation since `mark`."""
        for pivot in self._trail[mark:]:
            del self._solved[pivot], self._when[pivot]
        del self._trail[mark:]

    def values(self) -> np.ndarray:
        """A solution, float64 of shape (unknowns,): free offsets are 0."""
        offsets = np.zeros(self._rarity.size)
        for pivot in self._trail:
            offsets[pivot] = self._reduce([(pivot, 1.0)], 0.0)[1]
        return offsets

    def _reduce(self, terms: Terms, rest: float) -> tuple[dict[int, float], float, float]:
        """The terms in free unknowns, the constant, and the largest number that went into the constant."""
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
        while queue:
            _, unknown = heappop(queue)
            coefficient = amounts.pop(unknown)
            known, others = self._solved[unknown]
            part = coefficient * known
            rest, size = rest + part, max(size, abs(part))
            for other, c in others.items():
                put(other, coefficient * c)
                largest = max(largest, abs(coefficient * c))
        return {i: c for i, c in amounts.items() if abs(c) > EXACT * largest}, rest, size
