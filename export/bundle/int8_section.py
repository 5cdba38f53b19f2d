"""The report's section on int8: how answers move, and which golden rows move most.

In: golden rows' answers in float32 and int8, and the manifest's block.  Out: an `Int8Section`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from service.contract.int8 import Int8

NUM_WORST = 5
MAX_POINTS = 1500
SIDE = 320


@dataclass(frozen=True, kw_only=True)
class AnswerPlot:
    """One output: float32 answers across, int8 answers up, in pixels; on the diagonal nothing changes."""

    output: str
    points: list[tuple[float, float]]
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MovedRow:
    """A golden row whose answer moves most; labels are None where the output has no classes."""

    row: int
    difference: float
    before: int | None
    after: int | None


@dataclass(frozen=True, kw_only=True)
class Int8Section:
    """What the template shows."""

    block: Int8
    plots: list[AnswerPlot]
    worst: list[MovedRow]
    sentences: list[str]


def int8_section(
    block: Int8, float32: Mapping[str, np.ndarray], int8: Mapping[str, np.ndarray]
) -> Int8Section:
    """The section; both are answers to the golden rows, (N, …) by output."""
    output = next(iter(float32))
    return Int8Section(
        block=block,
        plots=[_plot(name, float32[name], int8[name]) for name in float32],
        worst=_worst(float32[output], int8[output]),
        sentences=sentences(block),
    )


def sentences(block: Int8) -> list[str]:
    """What int8 costs and what it brings."""
    worst = min(block.sqnr_db.values())
    said = [f"SQNR {worst:.1f} dB over {block.sqnr_rows} rows, ranges by {block.ranges.method}"]
    if block.agreement is not None:
        said.append(f"{block.agreement.same} of {block.agreement.rows} rows keep their label")
    if block.accuracy is not None:
        said.append(
            f"{100 * block.accuracy.float32:.2f} % right in float32, {100 * block.accuracy.int8:.2f} % in "
            f"int8, of {block.accuracy.rows} labelled rows"
        )
    return said + [
        f"{one.ratio:.2f} × as fast as float32 at batch {one.batch}, one thread" for one in block.speed
    ]


def _plot(output: str, expected: np.ndarray, answer: np.ndarray) -> AnswerPlot:
    across, up = (array.astype(np.float64).reshape(-1) for array in (expected, answer))
    step = max(1, -(-across.size // MAX_POINTS))
    low = float(min(across.min(initial=0), up.min(initial=0)))
    high = float(max(across.max(initial=0), up.max(initial=0)))
    scale = SIDE / ((high - low) or 1.0)
    points = [
        (round((float(x) - low) * scale, 1), round(SIDE - (float(y) - low) * scale, 1))
        for x, y in zip(across[::step], up[::step], strict=True)
    ]
    return AnswerPlot(output=output, points=points, low=low, high=high)


def _worst(expected: np.ndarray, answer: np.ndarray) -> list[MovedRow]:
    moved = np.abs(answer.astype(np.float64) - expected).reshape(len(expected), -1).max(axis=1, initial=0.0)
    has_classes = expected.ndim == 2 and expected.shape[1] > 1
    return [
        MovedRow(
            row=int(row),
            difference=float(moved[row]),
            before=int(expected[row].argmax()) if has_classes else None,
            after=int(answer[row].argmax()) if has_classes else None,
        )
        for row in np.argsort(-moved)[:NUM_WORST]
    ]
