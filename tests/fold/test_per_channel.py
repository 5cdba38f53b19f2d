"""What acts as a BatchNorm but is written as Mul, Add, Sub and Div folds like one, or stays as written."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.fold.gauges.system import Price
from export.fold.proved import FoldOptions, fold_once
from export.graph.prepare import prepare
from export.sources.trace import trace
from file_kit import model, node, norm, norm_arrays, weights
from folds_kit import EXACT, exact, relative_difference
from service.contract.account import FoldAccount

C = 4
X = {"x": ["N", 3, 8, 8]}
OPTIONS = FoldOptions()
LAYOUTS = {
    "NCHW": ([node("Conv", "x w", "h")], weights(C, 3, 3, 3), (1, C, 1, 1)),
    "NCHW, without a leading 1": ([node("Conv", "x w", "h")], weights(C, 3, 3, 3), (C, 1, 1)),
    "NHWC, transposed": (
        [node("Conv", "x w", "h0"), node("Transpose", "h0", "h", perm=[0, 2, 3, 1])],
        weights(C, 3, 3, 3),
        (C,),
    ),
    "NHWC, a MatMul": (
        [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("MatMul", "t w", "h")],
        weights(3, C),
        (1, 1, C),
    ),
}


def fold(proto: onnx.ModelProto, **options: object) -> tuple[ir.Model, ir.Model, FoldAccount]:
    """In float64, so that only a wrong fold differs."""
    unfolded = exact(prepare(ir.from_proto(proto)))
    before = ir.to_proto(unfolded).SerializeToString(deterministic=True)
    folded, account = fold_once(unfolded, FoldOptions(**options))
    assert ir.to_proto(unfolded).SerializeToString(deterministic=True) == before, (
        "the input is left as it was"
    )
    onnx.checker.check_model(ir.to_proto(folded), full_check=True)
    return unfolded, folded, account


def ops(graph: ir.Model) -> list[str]:
    return [one.op_type for one in graph.graph]


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape or (2, 3, 8, 8))


@st.composite
def chained(draw: st.DrawFn) -> onnx.ModelProto:
    """Conv or MatMul → 1 to 5 ops by constants, on either side, one number or one for each channel → Relu."""
    nodes, weight, shape = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes, arrays, source = list(nodes), {"w": weight}, "h"
    kinds = draw(st.lists(st.sampled_from(["Mul", "Add", "Sub", "Div", "from"]), min_size=1, max_size=4))
    for index, kind in enumerate(["Mul", *kinds]):
        is_scalar = index > 0 and draw(st.booleans())
        number = random.uniform(0.5, 2, () if is_scalar else shape) * random.choice([-1, 1])
        arrays[f"k{index}"] = number.astype(np.float32)
        operands = [source, f"k{index}"]
        if kind == "from" or (kind in ("Mul", "Add") and draw(st.booleans())):
            operands.reverse()
        op_type, source = "Sub" if kind == "from" else kind, f"c{index}"
        nodes.append(node(op_type, " ".join(operands), source))
    return model([*nodes, node("Relu", source, "y")], arrays, X)


@settings(max_examples=40)
@given(proto=chained())
def test_any_chain_after_a_linear_op_goes(proto):
    unfolded, folded, account = fold(proto)
    assert account.found == 0
    assert [site.status for site in account.per_channel] != ["declined"]
    assert relative_difference(unfolded, folded, rows()) < EXACT
    left = [op for op in ops(folded) if op in ("Mul", "Div", "Sub", "Add", "BatchNormalization")]
    assert left in ([], ["Add"]), "the Add is the bias that a MatMul has not"


def test_a_weight_that_is_nudged_is_found():
    """The bound of the test above is one that a wrong fold does not meet."""
    nodes, weight, shape = LAYOUTS["NHWC, transposed"]
    proto = model(
        [*nodes, node("Mul", "h g", "m"), node("Relu", "m", "y")],
        {"w": weight, "g": weights(*shape)},
        X,
    )
    unfolded, folded, _ = fold(proto)
    conv = next(one for one in folded.graph if one.op_type == "Conv")
    array = conv.inputs[1].const_value.numpy().copy()
    array[1] *= 1 + 1e-9
    conv.inputs[1].const_value = ir.tensor(array)
    assert relative_difference(unfolded, folded, rows()) > EXACT


def test_the_spelled_out_batchnorm():
    """(x − μ) / √(σ² + ε) · γ + β, with its root computed in the file."""
    nodes = [
        node("Conv", "x w", "h"),
        *(node("Sub", "h mean", "s"), node("Add", "var eps", "v"), node("Sqrt", "v", "sd")),
        *(node("Div", "s sd", "d"), node("Mul", "d gamma", "m"), node("Add", "m beta", "a")),
        node("Relu", "a", "y"),
    ]
    arrays = {name.removeprefix("bn."): array.reshape(C, 1, 1) for name, array in norm_arrays(C).items()}
    unfolded, folded, account = fold(
        model(nodes, {"w": weights(C, 3, 3, 3), "eps": np.float32(1e-3), **arrays}, X)
    )
    assert ops(folded) == ["Conv", "Relu"]
    assert relative_difference(unfolded, folded, rows()) < EXACT
    (site,) = account.per_channel
    assert (site.name, site.status, site.channels) == ("Sub_s", "folded", C)
    assert site.smallest_variance is None, "which is not known of it"


def test_torchs_frozen_batchnorm():
    class Frozen(nn.Module):
        """As detection nets have it: buffers, and no batch_norm is called."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, C, 3)
            for name, array in norm_arrays(C).items():
                self.register_buffer(name.removeprefix("bn."), torch.tensor(array))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shape = (1, -1, 1, 1)
            scale = self.gamma.reshape(shape) * (self.var.reshape(shape) + 1e-5).rsqrt()
            return torch.relu(
                self.conv(x) * scale + self.beta.reshape(shape) - self.mean.reshape(shape) * scale
            )

    graph = prepare(trace(Frozen().eval(), (3, 8, 8)))
    folded, account = fold_once(graph, OPTIONS)
    assert ops(folded) == ["Conv", "Relu"], account
    assert [site.status for site in account.per_channel] == ["folded"]


