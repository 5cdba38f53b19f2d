"""MatMul and Einsum of two computed tensors, as in attention: what one of them passes on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_kit import FEATURES, PLACES, SHAPE, before, features, normed, scores, softmax, turned
from gauge_kit import Net, assert_gone, assert_stays, folded

seeds = st.integers(0, 2**32 - 1)
some = settings(max_examples=2)


@some
@given(seed=seeds)
def test_attention_passes_scale_and_shift_to_its_values(seed):
    net = Net(seed)
    y = net.op("MatMul", softmax(net), features(net))
    result = assert_gone(net, SHAPE, net.op("Relu", normed(net, y)))
    assert result.fates["bn0"].status == "folded"
    assert result.ops.count("Add") == 1
    assert result.how() == "into Add 'add4', MatMul 'matmul3' before it"


@some
@given(seed=seeds)
def test_beside_a_sum(seed):
    net = Net(seed)
    y = net.op("Add", net.op("MatMul", softmax(net), features(net)), features(net))
    assert assert_gone(net, SHAPE, net.op("Relu", normed(net, y))).ops.count("Add") == 3


@some
@given(seed=seeds)
def test_and_from_before_it_to_what_follows(seed):
    net = Net(seed)
    assert_gone(net, SHAPE, before(net, softmax(net)))


@some
@given(seed=seeds)
def test_attention_from_the_right(seed):
    """BoTNet: (channels, places) · Softmaxᵀ."""
    net = Net(seed)
    y = net.op("MatMul", turned(net, features(net)), turned(net, softmax(net)))
    assert assert_gone(net, SHAPE, net.op("Relu", net.norm(y, FEATURES))).fates["bn0"].status == "folded"


@some
@given(seed=seeds)
def test_many_heads(seed):
    """Two heads of three features, each with scores of its own."""
    net = Net(seed)

    def heads(x: str) -> str:
        return net.op("Transpose", net.reshape(x, 2, PLACES, 2, 3), perm=[0, 2, 1, 3])

    keys = net.op("Transpose", heads(features(net)), perm=[0, 1, 3, 2])
    weights = net.op("Softmax", net.op("MatMul", heads(features(net)), keys), axis=-1)
    y = net.op("Transpose", net.op("MatMul", weights, heads(features(net))), perm=[0, 2, 1, 3])
    y = normed(net, net.reshape(y, 2, PLACES, FEATURES))
    assert assert_gone(net, SHAPE, net.op("Relu", y)).fates["bn0"].status == "folded"


@pytest.mark.parametrize("shape", [(PLACES, PLACES), (1, 2, PLACES, PLACES)])
def test_operands_of_other_ranks(shape):
    """Of rank 2, one for all rows, and of rank 4."""
    net = Net(0)
    if len(shape) == 2:
        weights = net.squeeze(net.reduce("ReduceMax", softmax(net), (0,)), 0)
    else:
        weights = net.reshape(softmax(net), *shape)
    weights = net.op("Softmax", weights, axis=-1)
    y = net.reshape(net.op("MatMul", weights, features(net)), 2, PLACES, FEATURES)
    assert assert_gone(net, SHAPE, net.op("Relu", normed(net, y))).fates["bn0"].status == "folded"


@some
@given(seed=seeds)
def test_einsum(seed):
    net = Net(seed)
    y = net.op("Einsum", softmax(net), features(net), equation="...ij,...jd->...di")
    assert assert_gone(net, SHAPE, net.op("Relu", net.norm(y, FEATURES))).fates["bn0"].status == "folded"


@some
@given(seed=seeds)
def test_an_adjacency_that_is_computed_passes_the_scale_and_an_add_takes_the_shift(seed):
    net = Net(seed)
    y = net.op("MatMul", scores(net, "Sigmoid"), features(net, count=FEATURES))
    result = assert_gone(net, SHAPE, net.op("Relu", normed(net, y)))
    assert result.fates["bn0"].status == "reduced"
    assert result.ops.count("Add") == 2
    net = Net(seed)
    y = net.op("MatMul", scores(net, "Sigmoid"), features(net))
    y = net.op("Add", y, net.weight(FEATURES))
    result = assert_gone(net, SHAPE, net.op("Relu", normed(net, y)))
    assert result.fates["bn0"].status == "folded"
    assert result.ops.count("Add") == 2


def test_an_adjacency_that_is_an_input_of_the_net_passes_the_scale():
    """A · (x · W) + c, as pygcn has it; here x is both."""
    net = Net(0)
    y = net.op("MatMul", "x", net.op("MatMul", "x", net.weight(PLACES, FEATURES)))
    y = net.op("Add", y, net.weight(FEATURES))
    result = assert_gone(net, (2, PLACES, PLACES), net.op("Relu", normed(net, y)))
    assert result.how() == "into Add 'add2', MatMul 'matmul0' before it"


def test_a_shift_stays_before_what_does_not_sum_up_to_1():
    net = Net(0)
    assert_stays(net, SHAPE, before(net, scores(net, "Sigmoid")), because="its shift cannot be absorbed")
    net = Net(0)
    values = normed(net, net.op("Sigmoid", features(net)), shift=False)
    y = features(net, net.op("MatMul", scores(net, "Sigmoid"), values), inputs=FEATURES, count=3)
    assert_gone(net, SHAPE, net.op("Sigmoid", y))


def test_an_axis_of_size_1_that_an_einsum_repeats_sums_up_to_more():
    net = Net(0)
    weights = net.op("Softmax", net.reduce("ReduceMax", "x", (2,)), axis=-1)
    values = normed(net, net.op("Sigmoid", features(net)))
    y = net.op("Einsum", weights, values, equation="nij,njd->nid")
    y = features(net, y, inputs=FEATURES, count=3)
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because="its shift cannot be absorbed")


def test_a_scale_along_what_is_summed_up_stays():
    """One for each place."""
    net = Net(0)
    values = net.norm(net.op("Sigmoid", features(net)), PLACES, shift=False)
    y = features(net, net.op("MatMul", softmax(net), values), inputs=FEATURES, count=3)
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because="sums up what has one scale and shift only")
    net = Net(0)
    values = net.op("Relu", net.norm(net.op("Sigmoid", features(net)), PLACES, shift=False, positive=True))
    y = features(net, net.op("MatMul", softmax(net), values), inputs=FEATURES, count=3)
    folded(net, SHAPE, net.op("Sigmoid", y))


def test_the_other_operand_stays_as_it_is():
    """A scale on the places of the scores, be it one that the product has too, or one that is summed up."""
    for turn in (False, True):
        net = Net(0)
        weights = net.norm(scores(net, "Sigmoid"), PLACES, shift=False)
        y = net.op("MatMul", turned(net, weights) if turn else weights, features(net))
        assert_stays(net, SHAPE, net.op("Sigmoid", y), because="the other operand of MatMul")


def test_neither_can_take_a_shift_where_both_are_computed():
    """A Softmax's own numbers may not be shifted, even if each of its sums would still be one."""
    net = Net(0)
    weights = net.norm(softmax(net), PLACES)
    y = features(net, net.op("MatMul", weights, features(net)), inputs=FEATURES, count=3)
    assert "declined" in folded(net, SHAPE, net.op("Sigmoid", y)).how()


