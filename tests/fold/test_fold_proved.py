"""Where the measured parity fails, less is folded; what cannot be proved at all is raised."""

import onnx_ir as ir
import pytest

from export.errors import ParityError, ProofError
from export.fold.gauges.system import Price
from export.fold.proved import FoldOptions, fold_proved
from export.graph.prepare import prepare
from folds_kit import concat_net

EVERYTHING = FoldOptions(prices=frozenset(Price))


def failing(times: int, error: type[ProofError], seen: list[int]):
    def prove(graph: ir.Model) -> str:
        seen.append(sum(node.op_type == "BatchNormalization" for node in graph.graph))
        if len(seen) <= times:
            raise error("beyond tolerance")
        return "proved"

    return prove


def test_what_costs_most_is_taken_back_first_and_alone():
    seen: list[int] = []
    _, done, proof = fold_proved(
        prepare(ir.from_proto(concat_net())), EVERYTHING, failing(1, ParityError, seen)
    )
    assert proof == "proved"
    assert seen == [0, 1], "one of two stays"
    (kept,) = [site for site in done.sites if site.status == "declined"]
    assert "it would cost accuracy, as measured: beyond tolerance" in (kept.reason or "")


def test_at_last_nothing_is_shifted():
    seen: list[int] = []
    _, done, proof = fold_proved(
        prepare(ir.from_proto(concat_net())), EVERYTHING, failing(2, ParityError, seen)
    )
    assert proof == "proved"
    assert seen == sorted(seen), "never more is folded after a failure"
    assert (seen[0], seen[-1]) == (0, 2)
    assert all("it would cost accuracy" in (site.reason or "") for site in done.sites)


@pytest.mark.parametrize(("error", "attempts"), [(ParityError, 4), (ProofError, 1)])
def test_only_parity_is_tried_again(error, attempts):
    """All, without the worst, without the other, without any shift."""
    seen: list[int] = []
    with pytest.raises(error):
        fold_proved(prepare(ir.from_proto(concat_net())), EVERYTHING, failing(99, error, seen))
    assert len(seen) == attempts
