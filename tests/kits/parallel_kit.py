"""Branches of one tensor that are summed, and what must come of them."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from export.compute.reference import graph_evaluator
from export.fold.parallel import merge_parallel
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.graph.prepare import prepare, tidy
from onnx_graphs import batchnorm_arrays, graph
from service.contract.account import FoldSite

EXACT = 1e-12


Arrays = dict[str, np.ndarray]


def merge(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model, dict[ir.Node, FoldSite]]:
    unmerged = prepare(ir.from_proto(proto))
    merged = unmerged.clone()
    gone = merge_parallel(merged.graph)
    return unmerged, tidy(merged), gone


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def assert_same_function(unmerged: ir.Model, merged: ir.Model, rows: np.ndarray) -> None:
    onnx.checker.check_model(ir.to_proto(merged), full_check=True)
    expected = graph_evaluator(unmerged)({"x": rows})
    answers = graph_evaluator(merged)({"x": rows})
    assert list(answers) == list(expected), "the outputs keep their names"
    for name, array in expected.items():
        assert answers[name].shape == array.shape
        assert np.abs(answers[name] - array).max() < EXACT * np.abs(array).max(initial=1e-30)


def assert_merges(proto: onnx.ModelProto, rows: np.ndarray, left: dict[str, int]) -> ir.Model:
    unmerged, merged, gone = merge(proto)
    assert ops(merged) == Counter(left)
    before, after = ({node.name for node in batchnorms(model)} for model in (unmerged, merged))
    assert {node.name for node in gone} == before - after
    assert_same_function(unmerged, merged, rows)
    return merged


def assert_left(proto: onnx.ModelProto) -> None:
    model = prepare(ir.from_proto(proto))
    sizes = {
        given.name: [size if isinstance(size, int) else 7 for size in given.shape]
        for given in model.graph.inputs
    }
    graph_evaluator(model)({name: np.ones(shape) for name, shape in sizes.items()})  # it is a graph that runs
    before = serialize(model)
    assert merge_parallel(model.graph) == {}
    assert serialize(model) == before, "declined, so nothing may have changed"


def conv(
    name: str, source: str = "x", *, weight: str = "", bias: bool = True, **attributes
) -> onnx.NodeProto:
    inputs = [source, weight or f"{name}.w", *([f"{name}.b"] if bias else [])]
    return helper.make_node("Conv", inputs, [name], name=f"conv_{name}", **attributes)


def conv_arrays(name: str, shape: tuple[int, ...], seed: int) -> Arrays:
    random = np.random.default_rng([seed, *name.encode()])
    return {f"{name}.w": random.normal(size=shape), f"{name}.b": random.normal(size=shape[0])}


def add(left: str, right: str, output: str = "y") -> onnx.NodeProto:
    return helper.make_node("Add", [left, right], [output], name=f"add_{output}")


IMAGE = ["rows", 4, 7, 7]


THREE = conv("three", pads=[1] * 4)


ONE = conv("one")


ARRAYS = {
    **conv_arrays("three", (4, 4, 3, 3), 0),
    **conv_arrays("one", (4, 4, 1, 1), 0),
    **batchnorm_arrays(4, 0),
}


ROWS = np.random.default_rng(0).normal(size=(2, 4, 7, 7))


def pair(
    left: onnx.NodeProto,
    right: onnx.NodeProto,
    *more: onnx.NodeProto,
    arrays: Arrays | None = None,
    outputs: tuple[str, ...] = ("y",),
    shape: list[int | str] = IMAGE,
    **options,
) -> onnx.ModelProto:
    nodes = [left, right, add(left.output[0], right.output[0]), *more]
    return graph(nodes, {**ARRAYS, **(arrays or {})}, shape, outputs, **options)


def kernel(name: str, *spatial: int, outputs: int = 4, inputs: int = 4) -> Arrays:
    return conv_arrays(name, (outputs, inputs, *spatial), 1)