@pytest.mark.parametrize("swap", [False, True])
def test_where_both_have_scales_the_one_that_a_batchnorm_needs_passes_them_on(swap):
    """A BatchNorm over the features of v, or over the places of p; p has fewer scales, so v comes first."""
    net = Net(0)
    p, v = features(net, count=3), features(net, turned(net, "x"), inputs=PLACES)
    p = net.op("MatMul", p, net.weight(3, 4))
    y = net.op("MatMul", p, v)
    y = net.norm(y, PLACES, shift=False) if swap else normed(net, y, shift=False)
    result = folded(net, SHAPE, net.op("Sigmoid", y))
    assert result.gone() == (set() if swap else {"bn0"})
    net = Net(0)
    p = net.op("MatMul", net.weight(3, PLACES), "x")
    y = net.op("MatMul", p, v := features(net, turned(net, "x"), inputs=PLACES))
    y = net.norm(y, 3, shift=False) if swap else normed(net, y, shift=False)
    assert_gone(net, SHAPE, net.op("Sigmoid", y))


def test_each_product_begins_with_the_factor_that_has_more_scales():
    """Of two in one net: what turns one turns both, so neither would do if all began alike."""
    net = Net(0)
    places = net.op("MatMul", net.weight(3, PLACES), "x")  # (2, 3, 4), a scale for each of the 3
    summed = net.op("MatMul", net.weight(4, PLACES), "x")  # (2, 4, 4), a scale for each that is summed up
    first = net.norm(net.op("MatMul", places, summed), 3, shift=False)
    mixed = net.op("MatMul", "x", net.weight(4, 4))
    second = normed(net, net.op("MatMul", mixed, features(net, summed, count=7)), 7, shift=False)
    assert_gone(net, SHAPE, net.op("Sigmoid", first), net.op("Sigmoid", second))


def test_sizes_that_nothing_tells_may_be_repeated():
    """One place of x times three: p sums up to 1 over one, and Einsum repeats it for each of three."""
    net = Net(0, 13)
    one, three = (net.constant(np.arange(PLACES) < count) for count in (1, 3))
    weights = net.op("Softmax", net.op("Compress", "x", one, axis=1), axis=1)
    values = net.op("Compress", normed(net, net.op("Sigmoid", "x"), 4), three, axis=1)
    y = features(net, net.op("Einsum", weights, values, equation="njd,njc->ndc"), count=3)
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because="its shift cannot be absorbed")


def test_a_product_of_what_has_no_scale_is_named():
    net = Net(0)
    y = normed(net, net.op("MatMul", softmax(net), net.op("Sigmoid", "x")), 4)
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because="MatMul 'matmul4' cannot absorb a scale or shift")


def test_a_tensor_times_itself():
    """The scale would come twice."""
    net = Net(0)
    z = normed(net, net.op("Sigmoid", features(net)), shift=False)
    y = net.op("MatMul", z, turned(net, z))
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because="cannot be absorbed")


@pytest.mark.parametrize(
    "equation", ["nij,nkd->nid", "nii,nid->nid", "nij,njd", "nij,njd,njd->nid", "nij,njd->ni"]
)
def test_what_is_no_contraction_of_both_is_not_understood(equation):
    net = Net(0)
    parts = [softmax(net), normed(net, net.op("Sigmoid", features(net)))]
    parts += parts[1:] * (equation.count(",") - 1)
    y = net.op("Sigmoid", net.op("Einsum", *parts, equation=equation))
    assert_stays(net, SHAPE, y, because="cannot absorb")


def test_a_product_with_a_vector_is_not_understood():
    net = Net(0)
    vector = net.squeeze(net.reduce("ReduceMax", "x", (0, 1)), 0, 1)
    y = net.op("MatMul", normed(net, net.op("Sigmoid", "x"), 4), vector)
    assert_stays(net, SHAPE, net.op("Sigmoid", y), because="MatMul 'matmul6' cannot absorb")
