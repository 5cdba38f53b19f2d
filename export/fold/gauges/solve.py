"""Which BatchNormalizations can go together, and with which gauges.

In: a `System` and the BatchNorms in the order of preference.  Out: those that go, the reason of each that
stays, and a `Solution`.

The equations of the ops alone are satisfied by a = 1, b = 0 everywhere, so they never contradict each
other.  A BatchNorm that goes adds its own; where they contradict what is settled, they are taken back, and
what they contradict is the reason to stay.  So every prefix of the order has a solution, and one that fails
costs nothing to those before it.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from export.fold.gauges.blame import blame
from export.fold.gauges.offsets import Offsets
from export.fold.gauges.ratios import Ratios
from export.fold.gauges.system import FIXED, Equation, Link, Price, Solution, System


class Settled:
    """The equations that hold together so far: those of the ops, and of the BatchNorms that go."""

    def __init__(
        self, system: System, candidates: Iterable[Equation], without: frozenset[Price] = frozenset()
    ) -> None:
        """Start from the ops' equations that the candidates depend on.

        Args:
            candidates: the equations that may be added later.
            without: leave equations with these prices out, into `left_out`.
        """
        candidates = list(candidates)
        self.system = system
        wanted = relevant(system, candidates)
        self.equations = [equation for equation in wanted if equation.price not in without]
        self.left_out = [equation for equation in wanted if equation.price in without]
        self._magnitude, self._sign = Ratios(system.size), Ratios(system.size)
        # Elimination solves for the rarest unknown, so it must know beforehand all the equations to come.
        rarity = np.zeros(system.size, dtype=np.int64)
        for equation in (*wanted, *candidates):
            for ids, _ in equation.offset[0] if equation.offset else ():
                np.add.at(rarity, ids, 1)
        self._offsets = Offsets(rarity)
        # All links of a kind at once: the union-find is vectorised, and one call for each op would be slow.
        for ratios, links in (
            (self._magnitude, [equation.magnitude for equation in self.equations]),
            (self._sign, [equation.sign for equation in self.equations]),
        ):
            if joined := _join([link for link in links if link is not None]):
                assert not ratios.tie(joined.first, joined.second, joined.factor).any(), (
                    "a = 1 holds everywhere"
                )
        for equation in self.equations:
            assert not self._require(equation).any(), "b = 0 holds everywhere"

    def add(self, equation: Equation) -> str | None:
        """Settle one more equation; returns None, or why it cannot hold, and then nothing has changed."""
        magnitude, sign, mark = self._magnitude.copy(), self._sign.copy(), self._offsets.mark()
        # A sign is named before a magnitude, and both before an offset: the first is what a user can change.
        # Offsets take the most time: where a sign or magnitude contradicts, they are not tried.
        ways: dict[str, Callable[[], np.ndarray]] = {
            "sign": lambda: _tie(self._sign, equation.sign),
            "magnitude": lambda: _tie(self._magnitude, equation.magnitude),
            "offset": lambda: self._require(equation),
        }
        for kind, settle in ways.items():
            if (wrong := settle()).any():
                self._magnitude, self._sign = magnitude, sign
                self._offsets.rollback(mark)
                return blame(kind, equation, wrong, self.equations, self.system)
        self.equations.append(equation)
        return None

    def forced(self, equation: Equation) -> np.ndarray:
        """The offsets of the equation's unknowns that follow from it and what is settled; 0 of all others.

        Shape (ids,).  Whatever is settled later, they stay as they are.  Nothing is changed; 0 too where the
        equation cannot hold.
        """
        mark, offsets = self._offsets.mark(), np.zeros(self.system.size)
        if not self._require(equation).any():
            for unknown in np.unique(equation.ids()).tolist():
                offsets[unknown] = self._offsets.known(unknown) or 0.0
        self._offsets.rollback(mark)
        return offsets

    def solution(self) -> Solution:
        """A gauge for every id, a and b in float64 of shape (ids,).

        The equations leave each connected group of ids one free |a|, one free sign and some free b.  The
        signs are +, the free b are 0, and |a| is centred: the geometric mean over a group is about 1, so
        that no tensor of a chain of folds is stored much larger or smaller than it was.
        """
        magnitude = self._magnitude
        logs = np.log(magnitude.ratio)
        count = np.bincount(magnitude.root, minlength=self.system.size)
        mean = np.bincount(magnitude.root, logs, self.system.size) / np.maximum(count, 1)
        mean[0] = 0.0  # the group of id 0 is not free: a = 1 there
        # By a power of 2, which rounds no weight that the group's other numbers would not round.
        exponent = np.round(mean[magnitude.root] / np.log(2.0))
        a = magnitude.ratio * np.exp2(-exponent) * self._sign.ratio
        b = self._offsets.values()
        for equation in self.equations:
            if equation.offset is not None and len(equation.offset[0]) == 1:
                # b = 0 is meant exactly: a rounding error of 1e-17 would count as an offset, and cost an Add.
                b[equation.offset[0][0][0][equation.offset[1] == 0]] = 0.0
        shifts = ((value, shift_of(b)) for value, shift_of in self.system.left.items())
        left = {value: shift for value, shift in shifts if shift.any()}
        return Solution(system=self.system, a=a, b=b, left=left)

    def _require(self, equation: Equation) -> np.ndarray:
        """Settle the equation's offsets, one for each channel; returns which cannot hold, as booleans."""
        if equation.offset is None:
            return np.zeros(0, dtype=bool)
        pairs, constants = equation.offset
        columns = [(ids.tolist(), coefficients.tolist()) for ids, coefficients in pairs]
        return np.array(
            [
                not self._offsets.require(
                    [(ids[row], coefficients[row]) for ids, coefficients in columns], constant
                )
                for row, constant in enumerate(constants.tolist())
            ],
            dtype=bool,
        )


def relevant(system: System, candidates: Sequence[Equation]) -> list[Equation]:
    """The system's equations that any candidate depends on, through any chain of shared ids.

    Most of a large net has no BatchNorm that is left to gauges; solving only what matters is most of the
    speed.
    """
    pairs = [pair for equation in (*system.equations, *candidates) for pair in equation.pairs()]
    if not pairs:
        return []
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    between = (first != FIXED) & (second != FIXED)  # what is fixed connects nothing
    together = Ratios(system.size)
    together.tie(first[between], second[between], np.ones(int(between.sum())))
    wanted = np.zeros(system.size, dtype=bool)
    for equation in candidates:
        wanted[together.root[equation.ids()]] = True
    wanted[FIXED] = False
    return [equation for equation in system.equations if wanted[together.root[equation.ids()]].any()]


def _tie(ratios: Ratios, link: Link | None) -> np.ndarray:
    if link is None:
        return np.zeros(0, dtype=bool)
    return ratios.tie(link.first, link.second, link.factor)


def _join(links: list[Link]) -> Link | None:
    if not links:
        return None
    return Link(
        first=np.concatenate([link.first for link in links]),
        second=np.concatenate([link.second for link in links]),
        factor=np.concatenate([link.factor for link in links]),
    )
