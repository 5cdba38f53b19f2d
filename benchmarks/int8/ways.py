"""Every way to an int8 graph, of one net.

In: a net and the rows that fit.  Out: graphs by the name of the way; the first is float32.
"""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from benchmarks.int8.nets import Net
from export.compute.runtime import load
from export.fold.gauges.system import FREE, Price
from export.fold.stages import fold
from export.graph.file import serialize
from export.int8.layers import kept_float, last_linear
from export.int8.make import LAYER_BATCHES, in_three_ways, ranges_without_rows
from export.int8.measure import compare
from export.int8.moments import carry_moments
from export.int8.observe import observe
from export.int8.pads import merge_pads
from export.int8.quantize import Recipe, quantize, with_opset
from export.int8.ranges import TensorRanges, from_rows, from_statistics
from export.int8.rounding import Integers, adapted
from export.int8.rows import Rows, made_rows
from export.proof.golden import golden_inputs

FLOAT32 = "float32, folded"
OURS = "ours, with data"
NO_DATA = "ours, no data"
FOLDED = "folded, ONNX Runtime default"
UNFOLDED = "unfolded, ONNX Runtime default"
PREPARED = "unfolded, quant_pre_process"


def ways_of(net: Net, fit: Rows, judge: Rows) -> dict[str, bytes]:
    """Graphs; a way that fails is left out."""
    unfolded = net.source.graph.clone()
    carry_moments(unfolded)
    prices = FREE | {Price.THRESHOLD} if net.threshold else FREE
    folded, _ = fold(unfolded, prices)
    plain = with_opset(onnx.load_from_string(serialize(net.source.graph)))
    plainly_folded = with_opset(onnx.load_from_string(serialize(folded)))
    model = merge_pads(plainly_folded)
    reasons = frozenset(kept_float(model))

    def three(known: list[TensorRanges], rows: Rows) -> list[list[onnx.ModelProto]]:
        found = []
        integers: Integers | None = None
        for ranges in known:
            recipe = Recipe(ranges=ranges.ranges, floats=reasons, last=last_linear(model))
            first = quantize(model, recipe)
            if integers is None:
                batches = (batch.inputs for batch in islice(rows.read(), LAYER_BATCHES))
                integers = adapted(model, first, batches)
            found.append([graph for graph, *_ in in_three_ways(model, first, recipe, ranges, integers)])
        return found

    graphs = {FLOAT32: model.SerializeToString()}
    golden = golden_inputs(net.source.inputs, None, 0)
    seen = observe(model, lambda: [golden], with_bins=False)
    made, shown = (made_rows(net.source.inputs, seed) for seed in (0, 1))
    assert made is not None
    assert shown is not None
    no_data = three(ranges_without_rows(net.source, model, folded, seen), shown)
    seen = observe(model, lambda: (batch.inputs for batch in fit.read()), with_bins=True)
    fitted = [from_statistics(folded, seen, net.source.inputs, "rows")]
    fitted += [from_rows(seen, squared_error=squared) for squared in (False, True)]
    with_data = [graph for of_ranges in three(fitted, fit) for graph in of_ranges]
    exact = load(graphs[FLOAT32], optimised=True)

    def best(candidates: list[onnx.ModelProto], rows: Rows) -> bytes:
        def db(candidate: onnx.ModelProto) -> float:
            run = load(candidate.SerializeToString(), optimised=True)
            return compare(exact, [run], rows.read(), None)[0].worst_db

        return max(candidates, key=db).SerializeToString()

    graphs[NO_DATA] = best([graph for _, *unbiased in no_data for graph in unbiased], made)
    graphs[OURS] = best(with_data, judge)
    graphs[FOLDED] = default(plainly_folded, fit)
    graphs[UNFOLDED] = default(plain, fit)
    graphs[PREPARED] = default(plain, fit, prepare=True)
    return graphs


class _Reader(CalibrationDataReader):
    def __init__(self, rows: Rows) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = (batch.inputs for batch in rows.read())

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def default(model: onnx.ModelProto, fit: Rows, *, prepare: bool = False) -> bytes:
    """`quantize_static` as its documentation calls it, with weights per channel."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        if prepare:
            quant_pre_process(source, source, skip_symbolic_shape=True)
        quantize_static(
            source,
            target,
            _Reader(fit),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return target.read_bytes()
