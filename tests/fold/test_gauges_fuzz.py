"""Random whole graphs, at every price: the same answers, and an account that is true (see `fold_fuzz`)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.fold.gauges.system import Price
from fold_fuzz import PRICES, check


@pytest.mark.parametrize(
    "prices", PRICES, ids=lambda prices: "+".join(sorted(p.name for p in prices)) or "none"
)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_graph_folds_exactly(prices, seed):
    check(seed, prices, runtime=True)


def test_most_of_what_is_sprinkled_goes():
    """So that the fuzz folds, not only declines."""
    assert sum(check(seed, frozenset(Price)) for seed in range(12)) > 40


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), prices=st.sampled_from(PRICES))
def test_statistics_of_trained_nets_and_decomposed_batchnorms(seed, prices):
    """Tiny γ, γ = 0, σ² = 0 and huge means; and never fewer than ONNX Runtime itself folds."""
    check(seed, prices, trained=True)
