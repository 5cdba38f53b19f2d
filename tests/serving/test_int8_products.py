"""Products of uint8 and int8 are added as they are, on a CPU too whose own instructions would saturate."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.compute.runtime import load
from export.int8.cpu import saturates
from service.engine.session import CPU, EngineError, SessionPlan, open_session

EXACT = round(8 * 255 * 127 / 2000)


def eight_largest_products() -> bytes:
    """y = round(Σ 255 · 127 / 2000) over 8 channels; each pair is 64,770, which 16 bits do not hold."""
    arrays = {
        **{"one": np.float32(1), "zero": np.uint8(0), "none": np.int8(0), "y.scale": np.float32(2000)},
        "w": np.full((8, 8, 1, 1), 127, np.int8),
    }
    inputs = ["x", "one", "zero", "w", "one", "none", "y.scale", "zero"]
    tensors = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["rows", 8, 2, 2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"])],
        "products",
        tensors[:1],
        tensors[1:],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def answers(plan: SessionPlan) -> set[int]:
    rows = np.full((2, 8, 2, 2), 255, np.uint8)
    (found,) = open_session(eight_largest_products(), CPU, plan).run(None, {"x": rows})
    return set(found.ravel().tolist())


def test_the_service_adds_products_as_they_are() -> None:
    assert answers(SessionPlan()) == {EXACT}


def test_the_export_proves_with_the_same_products() -> None:
    rows = np.full((2, 8, 2, 2), 255, np.uint8)
    assert set(load(eight_largest_products(), optimised=True)({"x": rows})["y"].ravel().tolist()) == {EXACT}


@pytest.mark.skipif(not saturates(), reason="this CPU has instructions (VNNI) that add in 32 bits")
def test_without_the_option_this_cpu_saturates() -> None:
    """Negative control."""
    assert answers(SessionPlan(may_saturate=True)) != {EXACT}


def matrix_products() -> bytes:
    """y = x · w by QGemm, as ONNX Runtime's quantizer writes it; with int8 rows it takes no uint8 weights."""
    arrays = {
        **{"one": np.float32(1), "none": np.int8(0), "y.scale": np.float32(2000)},
        "w": np.full((8, 4), 127, np.int8),
    }
    names = ["x", "one", "none", "w", "one", "none", "", "y.scale", "none"]
    shapes = {"x": ["rows", 8], "y": ["rows", 4]}
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        [helper.make_node("QGemm", names, ["y"], domain="com.microsoft")],
        "products",
        tensors[:1],
        tensors[1:],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_an_op_without_such_sums_runs_as_it_can() -> None:
    rows = np.tile(np.array([1, 100] * 4, np.int8), (2, 1))
    expected = round(4 * 101 * 127 / 2000)
    (served,) = open_session(matrix_products(), CPU, SessionPlan()).run(None, {"x": rows})
    (proved,) = load(matrix_products(), optimised=True)({"x": rows}).values()
    assert set(served.ravel().tolist()) == set(proved.ravel().tolist()) == {expected}
    with pytest.raises(EngineError, match="cannot load"):
        open_session(matrix_products().replace(b"QGemm", b"QGems"), CPU, SessionPlan())
