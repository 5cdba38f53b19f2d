"""Which ratios between unknowns are settled: a union-find whose links carry a factor.

In: equations v[i] = factor · v[j], many at a time.  Out: each unknown as a multiple of its root,

    v[i] = ratio[i] · v[root[i]]

One such system holds |a| (a linear system in log|a|), another the sign of a (one over GF(2), as factors of
±1).  Unknown 0 is the number 1; it stays a root, because a link goes from the larger to the smaller number.
There is no rollback: a union-find cannot undo a link, so a caller that may have to takes a `copy` first.
"""

import numpy as np

EXACT = 1e-11


class Ratios:
    """`size` unknowns, of which the first is 1.  Every unknown points right at its root."""

    def __init__(self, size: int) -> None:
        self.root = np.arange(size)
        self.ratio = np.ones(size)

    def tie(self, first: np.ndarray, second: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Require v[first] = factor · v[second], three arrays of one shape (equations,).

        Returns which of the equations cannot hold, as booleans of that shape.  Where one cannot hold, the
        others do: take `copy` before, if all or none are wanted.
        """
        while True:
            one, two = self.root[first], self.root[second]
            between = factor * self.ratio[second] / self.ratio[first]  # v[one] = between · v[two]
            apart = np.flatnonzero(one != two)
            if not apart.size:
                return np.asarray(np.abs(between - 1) > EXACT)
            one, two, between = one[apart], two[apart], between[apart]
            # Several equations may want to link one root, and only one link for each can be made at a time:
            # the others are seen again in the next round, when their roots are the same or linked further.
            higher, chosen = np.unique(np.maximum(one, two), return_index=True)
            to_lower = np.where(one > two, between, 1 / between)
            self._link(higher, np.minimum(one, two)[chosen], to_lower[chosen])

    def copy(self) -> "Ratios":
        """The same state, independent of this one."""
        twin = Ratios(0)
        twin.root, twin.ratio = self.root.copy(), self.ratio.copy()
        return twin

    def _link(self, higher: np.ndarray, lower: np.ndarray, ratio: np.ndarray) -> None:
        """Link the roots `higher` to the roots `lower`, then let every unknown point at its new root."""
        above, step = np.arange(self.root.size), np.ones(self.root.size)
        above[higher], step[higher] = lower, ratio
        # A root may be linked to one that is linked itself: double the step until every chain is at its end.
        while (above[above] != above).any():
            step, above = step * step[above], above[above]
        self.ratio *= step[self.root]
        self.root = above[self.root]