@pytest.mark.parametrize("ops_", [("Sub", "Div"), ("Add", "Mul"), ("Sub", "Mul")])
def test_pixels_that_the_net_normalises_with_channels_last(ops_):
    """Keras' Normalization and Rescaling, before the Transpose that tf2onnx puts in front of a Conv."""
    first, second = ops_
    nodes = [node(first, "x mean", "s"), node(second, "s scale", "n")]
    nodes += [node("Transpose", "n", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "y")]
    arrays = {"mean": weights(3), "scale": np.abs(weights(3, seed=1)) + 0.5, "w": weights(C, 3, 3, 3)}
    unfolded, folded, account = fold(model(nodes, arrays, {"x": ["N", 8, 8, 3]}))
    assert ops(folded) == ["Transpose", "Conv"]
    assert account.per_channel_folded == 1
    assert relative_difference(unfolded, folded, rows(2, 8, 8, 3)) < EXACT


STAYS = {
    "between two sigmoids": [node("Sigmoid", "x", "q"), node("Mul", "q g", "m"), node("Add", "m b", "a")],
    "before a padded Conv": [
        node("Mul", "x g", "m"),
        node("Add", "m b", "a0"),
        node("Conv", "a0 w", "a", pads=[1] * 4),
    ],
}


@pytest.mark.parametrize("where", STAYS)
def test_what_cannot_go_is_written_as_it_was(where):
    arrays = {"g": weights(1, 3, 1, 1), "b": weights(3, 1, 1), "w": weights(C, 3, 3, 3)}
    unfolded, folded, account = fold(model([*STAYS[where], node("Sigmoid", "a", "y")], arrays, X))
    (site,) = account.per_channel
    assert site.status == "declined"
    assert site.reason
    before, after = (list(ir.to_proto(graph).graph.node) for graph in (unfolded, folded))
    assert [one.SerializeToString() for one in before] == [one.SerializeToString() for one in after]


def test_what_is_no_batchnorm_is_left_alone():
    """A LayerNorm's γ and β, positions, a bias of a MatMul, one number for all, a tensor that grows."""
    nodes = [
        *(
            node("MatMul", "x w", "h"),
            node("Add", "h bias", "hb"),
            node("Tanh", "hb", "th"),
            node("Mul", "th two", "t"),
        ),
        *(
            node("ReduceMean", "t", "mean", axes=[-1]),
            node("Sub", "t mean", "d"),
            node("Mul", "d gamma", "n"),
        ),
        *(node("Add", "n beta", "nb"), node("Add", "nb places", "p"), node("Sigmoid", "p", "y")),
    ]
    arrays = {"w": weights(8, 5), "two": np.float32(2), "places": weights(1, 3, 8, 5)}
    arrays |= {name: weights(5) for name in ("bias", "gamma", "beta")}
    _, folded, account = fold(model(nodes, arrays, X))
    assert account.per_channel == []
    assert ops(folded) == [one.op_type for one in nodes]
    growing = [node("Sigmoid", "x", "h"), node("Mul", "h g", "y")]
    assert fold(model(growing, {"g": weights(1, 5, 1, 1)}, {"x": ["N", 1, 8, 8]}))[2].per_channel == []


