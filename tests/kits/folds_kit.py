"""How a fold is asked for, and what is asserted of it: exactness in float64, or its reason."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from export.compute.reference import in_float64, reference
from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.prepare import prepare
from onnx_graphs import batchnorm_arrays, graph
from service.contract.account import FoldSite

EXACT = 1e-12


def fold_proto(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model, list[FoldSite]]:
    unfolded = prepare(ir.from_proto(proto))
    folded, sites = fold(unfolded)
    return unfolded, folded, sites


def relative_difference(unfolded: ir.Model, folded: ir.Model, rows: np.ndarray) -> float:
    expected = reference(unfolded).run(None, {"x": rows})
    answers = reference(folded).run(None, {"x": rows})
    scale = max(float(np.abs(array).max(initial=1e-30)) for array in expected)
    return max(float(np.abs(a - e).max(initial=0)) for a, e in zip(answers, expected, strict=True)) / scale


def assert_folds_exactly(proto: onnx.ModelProto, rows: np.ndarray, num_batchnorms: int = 1) -> ir.Model:
    before = proto.SerializeToString(deterministic=True)
    unfolded, folded, sites = fold_proto(proto)
    assert proto.SerializeToString(deterministic=True) == before, "the input is left as it was"
    assert [site.status for site in sites] == ["folded"] * num_batchnorms, sites
    assert not list(batchnorms(folded))
    assert len(list(batchnorms(unfolded))) == num_batchnorms, "a fold returns a new graph"
    assert relative_difference(unfolded, folded, rows) < EXACT
    return folded


def assert_declined(proto: onnx.ModelProto, because: str) -> None:
    unfolded, folded, (site,) = fold_proto(proto)
    assert site.status == "declined"
    assert because in site.reason
    assert len(list(batchnorms(folded))) == len(list(batchnorms(unfolded))) == 1


def conv_then(
    *nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **arrays: np.ndarray
) -> onnx.ModelProto:
    weights = {"w": np.random.default_rng(0).normal(size=(4, 4, 1, 1)), **batchnorm_arrays(4, 0), **arrays}
    conv = helper.make_node("Conv", ["x", "w"], ["h"], name="conv")
    return graph([conv, *nodes], weights, ["rows", 4, 6, 6], outputs)


def concat_net() -> onnx.ModelProto:
    """Two readers of one tensor, each BatchNorm → Relu → Conv: as in a DenseNet."""
    random = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="stem")]
    arrays = {"w": random.normal(size=(4, 3, 1, 1))}
    for index in (1, 2):
        arrays |= {
            key.replace("bn", f"bn{index}"): array for key, array in batchnorm_arrays(4, index).items()
        }
        arrays[f"w{index}"] = random.normal(size=(2, 4, 1, 1))
        inputs = ["h", *(f"bn{index}.{name}" for name in ("gamma", "beta", "mean", "var"))]
        nodes += [
            helper.make_node("BatchNormalization", inputs, [f"n{index}"], name=f"bn{index}"),
            helper.make_node("Relu", [f"n{index}"], [f"r{index}"], name=f"relu{index}"),
            helper.make_node("Conv", [f"r{index}", f"w{index}"], [f"c{index}"], name=f"conv{index}"),
        ]
    nodes.append(helper.make_node("Concat", ["c1", "c2"], ["y"], name="concat", axis=1))
    return graph(nodes, arrays, ["rows", 3, 6, 6], dtype=np.float32)


def exact(graph: ir.Model) -> ir.Model:
    """The same graph in float64, so that only a wrong fold differs; with ε as a file would hold it."""
    graph = ir.from_proto(ir.to_proto(graph))
    wide = in_float64(graph)
    for node, twin in zip(graph.graph, wide.graph, strict=True):
        for output, wide_output in zip(node.outputs, twin.outputs, strict=True):
            wide_output.shape = output.shape
    return wide
