"""What int8 costs and what it brings: signal to noise, labels, right answers, milliseconds.

In: both graphs and rows.  Out: the numbers of a manifest's block `int8`.

    SQNR = 10 · log₁₀ (Σ float32² / Σ (int8 − float32)²)          in dB: 20 is an error of 10 %, 40 of 1 %
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort

from export.compute.runtime import load
from export.int8.observe import float_tensors, showing
from export.int8.rows import Batch
from service.contract.int8 import Int8Accuracy, Int8Agreement, Int8Speed
from service.contract.parity import Run

Arrays = Mapping[str, np.ndarray]

MAX_DB = 200.0  # of what is exactly alike: a manifest holds finite numbers
BATCHES = (1, 8)
SECONDS = 1.0  # for each batch size, both graphs together
MIN_PAIRS, MAX_PAIRS = 9, 201

Measure = Callable[[bytes, bytes, Arrays, int | None], list[Int8Speed]]
"""Both graphs, a row of every input, the maximum of a batch: `measure_speed`, or a test's own."""


@dataclass(kw_only=True)
class Noise:
    """Sums of squares of a tensor in float32 and of its error in int8."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, expected: np.ndarray, answer: np.ndarray) -> None:
        """One batch."""
        exact = expected.astype(np.float64)
        self.signal += float((exact**2).sum())
        self.error += float(((answer.astype(np.float64) - exact) ** 2).sum())

    @property
    def db(self) -> float:
        """The SQNR, within ±200 dB."""
        if self.error == 0 or not np.isfinite(self.error):
            return MAX_DB if self.error == 0 else -MAX_DB
        return float(np.clip(10 * np.log10(max(self.signal, 1e-300) / self.error), -MAX_DB, MAX_DB))


@dataclass(kw_only=True)
class Comparison:
    """Answers in float32 and int8 to the same rows; `classes` is the output whose largest number counts."""

    classes: str | None
    noise: dict[str, Noise] = field(default_factory=dict)
    rows: int = 0
    same: int = 0
    labelled: int = 0
    both: int = 0
    only_float32: int = 0
    only_int8: int = 0

    def add(self, expected: Arrays, answers: Arrays, labels: np.ndarray | None) -> None:
        """One batch."""
        for name, array in expected.items():
            self.noise.setdefault(name, Noise()).add(array, answers[name])
        self.rows += len(next(iter(expected.values())))
        if self.classes is None:
            return
        was, now = (each[self.classes].argmax(axis=1) for each in (expected, answers))
        self.same += int((was == now).sum())
        if labels is not None:
            right, still = was == labels, now == labels
            self.labelled += len(labels)
            self.both += int((right & still).sum())
            self.only_float32 += int((right & ~still).sum())
            self.only_int8 += int((still & ~right).sum())

    @property
    def sqnr_db(self) -> dict[str, float]:
        """By output."""
        return {name: noise.db for name, noise in self.noise.items()}

    @property
    def worst_db(self) -> float:
        """Of the output that is worst."""
        return min(self.sqnr_db.values())

    @property
    def agreement(self) -> Int8Agreement | None:
        """None where no output has classes."""
        return None if self.classes is None else Int8Agreement(rows=self.rows, same=self.same)

    @property
    def accuracy(self) -> Int8Accuracy | None:
        """None where no row is labelled."""
        if not self.labelled:
            return None
        return Int8Accuracy(
            rows=self.labelled, both=self.both, only_float32=self.only_float32, only_int8=self.only_int8
        )


def compare(
    float32: Run, int8: Sequence[Run], batches: Iterable[Batch], classes: str | None
) -> list[Comparison]:
    """Each of several int8 graphs beside float32's answers; rows are read, and answered in float32, once."""
    found = [Comparison(classes=classes) for _ in int8]
    for batch in batches:
        expected = float32(batch.inputs)
        for run, comparison in zip(int8, found, strict=True):
            comparison.add(expected, run(batch.inputs), batch.labels)
    return found


def layer_noise(
    float32: onnx.ModelProto, int8: onnx.ModelProto, batches: Iterable[Arrays]
) -> dict[str, float]:
    """The SQNR in dB of every tensor that both graphs have, by its name in the float32 one.

    A tensor that is rounded counts as its readers see it, after DequantizeLinear.
    """
    made = {name for node in int8.graph.node for name in node.output}
    of = {}
    for name in float_tensors(float32):
        seen = f"{name}_DequantizeLinear_Output"
        if (shown := seen if seen in made else name) in made:
            of[name] = shown
    outputs = {value.name for value in float32.graph.output}
    exact = load(showing(float32, of), optimised=False)
    rounded = load(showing(int8, {shown for shown in of.values() if shown not in outputs}), optimised=False)
    noise = {name: Noise() for name in of}
    for rows in batches:
        expected, answers = {**rows, **exact(rows)}, {**rows, **rounded(rows)}
        for name, shown in of.items():
            noise[name].add(expected[name], answers[shown])
    return {name: one.db for name, one in noise.items()}


def measure_speed(float32: bytes, int8: bytes, rows: Arrays, max_rows: int | None) -> list[Int8Speed]:
    """Both graphs in turn, one thread each, so that a busy machine slows both; the medians."""
    sessions = [_session(graph) for graph in (float32, int8)]
    measured = []
    for size in [batch for batch in BATCHES if max_rows is None or batch <= max_rows]:
        feed = {name: np.resize(array, (size, *array.shape[1:])) for name, array in rows.items()}
        times: list[list[float]] = [[], []]
        for session in sessions:
            session.run(None, feed)
        start = time.perf_counter()
        while len(times[0]) < MIN_PAIRS or (
            time.perf_counter() - start < SECONDS and len(times[0]) < MAX_PAIRS
        ):
            for session, taken in zip(sessions, times, strict=True):
                begin = time.perf_counter()
                session.run(None, feed)
                taken.append(1e3 * (time.perf_counter() - begin))
        medians = [max(float(np.median(taken)), 1e-6) for taken in times]
        measured.append(Int8Speed(batch=size, float32_ms=medians[0], int8_ms=medians[1]))
    return measured


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # as the service does
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def class_output(outputs: Sequence[tuple[str, tuple[int, ...]]]) -> str | None:
    """The first output, if a row of it is one number for each of several classes."""
    name, shape = outputs[0]
    return name if len(shape) == 1 and shape[0] > 1 else None
