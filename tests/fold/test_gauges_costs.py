"""What a fold may cost: neutral ops go first, and a shift that other readers would have to round stays."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from export.bundle.drawing import draw_fold
from export.fold.account import account
from export.fold.gauges.system import FREE
from export.fold.stages import fold
from export.graph.prepare import prepare
from folds_kit import EXACT, fold_proto, relative_difference
from onnx_graphs import batchnorm, batchnorm_arrays, graph

W = {"w": np.random.default_rng(0).normal(size=(4, 4, 1, 1)), "v": np.ones((4, 4, 1, 1))}
ROWS = np.random.default_rng(1).normal(size=(2, 4, 3, 3))


def conv(source: str, output: str, weight: str = "w") -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [output], name=f"conv_{output}")


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("kind", "operands", "number"),
    [
        ("Add", ["n", "k"], 0.0),
        ("Add", ["k", "n"], 0.0),
        ("Sub", ["n", "k"], 0.0),
        ("Mul", ["k", "n"], 1.0),
        ("Div", ["n", "k"], 1.0),
    ],
)
def test_what_changes_nothing_does_not_stand_between_branches(kind, operands, number):
    neutral = helper.make_node(kind, operands, ["m"], name="neutral")
    total = helper.make_node("Add", ["m", "c"], ["y"], name="sum")
    proto = graph(
        [batchnorm("x", "n"), neutral, conv("x", "c"), total],
        {**W, **batchnorm_arrays(4, 0), "k": np.array(number)},
        ["rows", 4, 3, 3],
    )
    unfolded, folded, _ = fold_proto(proto)
    assert op_types(folded) == ["Conv"]
    assert relative_difference(unfolded, folded, ROWS) < EXACT


@pytest.mark.parametrize(
    ("kind", "operands", "constant"),
    [
        ("Add", ["x", "k"], np.array(1.0)),
        ("Mul", ["x", "k"], np.array(0.0)),
        ("Sub", ["k", "x"], np.array(0.0)),
        ("Div", ["k", "x"], np.array(1.0)),
        ("Add", ["x", "k"], np.zeros((1, 1, 1, 1, 1))),
    ],
)
def test_what_changes_something_stays(kind, operands, constant):
    proto = graph([helper.make_node(kind, operands, ["y"], name="op")], {"k": constant}, ["rows", 4, 3, 3])
    unfolded, folded, _ = fold_proto(proto)
    assert op_types(folded) == [kind]
    assert relative_difference(unfolded, folded, ROWS) < EXACT


HANDED_ON = {
    "dropout": ("Dropout", ["h"], {}),
    "dropout not in training": ("Dropout", ["h", "half", "no"], {}),
    "cast to the same type": ("Cast", ["h"], {"to": onnx.TensorProto.DOUBLE}),
    "transpose that keeps the order": ("Transpose", ["h"], {"perm": [0, 1, 2, 3]}),
    "pad of nothing": ("Pad", ["h", "nothing"], {}),
    "sum of one": ("Sum", ["h"], {}),
    "concat of one": ("Concat", ["h"], {"axis": 1}),
}


@pytest.mark.parametrize(("kind", "inputs", "attributes"), HANDED_ON.values(), ids=HANDED_ON)
def test_a_gamma_of_0_folds_past_what_hands_on(kind, inputs, attributes):
    """γ = 0 folds only into a linear op right before it, where other tools fold it too."""
    middle = helper.make_node(kind, inputs, ["m"], name="middle", **attributes)
    arrays = {**W, **batchnorm_arrays(4, 0), "half": np.float32(0.5), "no": np.array(False)}
    arrays |= {"bn.gamma": np.array([1.0, 0.0, 2.0, -1.0]), "nothing": np.zeros(8, dtype=np.int64)}
    proto = graph([conv("x", "h"), middle, batchnorm("m", "n")], arrays, ["rows", 4, 3, 3], ("n",))
    unfolded, folded, _ = fold_proto(proto)
    assert op_types(folded) == ["Conv"]
    assert relative_difference(unfolded, folded, ROWS) < EXACT


def test_a_dropout_stays_for_its_mask_and_in_training():
    relu, arrays = helper.make_node("Relu", ["h"], ["r"], name="relu"), {**W, **batchnorm_arrays(4, 0)}
    masked = helper.make_node("Dropout", ["h"], ["m", "mask"], name="drop")
    as_numbers = helper.make_node("Cast", ["mask"], ["z"], name="cast", to=onnx.TensorProto.DOUBLE)
    nodes = [conv("x", "h"), masked, batchnorm("m", "n"), as_numbers]
    unfolded, folded, _ = fold_proto(graph(nodes, arrays, ["rows", 4, 3, 3], ("n", "z"), opset=10))
    assert op_types(folded) == ["Conv", "Dropout", "Cast"]
    assert relative_difference(unfolded, folded, ROWS) < EXACT
    trained = helper.make_node("Dropout", ["r", "half", "yes"], ["m"], name="drop")
    arrays |= {"half": np.float32(0.5), "yes": np.array(True)}
    proto = graph([conv("x", "h"), relu, trained, batchnorm("m", "n")], arrays, ["rows", 4, 3, 3], ("n",))
    assert "Dropout" in op_types(fold_proto(proto)[1])


def read_by_another(other: list[onnx.NodeProto]) -> onnx.ModelProto:
    """One γ is 1e-4, so BN → Relu asks for an offset of about 1e4 in a tensor that another op reads."""
    arrays = {**W, **batchnorm_arrays(4, 0)}
    arrays["bn.gamma"] = np.array([1.0, 1.0, 1.0, 1e-4])
    arrays |= {
        f"other.{name}": array
        for name, array in [
            ("gamma", -np.ones(4)),
            ("beta", np.zeros(4)),
            ("mean", np.zeros(4)),
            ("var", np.ones(4)),
        ]
    }
    relu = helper.make_node("Relu", ["n"], ["r"], name="relu")
    return graph(
        [conv("x", "h"), batchnorm("h", "n"), relu, conv("r", "y"), *other],
        arrays,
        ["rows", 4, 3, 3],
        ("y", "z"),
    )


BESIDE = {
    "a Conv": [conv("h", "z", "v")],
    "a BatchNorm that stays": [
        helper.make_node(
            "BatchNormalization",
            ["h", "other.gamma", "other.beta", "other.mean", "other.var"],
            ["o"],
            name="other",
        ),
        helper.make_node("Sigmoid", ["o"], ["z"], name="sigmoid"),
    ],
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE.keys())
def test_a_shift_that_another_reader_would_round_stays(beside):
    model = prepare(ir.from_proto(read_by_another(beside)))
    _, sites = fold(model, FREE)
    site = next(site for site in sites if site.name == "bn")
    assert site.status == "declined"
    assert "it would cost accuracy" in site.reason
    _, unlimited = fold(model, FREE, math.inf)
    assert unlimited[0].status != "declined", "nothing but the cost keeps it"


def test_the_drawing_says_what_happened_to_each_op():
    nodes = [
        conv("x", "h"),
        batchnorm("h", "n"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node(
            "BatchNormalization", ["r", "bn.gamma", "bn.beta", "bn.mean", "bn.var"], ["y"], name="last"
        ),
    ]
    model = prepare(ir.from_proto(graph(nodes, {**W, **batchnorm_arrays(4, 0)}, ["rows", 4, 3, 3])))
    folded, sites = fold(model)
    before, after = draw_fold(model, folded, account(sites))
    assert [box.kind for box in before.boxes] == ["plain", "folded", "plain", "declined"]
    assert [box.kind for box in after.boxes] == ["changed", "plain", "declined"]
    assert len(before.lines) == 3
    assert [box.top for box in before.boxes] == sorted(box.top for box in before.boxes)
