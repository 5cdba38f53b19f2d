"""A graph, loaded on a device and proved there: rows in, answers out.

In: an opened bundle, a device, the batch buckets.  Out: an `Engine`, or an `EngineError` in one sentence.

    run:    rows of several jobs → one buffer, zeros up to the smallest bucket that holds them → answers
    prove:  max |answer − golden| ≤ tolerance, one by one, all together, and in every bucket

The proof runs every bucket on the device, so it warms them too. Padded rows never leave this file.
"""

import logging
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort

from service.bundle import Bundle
from service.errors import ModelFailed
from service.manifest import TensorSpec
from service.parity import BUCKETS, Parity, measure

ort.disable_telemetry_events()
_log = logging.getLogger("foldserve")

Device = Literal["auto", "cpu", "cuda"]
Tensors = Mapping[str, np.ndarray]

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

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
class EngineConfig:
    """Where and how to run: `threads` is ONNX Runtime's intra-op count, `buckets` the allowed batch sizes."""

    device: Device = "auto"
    threads: int = 1
    buckets: tuple[int, ...] = BUCKETS

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if not self.buckets or min(self.buckets) < 1 or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets must be rising numbers ≥ 1, got {list(self.buckets)}")


class Engine:
    """A loaded, proved session. `run` is for one thread at a time: its buffers are reused."""

    def __init__(self, session: Any, bundle: Bundle, config: EngineConfig) -> None:
        self.provider: str = session.get_providers()[0]
        self.buckets = config.buckets
        self.largest = config.buckets[-1]
        self.parity: Parity | None = None
        self._session = session
        self._inputs = bundle.manifest.inputs
        self._outputs = [spec.name for spec in bundle.manifest.outputs]
        self._buffers = {
            spec.name: np.zeros((self.largest, *spec.row_shape), spec.dtype) for spec in self._inputs
        }

    def bucket(self, num_rows: int) -> int:
        """The smallest bucket that holds `num_rows`."""
        return self.buckets[bisect_left(self.buckets, num_rows)]

    def run(self, jobs: Sequence[Tensors]) -> dict[str, np.ndarray]:
        """Answers to the rows of `jobs`, in their order; together they fit in the largest bucket."""
        first = self._inputs[0].name
        num_rows = sum(len(job[first]) for job in jobs)
        bucket = self.bucket(num_rows)
        feeds = {}
        for spec in self._inputs:
            buffer = self._buffers[spec.name]
            np.concatenate([job[spec.name] for job in jobs], out=buffer[:num_rows])
            buffer[num_rows:bucket] = 0
            feeds[spec.name] = buffer[:bucket]
        try:
            arrays = self._session.run(self._outputs, feeds)
        except Exception as error:
            raise ModelFailed(f"the model failed: {_first_line(error)}") from error
        return {name: array[:num_rows] for name, array in zip(self._outputs, arrays, strict=True)}

    def run_all(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Answers to any number of rows, the largest bucket at a time."""
        num_rows = len(tensors[self._inputs[0].name])
        parts = [
            self.run([{name: array[start : start + self.largest] for name, array in tensors.items()}])
            for start in range(0, num_rows, self.largest)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}


def load_engine(bundle: Bundle, config: EngineConfig) -> Engine:
    """Create the session, check it against the manifest, prove it on the golden rows."""
    session = _open_session(bundle.graph, config)
    manifest = bundle.manifest
    _check_tensors("input", session.get_inputs(), manifest.inputs)
    _check_tensors("output", session.get_outputs(), manifest.outputs)
    engine = Engine(session, bundle, config)
    try:
        engine.parity = measure(engine.run_all, bundle.golden, engine.buckets)
    except ModelFailed as error:
        raise EngineError(f"the golden rows could not be run: {error}") from None
    if excess := engine.parity.excess(manifest.tolerances):
        raise EngineError(f"{excess} (on {engine.provider})")
    return engine


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime has a CUDA provider; whether it works shows when a session opens."""
    return CUDA in ort.get_available_providers()


def _open_session(graph: bytes, config: EngineConfig) -> Any:
    if config.device == "cuda" and not has_cuda():
        raise EngineError("device cuda was asked for, but this build of ONNX Runtime has no CUDA provider")
    if config.device == "cpu" or not has_cuda():
        return _new_session(graph, config, [CPU])
    try:
        ort.preload_dlls()
        session = _new_session(graph, config, [(CUDA, {"use_tf32": "0"}), CPU])
        if session.get_providers()[0] == CUDA:
            return session
        # ONNX Runtime falls back without a word; we say it, or refuse.
        reason = "ONNX Runtime could not start CUDA here"
    except EngineError as error:
        reason = str(error)
    if config.device == "cuda":
        raise EngineError(f"device cuda was asked for, but {reason}")
    _log.warning("event=cuda_unavailable fallback=cpu reason=%r", reason)
    return _new_session(graph, config, [CPU])


def _new_session(graph: bytes, config: EngineConfig, providers: list[Any]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins for work takes its core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load model.onnx: {_first_line(error)}") from None
    session.disable_fallback()
    return session


def _check_tensors(kind: str, found: Sequence[Any], expected: Sequence[TensorSpec]) -> None:
    by_name = {node.name: node for node in found}
    if set(by_name) != {spec.name for spec in expected}:
        raise EngineError(
            f"the graph's {kind}s are {sorted(by_name)}, the manifest says {[spec.name for spec in expected]}"
        )
    for spec in expected:
        node = by_name[spec.name]
        dtype = _DTYPES.get(node.type, node.type)
        if dtype != spec.dtype or not _fits(node.shape, spec):
            raise EngineError(
                f"the graph's {kind} '{spec.name}' is {dtype} {node.shape}, "
                f"the manifest says {spec.dtype} {spec.shape}"
            )


def _fits(shape: Sequence[int | str | None], spec: TensorSpec) -> bool:
    """Rows are symbolic, and each dimension that the graph tells is the manifest's."""
    if len(shape) != len(spec.shape) or isinstance(shape[0], int):
        return False
    return all(
        not isinstance(dim, int) or dim == told for dim, told in zip(shape[1:], spec.row_shape, strict=True)
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
