"""The tools from ONNX to ONNX, each used as documented, without options.

In: the unfolded ONNX file and random rows.  Out: `ToolResult`: the remaining BatchNorms and the answers.

Each writes a file, which ONNX Runtime runs with its own rewrites disabled. (Tools whose graph is not an
ONNX file are in `foreign.py`.)
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from benchmarks.fold_zoo.count import Count, count
from benchmarks.fold_zoo.ops import onnx_ops
from benchmarks.fold_zoo.ours import code_version, fold_graph
from export.compute.runtime import load

Rows = Mapping[str, np.ndarray]
Rewrite = Callable[[Path, Path], float]


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """A tool's graph, counted; its answers; and the seconds that the tool took."""

    count: Count
    answers: list[np.ndarray]
    seconds: float


def onnx_tool(rewrite: Rewrite, source: Path, target: Path, rows: Rows) -> ToolResult:
    """Rewrite `source` to `target`; count and run the result."""
    seconds = rewrite(source, target)
    answers = load(target, optimised=False)(rows)
    return ToolResult(count=count(onnx_ops(target)), answers=list(answers.values()), seconds=seconds)


def onnx_runtime(level: str) -> Rewrite:
    """ONNX Runtime's optimised graph at a level: basic, extended or all."""

    def rewrite(source: Path, target: Path) -> float:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
        options.optimized_model_filepath = str(target)
        options.intra_op_num_threads = 1
        begun = time.perf_counter()
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return time.perf_counter() - begun

    return rewrite


def _of_proto(optimise: Callable[[onnx.ModelProto], Any]) -> Rewrite:
    def rewrite(source: Path, target: Path) -> float:
        model = onnx.load(source)
        begun = time.perf_counter()
        optimised = optimise(model)
        seconds = time.perf_counter() - begun
        onnx.save(optimised, target)
        return seconds

    return rewrite


def _onnxscript(model: onnx.ModelProto) -> Any:
    from onnxscript import optimizer, rewriter

    return rewriter.rewrite(optimizer.optimize(model))


def _onnxoptimizer(model: onnx.ModelProto) -> Any:
    import onnxoptimizer

    return onnxoptimizer.optimize(model)


def _onnxsim(model: onnx.ModelProto) -> Any:
    import onnxsim

    simplified, _ = onnxsim.simplify(model)
    return simplified


def _onnxslim(model: onnx.ModelProto) -> Any:
    import onnxslim

    return onnxslim.slim(model)


def ours(flags: tuple[str, ...]) -> Rewrite:
    """Our fold; the time is that of the fold alone, as for the other tools."""

    def rewrite(source: Path, target: Path) -> float:
        model = ir.load(source)
        begun = time.perf_counter()
        folded = fold_graph(model, flags)
        seconds = time.perf_counter() - begun
        ir.save(folded, target)
        return seconds

    return rewrite


ONNX_TOOLS: dict[str, Rewrite] = {
    "ORT basic": onnx_runtime("basic"),
    "ORT extended": onnx_runtime("extended"),
    "ORT all": onnx_runtime("all"),
    "onnxscript": _of_proto(_onnxscript),
    "onnxoptimizer": _of_proto(_onnxoptimizer),
    "onnxsim": _of_proto(_onnxsim),
    "OnnxSlim": _of_proto(_onnxslim),
}
"""The tools whose graph is an ONNX file."""


_PACKAGES = {"OpenVINO": "openvino", "OnnxSlim": "onnxslim", "torch.fx fuse": "torch"}


def tool_version(tool: str, flags: tuple[str, ...]) -> str:
    """The version of a tool, for a row; empty if it is not installed."""
    if tool == "ours":
        return code_version(flags)
    package = "onnxruntime" if tool.startswith("ORT") else _PACKAGES.get(tool, tool)
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
