"""An ONNX Runtime session, opened on a device and checked against the manifest.

In: the bytes of a graph, a device, how to run it.  Out: a session that really runs where it was asked to, or
an `EngineError` in one sentence.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

# onnxruntime reads it when it is imported, and only then: there is no later moment to set it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from service.contract.exact_sums import EXACT_SUMS, lacks_exact_sums
from service.contract.manifest import Manifest
from service.contract.tensors import TensorSpec
from service.contract.text import first_line

ort.disable_telemetry_events()
_log = logging.getLogger("foldserve")

Device = Literal["auto", "cpu", "cuda"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
ORT_VERSION: str = ort.__version__

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class EngineError(Exception):
    """A bundle that cannot run here, or whose answers are not the golden ones."""


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """How ONNX Runtime runs a graph: `threads` for one batch, `lanes` batches at once, and its options.

    `has_memory_patterns`: it remembers what each shape of the inputs needs, without a bound. Where sizes are
    open, clients choose the shapes, so there it must not.
    `may_saturate`: where a CPU adds products of uint8 and int8 in 16 bits (x86 without VNNI), it may, for
    twice the speed. An int8 graph of ours is safe: it is replayed, or has weights of 7 bits.
    """

    threads: int = 1
    lanes: int = 1
    has_bindings: bool = True
    has_arena: bool = True
    has_memory_patterns: bool = True
    may_saturate: bool = False
    is_parallel: bool = False
    conv_search: Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"] = "HEURISTIC"
    has_tf32: bool = False
    has_cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if any(type(count) is not int or count < 1 for count in (self.threads, self.lanes)):
            raise ValueError(f"threads and lanes must be numbers from 1 on, got {self.threads}, {self.lanes}")


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime has a CUDA provider; whether it works shows when a session opens."""
    return CUDA in ort.get_available_providers()


def find_provider(graph: bytes, device: Device) -> str:
    """ONNX Runtime's provider for `device`; auto: CUDA if the graph opens there, else the CPU.

    Raises EngineError where CUDA was asked for and does not work.
    """
    if device == "cpu" or (device == "auto" and not has_cuda()):
        return CPU
    if not has_cuda():
        raise EngineError("device cuda was asked for, but this build of ONNX Runtime has no CUDA provider")
    try:
        ort.preload_dlls()
        open_session(graph, CUDA, SessionPlan())
    except EngineError as error:
        if device == "cuda":
            raise EngineError(f"device cuda was asked for, but {error}") from None
        _log.warning("event=cuda_unavailable fallback=cpu reason=%r", str(error))
        return CPU
    return CUDA


def has_control_flow(graph: bytes) -> bool:
    """Whether a graph holds a Loop, If or Scan: what such a run takes depends on the rows' own values.

    A node's op_type is field 4 of its protobuf message, of wire type 2: the tag 0x22, a length, the name.
    The same bytes within a weight, once in 2³² or so, would only cost the shortcut that this is asked for.
    """
    return any(b"\x22%c%b" % (len(name), name) in graph for name in (b"Loop", b"If", b"Scan"))


def open_session(graph: bytes, provider: str, plan: SessionPlan) -> Any:
    """A session on `provider`; raises EngineError rather than run on another one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = plan.threads if plan.is_parallel else 1
    options.execution_mode = (
        ort.ExecutionMode.ORT_PARALLEL if plan.is_parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    )
    options.enable_cpu_mem_arena = plan.has_arena
    options.enable_mem_pattern = plan.has_memory_patterns
    options.log_severity_level = 3
    # A thread that spins for work takes its core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Of a MatMul by integers with a scale ONNX Runtime makes MatMulNBits, which rounds the rows to 8 bits as
    # well (an error of 0.4 % of the answers' range) unless it is told to compute in float32: 1.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not plan.may_saturate:
        options.add_session_config_entry(EXACT_SUMS, "1")
    providers: list[Any] = [CPU] if provider == CPU else [(CUDA, _cuda_options(plan)), CPU]
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:
        if lacks_exact_sums(error) and not plan.may_saturate:
            return open_session(graph, provider, replace(plan, may_saturate=True))
        raise EngineError(f"ONNX Runtime cannot load model.onnx: {first_line(error)}") from None
    if (
        session.get_providers()[0] != provider
    ):  # ONNX Runtime falls back to the CPU with no more than a log line
        raise EngineError(f"ONNX Runtime could not start {provider} here")
    session.disable_fallback()
    return session


def check_tensors(session: Any, manifest: Manifest) -> None:
    """Raise EngineError unless inputs and outputs have the manifest's names, types and shapes."""
    _check("input", session.get_inputs(), manifest.inputs, manifest.max_rows)
    _check("output", session.get_outputs(), manifest.outputs, manifest.max_rows)


def _cuda_options(plan: SessionPlan) -> dict[str, str]:
    return {
        "use_tf32": str(int(plan.has_tf32)),
        "cudnn_conv_algo_search": plan.conv_search,
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": str(int(plan.has_cuda_graphs)),
    }


def _check(kind: str, found: Sequence[Any], expected: Sequence[TensorSpec], max_rows: int | None) -> None:
    by_name = {node.name: node for node in found}
    if set(by_name) != {spec.name for spec in expected}:
        raise EngineError(
            f"the graph's {kind}s are {sorted(by_name)}, the manifest says {[spec.name for spec in expected]}"
        )
    for spec in expected:
        node = by_name[spec.name]
        dtype = _DTYPES.get(node.type, node.type)
        if dtype != spec.dtype or not _fits(node.shape, spec, max_rows):
            raise EngineError(
                f"the graph's {kind} '{spec.name}' is {dtype} {node.shape}, "
                f"the manifest says {spec.dtype} {spec.shape}"
            )


def _fits(shape: Sequence[int | str | None], spec: TensorSpec, max_rows: int | None) -> bool:
    """Whether rows are open, or as many as a batch may have, and other given sizes are the manifest's."""
    if len(shape) != len(spec.shape) or (isinstance(shape[0], int) and shape[0] != max_rows):
        return False
    return all(
        not isinstance(dim, int) or dim == expected
        for dim, expected in zip(shape[1:], spec.row_shape, strict=True)
    )
