"""ONNX Runtime as a function from rows to answers, on the CPU, with nothing left to chance.

In: the bytes of a graph.  Out: `run(inputs) -> outputs`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from export.compute.comparable import EVAL
from export.errors import UnrunnableError
from service.contract.exact_sums import EXACT_SUMS, lacks_exact_sums
from service.contract.parity import Run, Tensors
from service.contract.text import first_line

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed: ?)?")
_ADVICE = {
    "Training_mode = True": EVAL,
}
"""What helps, by what ONNX Runtime says."""
_PLACE = re.compile(r"/\S+\.(?:cc|h|cpp):\d+ .*?\)(?: const)?(?: \[[^]]*\])? ?")


def load(graph: bytes | Path, *, optimised: bool) -> Run:
    """A session on the CPU: with ONNX Runtime's own rewrites as when serving, or with none.

    Raises UnrunnableError where ONNX Runtime refuses the graph, and so does `run`.
    """
    options = _options()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    session = _session(graph, options)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Tensors) -> Mapping[str, np.ndarray]:
        try:
            answers = session.run(names, dict(inputs))
        except Exception as error:
            raise UnrunnableError(f"ONNX Runtime cannot run the graph: {_words(error)}") from error
        return dict(zip(names, answers, strict=True))

    return run


def check_loads(graph: bytes | Path) -> None:
    """Raise UnrunnableError where ONNX Runtime refuses the graph.

    Weights stay as the file has them: to lay them out for the kernels takes most of a large file's time.
    """
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    _session(graph, options)


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised: printed too, they would look like crashes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a busy machine stays usable
    # As the service does: x86 without VNNI would saturate where it adds products of uint8 and int8.
    options.add_session_config_entry(EXACT_SUMS, "1")
    # As the service does: MatMulNBits, made of a MatMul by integers, would round the rows to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def _session(graph: bytes | Path, options: ort.SessionOptions) -> ort.InferenceSession:
    file = str(graph) if isinstance(graph, Path) else graph
    try:
        try:
            return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if not lacks_exact_sums(error):
                raise
        options.add_session_config_entry(EXACT_SUMS, "0")
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public class
        raise UnrunnableError(f"ONNX Runtime refuses it: {_words(error)}") from error


def _words(error: Exception) -> str:
    """Its first line, without codes and places in ONNX Runtime's own sources: they tell a user nothing."""
    words = first_line(Exception(_PLACE.sub("", _PREFIX.sub("", str(error))))).rstrip(". ")
    advice = next((advice for found, advice in _ADVICE.items() if found in words), None)
    return f"{words}; {advice}" if advice else words
