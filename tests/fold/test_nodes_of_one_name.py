"""Nodes that share a name get names of their own when a file is read: ONNX Runtime refuses such files."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.compute.runtime import load
from export.graph.sparse import parts_of
from export_kit import run_here
from onnx_graphs import batchnorm, batchnorm_arrays, graph

SHAPE = ("rows", 4, 6, 6)
CONV = helper.make_node("Conv", ["x", "w"], ["h"], name="conv")


def weights() -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(0).normal(size=(4, 4, 3, 3)), **batchnorm_arrays(4, 0)}


def answers(path: Path) -> list[np.ndarray]:
    rows = np.random.default_rng(1).normal(size=(4, 4, 6, 6)).astype(np.float32)
    return list(load(path, optimised=False)({"x": rows}).values())


def names_found(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """Fold, compare with the twin without names, which ONNX Runtime takes; the BatchNorms' names."""
    source, target = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(proto.SerializeToString())
    done = run_here("fold", source, target)
    assert done.returncode == 0, done.stderr
    for part in parts_of(proto):
        for node in part.node:
            node.name = ""
    source.write_bytes(proto.SerializeToString())
    for expected, answer in zip(answers(source), answers(target), strict=True):
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return [site["name"] for site in json.loads(done.stdout)["sites"]]


def test_nodes_of_one_name_get_names_of_their_own(tmp_path):
    """But none that another node has already: the account tells all of them apart."""
    nodes = [CONV, batchnorm("h", "a"), helper.make_node("Sigmoid", ["a"], ["b"], name="bn_1")]
    nodes += [batchnorm("b", "c"), helper.make_node("Sigmoid", ["c"], ["d"]), batchnorm("d", "y")]
    proto = graph(nodes, weights(), SHAPE, dtype=np.float32)
    assert names_found(proto, tmp_path) == ["bn", "bn_2", "bn_3"]


def test_nodes_of_one_name_in_a_branch_get_names_of_their_own(tmp_path):
    def branch(kind: str) -> onnx.GraphProto:
        nodes = [(kind, "x", "i"), ("Neg", "i", "o")]
        ops = [helper.make_node(kind, [source], [made], name="n") for kind, source, made in nodes]
        output = helper.make_tensor_value_info("o", TensorProto.FLOAT, SHAPE)
        return helper.make_graph(ops, kind, [], [output])

    arrays, branches = weights() | {"one": np.array([1.0])}, (branch("Relu"), branch("Abs"))
    nodes = [helper.make_node("Cast", ["one"], ["yes"], to=TensorProto.BOOL)]
    nodes.append(helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]))
    proto = graph(nodes, arrays, SHAPE, dtype=np.float32)
    assert names_found(proto, tmp_path) == []
