"""Random whole graphs, at every price: the same answers, and an account that is true.

Relative to each output's range; an output near 0 counts as a thousandth of the largest.  The answers are
sums of many thousand terms whose rounding is that of both graphs: 1e-12 holds where `LARGEST_CONDITION` does.
"""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.compute.runtime import load
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import Price
from export.fold.per_channel import fold_per_channel
from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.graph.prepare import prepare
from gauge_fuzz import grow
from gauge_kit import EXACT, answers

PRICES = [frozenset(), frozenset(Price), *(frozenset({price}) for price in Price)]


def in_float32(model: ir.Model) -> ir.Model:
    """As ONNX Runtime has it; its Conv knows no float64."""
    model = model.clone()
    single = ir.TensorType(ir.DataType.FLOAT)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.DOUBLE:
            with np.errstate(over="ignore"):  # no bound is the largest number
                array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = single
    outputs = [output for node in model.graph for output in node.outputs]
    for value in (*model.graph.inputs, *outputs):
        if value.dtype == ir.DataType.DOUBLE:
            value.type = single
    return model


def apart(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    largest = max(float(np.abs(array).max(initial=0)) for array in expected)
    floor = max(1e-3 * largest, 1e-30)
    return max(
        float(np.abs(e - f).max(initial=0)) / max(float(np.abs(e).max(initial=0)), floor)
        for e, f in zip(expected, found, strict=True)
    )


def check(
    seed: int, prices: frozenset[Price], limit: float = LARGEST_CONDITION, *, runtime: bool = False
) -> int:
    """Fold a random graph, then what acts as BatchNorms, and fold it again; how many BatchNorms went."""
    net, shape, outputs = grow(seed)
    unfolded = prepare(ir.from_proto(net.model(shape, *outputs)))
    folded, sites = fold(unfolded, prices, limit)
    rows = np.random.default_rng(seed).normal(size=[2, *shape[1:]])
    expected = answers(unfolded, rows)
    assert apart(expected, answers(folded, rows)) < EXACT

    declined = [site for site in sites if site.status == "declined"]
    assert len(sites) == len(list(batchnorms(unfolded)))
    assert len(declined) == len(list(batchnorms(folded)))
    assert all(site.reason for site in declined)
    onnx.checker.check_model(ir.to_proto(folded), full_check=True)
    assert Price.THRESHOLD in prices or not {"Max", "Min"} & {node.op_type for node in folded.graph}

    plain, better, chains = fold_per_channel(unfolded, folded, sites, prices, limit)
    assert apart(expected, answers(plain, rows)) < EXACT
    assert sum(site.status == "declined" for site in better) == len(list(batchnorms(plain))) <= len(declined)
    assert len(plain.graph) <= len(folded.graph) or prices, "no op is added where none is paid"
    assert all(site.reason or site.how for site in chains)
    onnx.checker.check_model(ir.to_proto(plain), full_check=True)

    again, more = fold(folded, prices, limit)
    assert len(more) == len(declined) >= len(list(batchnorms(again)))
    assert apart(expected, answers(again, rows)) < EXACT
    if runtime:
        run = load(serialize(in_float32(plain)), optimised=True)
        run({"x": rows.astype(np.float32)})
    return len(sites) - len(declined)


@pytest.mark.parametrize(
    "prices", PRICES, ids=lambda prices: "+".join(sorted(p.name for p in prices)) or "none"
)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_graph_folds_exactly(prices, seed):
    check(seed, prices, runtime=True)


def test_most_of_what_is_sprinkled_goes():
    """So that the fuzz folds, not only declines."""
    assert sum(check(seed, frozenset(Price)) for seed in range(12)) > 40
