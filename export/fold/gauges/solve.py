"""Which BatchNormalizations can go together, and with which gauges.

In: a `System` and the BatchNorms in the order of preference.  Out: those that go, the reason of each that
stays, and a `Solution`.

Every op's own equations hold for a = 1, b = 0, so they never contradict each other.  A BatchNorm that goes
adds its own; where they contradict what is settled, they are taken back, and what they contradict is the
reason to stay.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from export.fold.gauges.blame import blame
from export.fold.gauges.offsets import Offsets
from export.fold.gauges.ratios import Ratios
from export.fold.gauges.system import FIXED, Equation, Link, Price, Solution, System


class Settled:
    """The equations that hold so far."""

    def __init__(
        self, system: System, candidates: Iterable[Equation], without: frozenset[Price] = frozenset()
    ) -> None:
        """Start from the ops' equations that candidates depend on; `left_out` are those with these prices."""
        candidates = list(candidates)
        self.system = system
        wanted = relevant(system, candidates)
        self.equations = [equation for equation in wanted if equation.price not in without]
        self.left_out = [equation for equation in wanted if equation.price in without]
        self._magnitude, self._sign = Ratios(system.size), Ratios(system.size)
        rarity = np.zeros(system.size, dtype=np.int64)
        for equation in (*wanted, *candidates):
            for ids, _ in equation.offset[0] if equation.offset else ():
                np.add.at(rarity, ids, 1)
        self._offsets = Offsets(rarity)
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
        """Settle one more equation, or say why it cannot hold; then nothing changes."""
        magnitude, sign, mark = self._magnitude.copy(), self._sign.copy(), self._offsets.mark()
        wrong = {
            "magnitude": _tie(self._magnitude, equation.magnitude),
            "sign": _tie(self._sign, equation.sign),
            "offset": self._require(equation),
        }
        if not any(broken.any() for broken in wrong.values()):
            self.equations.append(equation)
            return None
        self._magnitude, self._sign = magnitude, sign
        self._offsets.rollback(mark)
        kind = next(kind for kind in ("sign", "magnitude", "offset") if wrong[kind].any())
        return blame(kind, equation, wrong[kind], self.equations)

    def solution(self) -> Solution:
        """A gauge for every id.  What is free: the geometric mean of |a| is 1, the sign +, b = 0."""
        magnitude = self._magnitude
        logs = np.log(magnitude.ratio)
        count = np.bincount(magnitude.root, minlength=self.system.size)
        mean = np.bincount(magnitude.root, logs, self.system.size) / np.maximum(count, 1)
        mean[0] = 0.0
        exponent = np.round(mean[magnitude.root] / np.log(2.0))
        a = magnitude.ratio * np.exp2(-exponent) * self._sign.ratio
        b = self._offsets.values()
        for equation in self.equations:
            if equation.offset is not None and len(equation.offset[0]) == 1:
                b[equation.offset[0][0][0][equation.offset[1] == 0]] = 0.0  # exactly, not but for rounding
        return Solution(system=self.system, a=a, b=b)

    def _require(self, equation: Equation) -> np.ndarray:
        """Settle offsets; which of them cannot hold."""
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
    """The system's equations that any candidate depends on."""
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