def test_a_batchnorm_never_stays_for_a_chains_sake():
    """Both read the same tensor, which can carry one shift: the BatchNorm's."""
    nodes = [
        *(
            node("Conv", "x w", "h"),
            node("Mul", "h g", "m"),
            node("Add", "m b", "a"),
            node("Relu", "a", "r1"),
        ),
        *(norm("h", "n"), node("Relu", "n", "r2"), node("Conv", "r1 v", "y1"), node("Conv", "r2 v", "y2")),
    ]
    arrays = {"w": weights(C, 3, 3, 3), "v": weights(C, C, 1, 1), **norm_arrays(C)}
    arrays |= {"g": np.abs(weights(C, 1, 1)), "b": weights(C, 1, 1)}
    proto = model(nodes, arrays, X, ("y1", "y2"))
    unfolded, folded, account = fold(proto)
    assert (account.found, account.folded) == (1, 1)
    assert [site.status for site in account.per_channel] == ["declined"]
    assert relative_difference(unfolded, folded, rows()) < EXACT
    paid = FoldOptions(prices=frozenset(Price))
    assert fold_once(prepare(ir.from_proto(proto)), paid)[1].per_channel_folded == 1


def test_an_identity_branch_is_merged():
    """RepVGG with a frozen identity: conv(x) + (γ·x + β) is one Conv."""
    nodes = [
        *(node("Sigmoid", "x", "q"), node("Conv", "q w", "h", pads=[1] * 4)),
        *(
            node("Mul", "q g", "m"),
            node("Add", "m b", "a"),
            node("Add", "h a", "s"),
            node("Sigmoid", "s", "y"),
        ),
    ]
    arrays = {"w": weights(3, 3, 3, 3), "g": weights(1, 3, 1, 1), "b": weights(1, 3, 1, 1)}
    unfolded, folded, account = fold(model(nodes, arrays, X))
    assert ops(folded) == ["Sigmoid", "Conv", "Sigmoid"]
    assert "beside it" in account.per_channel[0].how
    assert relative_difference(unfolded, folded, rows()) < EXACT


def test_chains_right_after_each_other_on_two_axes():
    """One along the width, one along the channels: the second reads what the first is replaced by."""
    nodes = [
        node("Conv", "x w", "h"),
        node("Mul", "h k", "m"),
        node("Mul", "m g", "a"),
        node("Sigmoid", "a", "y"),
    ]
    arrays = {"w": weights(C, 3, 1, 1), "g": weights(C, 1, 1), "k": weights(8)}
    unfolded, folded, account = fold(model(nodes, arrays, X))
    assert [site.name for site in account.per_channel] == ["Mul_m", "Mul_a"]
    assert relative_difference(unfolded, folded, rows()) < EXACT


@pytest.mark.parametrize("is_shape_of", ["h", "p", "q"])
def test_an_expand_to_the_shape_that_is_there_is_no_obstacle(is_shape_of):
    """γ and β expanded to the shape of what they meet, or of another tensor, as large or larger."""
    arrays = {"w": weights(C, 3, 3, 3), "g": weights(1, C, 1, 1) + 1, "b": weights(1, C, 1, 1, seed=1)}
    nodes = [node("Conv", "x w", "h"), node("Relu", "h", "p"), node("Concat", "h h", "q", axis=0)]
    nodes = [nodes[0], *(one for one in nodes[1:] if one.output[0] == is_shape_of)]
    nodes += [node("Shape", is_shape_of, "s"), node("Expand", "g s", "ge"), node("Mul", "h ge", "m")]
    nodes += [node("Expand", "b s", "be"), node("Add", "m be", "a"), node("Relu", "a", "y")]
    unfolded, folded, account = fold(model(nodes, arrays, X))
    rows = np.random.default_rng(0).normal(size=(1, 3, 8, 8))
    assert relative_difference(unfolded, folded, rows) < EXACT
    is_larger = is_shape_of == "q"
    assert ("Expand" in ops(folded)) == is_larger
    assert account.per_channel_folded == (not is_larger)
