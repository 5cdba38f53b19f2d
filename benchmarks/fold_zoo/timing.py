"""How fast is a graph compared with another, on ONNX Runtime at level ALL, one thread, one row at a time?

In: ONNX files.  Out: medians in ms, and the median of the ratio within each round: graphs alternate,
so that a busy machine affects all of them.
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

MIN_ROUNDS, MAX_ROUNDS = 7, 101


def interleaved(
    graphs: Mapping[str, Path], row: Mapping[str, np.ndarray], budget_s: float
) -> list[dict[str, float]]:
    """Rounds of ms for each graph, until the budget is spent."""
    sessions = {name: _session(path) for name, path in graphs.items()}
    for session in sessions.values():
        for _ in range(2):
            session.run(None, row)
    rounds: list[dict[str, float]] = []
    begun = time.perf_counter()
    while len(rounds) < MIN_ROUNDS or (len(rounds) < MAX_ROUNDS and time.perf_counter() - begun < budget_s):
        names = list(sessions) if len(rounds) % 2 else list(reversed(sessions))
        rounds.append({name: _run_ms(sessions[name], row) for name in names})
    return rounds


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median ms of each graph."""
    return {name: statistics.median(ms[name] for ms in rounds) for name in rounds[0]}


def ratio(rounds: list[dict[str, float]], name: str, other: str) -> float:
    """The median of name ÷ other."""
    return statistics.median(ms[name] / ms[other] for ms in rounds)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run_ms(session: ort.InferenceSession, row: Mapping[str, np.ndarray]) -> float:
    begun = time.perf_counter()
    session.run(None, row)
    return 1e3 * (time.perf_counter() - begun)
