"""Nets of graphs: nodes come first, but they are no rows. One graph is one row, of sizes that are given."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from export_kit import assert_refused, run_here
from file_kit import model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle


def graph_sage() -> onnx.ModelProto:
    """x (nodes, 8) and edge_index (2, edges): each node adds up those that edges bring."""
    nodes = [
        node("Gather", "e zero", "from", axis=0),
        node("Gather", "e one", "to", axis=0),
        node("Gather", "x from", "m", axis=0),
        node("Shape", "x", "size"),
        node("ConstantOfShape", "size", "z", value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])),
        node("Unsqueeze", "to axis", "u"),
        node("Shape", "m", "wide"),
        node("Expand", "u wide", "places"),
        node("ScatterElements", "z places m", "a", axis=0, reduction="add"),
        node("Gemm", "a w", "h"),
        norm("h", "n"),
        node("Relu", "n", "y"),
    ]
    arrays = {"zero": np.array(0), "one": np.array(1), "axis": np.array([1]), "w": weights(8, 4)}
    proto = model(nodes, {**arrays, **norm_arrays(4)}, {"x": ["nodes", 8]}, [value("y", ["nodes", 4])])
    proto.graph.input.append(value("e", [2, "edges"], TensorProto.INT64))
    return proto


def bundled(folder, *flags: object):
    onnx.save(graph_sage(), folder / "in.onnx")
    return run_here("bundle", folder / "in.onnx", "--to", folder / "m", *flags)


@pytest.mark.parametrize(("edges", "served"), [("40", 40), ("8..40", "edges")])
def test_a_graph_is_one_row_where_its_number_of_nodes_is_given(tmp_path, edges, served):
    done = bundled(tmp_path, "--input-shape", "nodes=20", "--input-shape", f"edges={edges}")
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(tmp_path / "m/1").manifest
    assert [spec.shape for spec in manifest.inputs] == [[None, 20, 8], [None, 2, served]]
    assert [spec.shape for spec in manifest.outputs] == [[None, 20, 4]]
    assert manifest.max_rows == 1
    random = np.random.default_rng(0)
    rows = {"x": random.normal(size=(20, 8)).astype(np.float32), "e": random.integers(0, 20, (2, 40))}
    session = ort.InferenceSession(tmp_path / "m/1/model.onnx", providers=["CPUExecutionProvider"])
    itself = ort.InferenceSession(tmp_path / "in.onnx", providers=["CPUExecutionProvider"])
    answer = session.run(None, {name: array[None] for name, array in rows.items()})[0][0]
    np.testing.assert_allclose(answer, itself.run(None, rows)[0], atol=1e-5)


def test_edges_of_real_graphs_are_rows_too(tmp_path):
    """Whose indices are above 1, which made rows never are."""
    random = np.random.default_rng(1)
    rows = {"x": random.normal(size=(6, 20, 8)).astype(np.float32), "e": random.integers(0, 20, (6, 2, 40))}
    np.savez(tmp_path / "rows.npz", **rows)
    sizes = ("--input-shape", "nodes=20", "--input-shape", "edges=40")
    done = bundled(tmp_path, *sizes, "--rows", tmp_path / "rows.npz")
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "m/1").golden.inputs["e"].max() == 19


@pytest.mark.parametrize("flags", [(), ("--input-shape", "edges=40"), ("--input-shape", "edges=8..40")])
def test_the_refusal_leads_there(tmp_path, flags):
    assert_refused(
        bundled(tmp_path, *flags),
        "if 'nodes' counts parts of one call, as the nodes of a graph, and no rows: --input-shape nodes=",
    )


def test_no_other_size_is_taken_for_rows(tmp_path):
    done = bundled(tmp_path, "--input-shape", "nodes=20")
    assert_refused(done, "no size and no range is given for 'edges'")
