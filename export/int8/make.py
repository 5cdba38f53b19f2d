"""The int8 graph of a bundle: made, chosen, measured, and refused where it is not worth having.

In: a proved float32 graph with its source and golden rows.  Out: an `Int8Graph`, or an Int8Error.

    ranges   6σ from BatchNorm statistics; with rows, some fit, and the others choose between the two
    weights  rounded to nearest, or so that their errors cancel in what a layer makes of rows
    gate     a drop of accuracy over the limit, or less than 1.1 × float32 on this machine: refused
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.compute.runtime import load
from export.errors import SourceError
from export.graph.moments import moments_of
from export.int8.cpu import cpu_in_words, saturates
from export.int8.data import MIN_ROWS, open_rows
from export.int8.gate import Limits, check_accuracy, check_speed
from export.int8.layers import costliest, kept_float, last_linear, layers_of
from export.int8.measure import Comparison, Measure, class_output, compare, layer_noise, measure_speed
from export.int8.observe import Seen, observe
from export.int8.pads import merge_pads
from export.int8.quantize import Recipe, corrected, quantize, with_opset
from export.int8.ranges import TensorRanges, from_rows, from_statistics
from export.int8.replay import golden_answers
from export.int8.rounding import Integers, adapted
from export.int8.rows import BATCH, Rows, made_rows, of_arrays
from export.sources.source import Source
from service.contract.bundle import Golden
from service.contract.int8 import Int8, Int8Ranges

Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]

FIT_STEP = 8  # every eighth of a checkpoint's rows fits: a few hundred are enough, and the others judge
LAYER_BATCHES = 8  # of the rows that judge: enough for a layer's noise, which is a mean over many numbers


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """What `--dtype int8` takes.

    Args:
        calibrate: an .npz file of rows or a folder of pictures; None: ranges from BatchNorm statistics.
        limits: what the gate allows.
        measure: milliseconds of both graphs.
    """

    calibrate: Path | None = None
    limits: Limits = field(default_factory=Limits)
    measure: Measure = measure_speed


@dataclass(frozen=True, kw_only=True)
class Int8Graph:
    """int8.onnx, its answers to the golden rows, and what the manifest says of it."""

    graph: bytes
    answers: Arrays
    block: Int8


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """One way to quantize."""

    model: onnx.ModelProto
    ranges: TensorRanges
    method: str
    name: str
    is_corrected: bool


def make_int8(
    source: Source, folded: ir.Model, stored: bytes, golden: Golden, options: Int8Options, say: Say
) -> Int8Graph:
    """Quantize `stored`, the folded graph as it is served in float32.

    Raises:
        SourceError: the rows to calibrate with cannot be used, or there is nothing to take ranges from.
        Int8Error: too inexact or not faster, with the numbers.
    """
    model = merge_pads(with_opset(onnx.load_from_string(stored)))
    reasons = kept_float(model)
    batch = min(BATCH, source.max_rows or BATCH)
    golden_rows = of_arrays(dict(golden.inputs), None, "golden rows", batch)
    made = made_rows(source.inputs, 0, batch) or golden_rows
    known = any(moments_of(value) is not None for node in folded.graph for value in node.outputs)
    fit, judge = rows_to_fit(source, options.calibrate, batch)
    if fit is None and not known:
        raise SourceError(
            "the net has no BatchNorm whose statistics say how large its tensors are: give rows, "
            "--calibrate DATA"
        )
    say("int8: finding the range of every tensor")
    seen = observe(model, lambda: _inputs(fit or golden_rows), with_bins=fit is not None)
    if fit is None:
        tried = [("6 sigma", ranges) for ranges in ranges_without_rows(source, model, folded, seen)]
    else:
        tried = [("6 sigma", from_statistics(folded, seen, source.inputs, "rows"))] if known else []
        tried.append(("minmax", from_rows(seen, squared_error=False)))
        tried.append(("least squared error", from_rows(seen, squared_error=True)))
    judge = judge or made
    shown = fit or made_rows(source.inputs, 1, batch) or golden_rows  # rows that do not choose
    candidates = _candidates(model, reasons, tried, shown, say)
    if fit is None:
        candidates = [one for one in candidates if one.is_corrected]
    say(f"int8: comparing {len(candidates)} ways on {judge.num_rows} rows")
    comparisons = _compared(source, model, candidates, judge)
    best, comparison = max(zip(candidates, comparisons, strict=True), key=lambda one: one[1].worst_db)
    say("int8: measuring each layer, and the time of both graphs")
    noise = layer_noise(model, best.model, islice(_inputs(judge), LAYER_BATCHES))
    layers = layers_of(model, best.model, reasons, best.ranges, noise)
    check_accuracy(comparison, options.limits, costliest(model, layers, noise), is_real=judge is not made)
    graph = best.model.SerializeToString()
    first = {name: array[:1] for name, array in golden.inputs.items()}
    speed = options.measure(stored, graph, first, source.max_rows)
    check_speed(speed, options.limits, layers)
    answers, tolerances = golden_answers(best.model, golden.inputs, source.max_rows)
    block = Int8(
        tolerances=tolerances,
        sqnr_db=comparison.sqnr_db,
        sqnr_rows=comparison.rows,
        agreement=comparison.agreement,
        accuracy=comparison.accuracy,
        ranges=Int8Ranges.model_validate(
            {
                "source": "batchnorm" if best.method == "6 sigma" else "rows",
                "method": best.method,
                "is_bias_corrected": best.is_corrected,
                "rows": 0 if fit is None else fit.num_rows,
                "sqnr_db_of": {
                    one.name: each.worst_db for one, each in zip(candidates, comparisons, strict=True)
                },
            }
        ),
        speed=speed,
        cpu=cpu_in_words(),
        reduced_range=saturates(),
        layers=layers,
    )
    return Int8Graph(graph=graph, answers=answers, block=block)


def ranges_without_rows(
    source: Source, model: onnx.ModelProto, folded: ir.Model, golden: Mapping[str, Seen]
) -> list[TensorRanges]:
    """Ranges from statistics; where none knows, from golden rows, or from rows that are made like real ones.

    Some golden rows are extreme.  What a net with squeeze-and-excitation makes of a picture of one colour may
    be a hundred times as large as of any real one.
    """
    found = [from_statistics(folded, golden, source.inputs, "golden rows")]
    rows = made_rows(source.inputs, 1, min(BATCH, source.max_rows or BATCH))  # not those that choose
    if rows is not None and "golden rows" in found[0].sources.values():
        shown = observe(model, lambda: _inputs(rows), with_bins=False)
        found.append(from_statistics(folded, shown, source.inputs, "made rows"))
    return found


def rows_to_fit(source: Source, calibrate: Path | None, batch: int) -> tuple[Rows | None, Rows | None]:
    """The rows that ranges are fitted to, and those that judge; None where there are none, or too few."""
    if calibrate is not None:
        return open_rows(calibrate, source.inputs, source.preprocessing, source.labels, batch).split(2)
    rows = _held_out(source, batch)
    if rows is None or rows.num_rows < MIN_ROWS:
        return None, rows
    return rows.split(FIT_STEP if rows.num_rows >= FIT_STEP * MIN_ROWS else 2)


def _held_out(source: Source, batch: int) -> Rows | None:
    """Real rows that the source brings."""
    if source.held_out is not None and len(source.held_out):
        inputs = {source.inputs[0].name: source.held_out.astype(source.inputs[0].dtype)}
        return of_arrays(inputs, source.held_out_labels, "held-out rows", batch)
    return None if source.given is None else of_arrays(dict(source.given), None, "given rows", batch)


def _candidates(
    model: onnx.ModelProto,
    reasons: Mapping[str, str],
    tried: list[tuple[str, TensorRanges]],
    shown: Rows,
    say: Say,
) -> list[_Candidate]:
    """Each of `tried`: weights to nearest, biases corrected too, and weights adapted to the rows `shown`."""
    found = []
    integers: Integers | None = None
    for method, ranges in tried:
        recipe = Recipe(
            ranges=ranges.ranges, floats=frozenset(reasons), last=last_linear(model), reduce_range=saturates()
        )
        plain = quantize(model, recipe)
        if integers is None:  # of the weights and their scales alone: the same for all ranges
            say("int8: rounding weights so that their errors cancel")
            integers = adapted(model, plain, islice(_inputs(shown), LAYER_BATCHES))
        for written, is_corrected, is_adapted in in_three_ways(model, plain, recipe, ranges, integers):
            name = _name(method, ranges, is_corrected=is_corrected, is_adapted=is_adapted)
            found.append(
                _Candidate(model=written, ranges=ranges, method=method, name=name, is_corrected=is_corrected)
            )
    return found


def _compared(
    source: Source, model: onnx.ModelProto, candidates: list[_Candidate], judge: Rows
) -> list[Comparison]:
    runs = [
        load(one.SerializeToString(), optimised=True)
        for one in (model, *(candidate.model for candidate in candidates))
    ]
    classes = class_output([(spec.name, spec.row_shape) for spec in source.outputs])
    return compare(runs[0], runs[1:], judge.read(), classes)


def in_three_ways(
    model: onnx.ModelProto, plain: onnx.ModelProto, recipe: Recipe, ranges: TensorRanges, integers: Integers
) -> Iterator[tuple[onnx.ModelProto, bool, bool]]:
    """Graphs, whether biases are corrected, and whether weights are adapted; `plain` is the first of them."""
    yield plain, False, False
    yield quantize(corrected(model, plain, ranges.means), recipe), True, False
    if integers:
        better = replace(recipe, integers=integers)
        yield quantize(corrected(model, quantize(model, better), ranges.means), better), True, True


def _name(method: str, ranges: TensorRanges, *, is_corrected: bool, is_adapted: bool) -> str:
    made = ", made rows" if "made rows" in ranges.sources.values() else ""
    biases = ", biases corrected" if is_corrected else ""
    return f"{method}{made}{biases}{', weights adapted' if is_adapted else ''}"


def _inputs(rows: Rows) -> Iterator[Arrays]:
    for batch in rows.read():
        yield batch.inputs
