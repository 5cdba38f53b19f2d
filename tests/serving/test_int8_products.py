"""Products of uint8 and int8 are added as they are, on a CPU too whose own instructions would saturate."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.compute.runtime import load
from export.int8.cpu import saturates
from service.engine.session import CPU, SessionPlan, open_session

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
