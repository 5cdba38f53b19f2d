"""Two graphs for one op: x → BatchNorm → op → linear, and linear → op → BatchNorm.

No linear op stands beside the BatchNorm, so it goes only if the rule of the op between lets it pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.fold.gauges.system import FREE, Price
from gauge_kit import Net, Result, folded

C, SHAPE = 4, ("rows", 4, 6, 5)
WAYS = ("forward", "backward")
OPSETS = (7, 9, 11, 13, 18)

Passed = tuple[str, int, int]
"""The name of an output, its channels on axis 1, its rank."""
Build = Callable[[Net, str], Passed]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op on (rows, 4, 6, 5), and what it asks of a BatchNorm before it or after it.

    Args:
        kind: whose rule it is.
        build: adds the op.
        positive: it passes γ > 0 only.
        shift: whether it passes t.
        adds: the ways in which an Add takes t where it does not pass.
        first: the opset that it needs.
    """

    kind: str
    build: Build
    positive: bool = False
    shift: bool = True
    adds: Sequence[str] = ()
    first: int = 7


def cross(
    case: Case,
    way: str,
    seed: int,
    opset: int,
    *,
    positive: bool,
    shift: bool,
    prices: frozenset[Price] = FREE,
) -> Result:
    """Fold one of the two graphs; exact in any case."""
    net = Net(seed, opset)
    if way == "forward":
        passed, channels, rank = case.build(net, net.norm("x", C, positive=positive, shift=shift))
        return folded(net, SHAPE, net.linear(passed, channels, 3, rank), prices=prices)
    passed, channels, _ = case.build(net, net.conv("x", C, C))
    return folded(net, SHAPE, net.norm(passed, channels, positive=positive, shift=shift), prices=prices)


def three_tests(
    cases: Mapping[str, Case], *, examples: int, ways: Sequence[str] = WAYS
) -> tuple[Callable[..., None], ...]:
    """It goes where the algebra allows it, and stays, for that reason, where it does not."""
    both = pytest.mark.parametrize("way", ways)
    any_seed = given(seed=st.integers(0, 2**32 - 1), opset=st.sampled_from(OPSETS))

    @both
    @pytest.mark.parametrize("name", cases)
    @settings(max_examples=examples)
    @any_seed
    def test_goes(name, way, seed, opset):
        case = cases[name]
        result = cross(case, way, seed, max(opset, case.first), positive=case.positive, shift=case.shift)
        assert result.gone() == {"bn0"}, result.how()

    @both
    @pytest.mark.parametrize("name", [name for name, case in cases.items() if case.positive])
    @settings(max_examples=2)
    @any_seed
    def test_stays_with_negative_gamma(name, way, seed, opset):
        case = cases[name]
        result = cross(case, way, seed, max(opset, case.first), positive=False, shift=case.shift)
        assert "the sign of γ cannot be absorbed" in result.how()

    @both
    @pytest.mark.parametrize("name", [name for name, case in cases.items() if not case.shift])
    @settings(max_examples=2)
    @any_seed
    def test_stays_with_a_shift(name, way, seed, opset):
        case = cases[name]
        options = {"positive": case.positive, "shift": True}
        result = cross(case, way, seed, max(opset, case.first), **options, prices=frozenset())
        assert "its shift cannot be absorbed" in result.how()
        paid = cross(case, way, seed, max(opset, case.first), **options)
        assert paid.fates["bn0"].status == ("reduced" if way in case.adds else "declined")
        assert paid.ops.count("Add") == result.ops.count("Add") + (way in case.adds)

    return test_goes, test_stays_with_negative_gamma, test_stays_with_a_shift
