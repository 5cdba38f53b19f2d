"""Whether an int8 graph is worth having.

In: how it compares with float32.  Out: nothing, or an Int8Error with the numbers and the costliest layers.

    labelled rows    (right in float32 alone − right in int8 alone) / rows        at most --max-accuracy-drop
    unlabelled ones  rows whose label changes / rows                              at most twice that
    made rows, or an output that has no classes                                   an SQNR of at least 15 dB
    speed            at batch 1 and 8, one thread                                 at least 1.1 × float32

A changed label loses a right answer in part of the cases only, hence the 2.  One row is allowed, however few
there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from export.errors import Int8Error
from export.int8.layers import named
from export.int8.measure import Comparison
from service.contract.int8 import Int8Layer, Int8Speed

MIN_DB = 15.0
LABELS_PER_LOSS = 2.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The gate: a drop in percentage points, and how many times as fast as float32."""

    max_accuracy_drop: float = 0.5
    min_speed: float = 1.1


def check_accuracy(found: Comparison, limits: Limits, costly: Sequence[Int8Layer], *, is_real: bool) -> None:
    """`is_real`: whether the rows are real ones, whose labels mean something; raises Int8Error."""
    accuracy, agreement, limit = found.accuracy, found.agreement, limits.max_accuracy_drop
    if accuracy is not None:
        lost, allowed = accuracy.only_float32 - accuracy.only_int8, limit * accuracy.rows / 100
        said = (
            f"int8 loses {accuracy.drop:.2f} points of accuracy, {100 * accuracy.float32:.2f} % to "
            f"{100 * accuracy.int8:.2f} % of {accuracy.rows} labelled rows ({accuracy.only_float32} right in "
            f"float32 alone, {accuracy.only_int8} in int8 alone), --max-accuracy-drop is {limit:g}"
        )
    elif agreement is not None and is_real:
        lost, allowed = agreement.rows - agreement.same, LABELS_PER_LOSS * limit * agreement.rows / 100
        said = (
            f"int8 changes the label of {lost} of {agreement.rows} rows, --max-accuracy-drop {limit:g} "
            f"allows {LABELS_PER_LOSS * limit:g} % where no row is labelled"
        )
    else:
        if found.worst_db >= MIN_DB:
            return
        asked = f"int8 answers have an SQNR of {found.worst_db:.1f} dB, at least {MIN_DB:g} is asked"
        raise _refusal(asked, costly)
    if lost > max(1.0, allowed):
        raise _refusal(said, costly)


def check_speed(speed: Sequence[Int8Speed], limits: Limits, layers: Sequence[Int8Layer]) -> None:
    """Raises Int8Error where a batch size gains too little."""
    if min(one.ratio for one in speed) >= limits.min_speed:
        return
    times = ", ".join(
        f"{one.ratio:.2f} × at batch {one.batch} ({one.float32_ms:.3g} ms → {one.int8_ms:.3g} ms)"
        for one in speed
    )
    floats = [layer for layer in layers if layer.status == "float"]
    kinds = sorted({layer.op_type for layer in floats})
    stays = f"; {len(floats)} of {len(layers)} ops stay float: {', '.join(kinds)}" if floats else ""
    raise Int8Error(
        f"int8 is not fast enough here: {times} of float32, at least {limits.min_speed:g} × is asked{stays}; "
        "nothing was written"
    )


def _refusal(said: str, costly: Sequence[Int8Layer]) -> Int8Error:
    return Int8Error(f"{said}; the layers that cost most: {named(costly)}; nothing was written")
