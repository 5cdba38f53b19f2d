"""ONNX files as exporters write them, folded by the command line."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export_kit import run_here

Shape = Sequence[int | str] | None


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """`node("Conv", "x w", "h")`, named "Conv_h"; "" is written "-"."""
    names = [["" if name == "-" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op_type, *names, name=f"{op_type}_{names[1][0]}", **attributes)


def norm(source: str, output: str, prefix: str = "bn", **attributes: Any) -> onnx.NodeProto:
    """A BatchNormalization with the parameters of `norm_arrays`."""
    parameters = " ".join(f"{prefix}.{name}" for name in ("gamma", "beta", "mean", "var"))
    return node("BatchNormalization", f"{source} {parameters}", output, **attributes)


def norm_arrays(channels: int, seed: int = 0, prefix: str = "bn", dtype: type = np.float32) -> dict[str, Any]:
    """γ > 0, β, μ, σ², so that a Relu or a MaxPool is no obstacle."""
    random = np.random.default_rng(seed)
    arrays = {
        "gamma": random.uniform(0.5, 1.5, channels),
        "beta": random.normal(size=channels),
        "mean": random.normal(size=channels),
        "var": random.uniform(0.5, 2, channels),
    }
    return {f"{prefix}.{name}": array.astype(dtype) for name, array in arrays.items()}


def weights(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Weights that keep the size of what they multiply."""
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)


def branch(nodes: Sequence[onnx.NodeProto], output: str, **arrays: np.ndarray) -> onnx.GraphProto:
    """A branch of If: no inputs, one output, and weights of its own."""
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_graph(nodes, output, [], [value(output, None)], tensors)


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """The declaration of an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    arrays: Mapping[str, Any],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str | onnx.ValueInfoProto] = ("y",),
    *,
    opset: int = 17,
    extra_domain: str | None = None,
) -> onnx.ModelProto:
    """A model with float32 inputs and outputs; outputs have no declared shape unless they are given whole."""
    domains = [helper.make_opsetid("", opset)]
    domains += [helper.make_opsetid(extra_domain, 1)] if extra_domain else []
    return helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [value(name, shape) for name, shape in inputs.items()],
            [value(output, None) if isinstance(output, str) else output for output in outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
        ),
        opset_imports=domains,
        ir_version=8,
    )


def folded(proto: onnx.ModelProto, folder: Path, *flags: object) -> tuple[dict[str, Any], list[str]]:
    """The account of `python -m export fold`, which proved what it wrote, and the op types of OUT.onnx."""
    onnx.save(proto, folder / "in.onnx")
    done = run_here("fold", folder / "in.onnx", folder / "out.onnx", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [one.op_type for one in onnx.load(folder / "out.onnx").graph.node]


def bundle(proto: onnx.ModelProto, folder: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    """`python -m export bundle`, into models/net of the folder."""
    onnx.save(proto, folder / "in.onnx")
    return run_here("bundle", folder / "in.onnx", "--to", folder / "models/net", *flags)


def assert_all_fold(proto: onnx.ModelProto, folder: Path, ops: Sequence[str] | None = None) -> None:
    """Every BatchNorm goes; `ops` are what is left."""
    account, left = folded(proto, folder)
    assert account["folded"] + account["reduced"] == account["found"] > 0, account
    assert ops is None or left == list(ops)
