"""The tools whose graph is not an ONNX file.

In: the unfolded ONNX file, or the net, and random rows.  Out: `ToolResult`.

OpenVINO's graph is counted after its common transformations and run by its CPU plugin in float32. torch.fx's
`fuse` gives a net, whose BatchNorms are counted as they run.
"""

import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.fold_zoo.count import Count, count
from benchmarks.fold_zoo.ops import OPENVINO_BIASED, openvino_ops
from benchmarks.fold_zoo.tools import Rows, ToolResult
from export.sources.watched import watch_batchnorms


def openvino(source: Path, rows: Rows) -> ToolResult:
    """OpenVINO's IR after its common transformations."""
    import openvino as ov
    from openvino import _offline_transformations

    begun = time.perf_counter()
    model = ov.convert_model(source)
    _offline_transformations.apply_moc_transformations(model, cf=False)
    seconds = time.perf_counter() - begun
    counted = count(openvino_ops(model), biased=OPENVINO_BIASED)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    answers = ov.Core().compile_model(model, "CPU", options)(list(rows.values()))
    return ToolResult(count=counted, answers=list(answers.values()), seconds=seconds)


def torch_fx(net: nn.Module, rows: Rows) -> ToolResult:
    """torch.fx's `fuse`, and the BatchNorms that still run in its net."""
    from torch.fx.experimental.optimization import fuse

    (pixels,) = [torch.from_numpy(array) for array in rows.values()]
    begun = time.perf_counter()
    fused = fuse(net.eval())
    seconds = time.perf_counter() - begun
    ran = watch_batchnorms(fused, pixels).ran
    with torch.no_grad():
        answer = fused(pixels)
    answers = [tensor.numpy() for tensor in (answer if isinstance(answer, list | tuple) else [answer])]
    return ToolResult(count=Count(batchnorms=len(ran)), answers=answers, seconds=seconds)
