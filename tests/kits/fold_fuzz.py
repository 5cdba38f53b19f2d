"""Fold random whole graphs at every price: the same answers, a true account, no fewer than others fold.

    PYTHONPATH=.:tests/kits python -m fold_fuzz --first 0 --count 100000         by hand, for hours

Relative to each output's range; an output near 0 counts as a thousandth of the largest.  The answers are
sums of many thousand terms whose rounding is that of both graphs: 1e-12 holds where `LARGEST_CONDITION` does.
Statistics of trained nets say other things of the rows than rows of noise do: an offset of 10⁴, amplified by
30/√ε, leaves 10⁻⁸ of float64, where a wrong fold leaves 10⁻⁶ and more.
"""

import argparse
import gc
import logging
import tempfile
import time

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from export.compute.runtime import load
from export.errors import ExportError
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import Price
from export.fold.per_channel import fold_per_channel
from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.file import serialize
from export.graph.prepare import prepare
from gauge_fuzz import grow
from gauge_kit import EXACT, answers

PRICES = [frozenset(), frozenset(Price), *(frozenset({price}) for price in Price)]
EXACT_AT_HUGE_MEANS = 1e-7
WRONG = 1e-2


def in_float32(model: ir.Model) -> ir.Model:
    """As ONNX Runtime has it; its Conv knows no float64."""
    model = model.clone()
    single = ir.TensorType(ir.DataType.FLOAT)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.DOUBLE:
            with np.errstate(over="ignore"):  # no bound is the largest number
                array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = single
    outputs = [output for node in model.graph for output in node.outputs]
    for value in (*model.graph.inputs, *outputs):
        if value.dtype == ir.DataType.DOUBLE:
            value.type = single
    return model


def apart(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    largest = max(float(np.abs(array).max(initial=0)) for array in expected)
    floor = max(1e-3 * largest, 1e-30)
    return max(
        float(np.abs(e - f).max(initial=0)) / max(float(np.abs(e).max(initial=0)), floor)
        for e, f in zip(expected, found, strict=True)
    )


def left_by_onnx_runtime(model: ir.Model, rows: np.ndarray, expected: list[np.ndarray]) -> int | None:
    """How many BatchNorms its own optimiser leaves; None where it fails, or answers wrongly."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(
                serialize(in_float32(model)), options, providers=["CPUExecutionProvider"]
            )
            found = session.run(None, {"x": rows.astype(np.float32)})
        except Exception:
            return None
        if not apart(expected, found) < WRONG:
            return None
        return len(list(batchnorms(ir.load(options.optimized_model_filepath))))


def num_bounds(model: ir.Model) -> int:
    """The Max and Min: a fold adds them only at a price."""
    return sum(node.op_type in ("Max", "Min") for node in model.graph)


def check(
    seed: int,
    prices: frozenset[Price],
    limit: float = LARGEST_CONDITION,
    *,
    runtime: bool = False,
    trained: bool = False,
) -> int:
    """Fold a random graph, then what acts as BatchNorms, and fold it again; how many BatchNorms went."""
    net, shape, outputs = grow(seed, trained=trained)
    unfolded = prepare(ir.from_proto(net.model(shape, *outputs)))
    folded, sites = fold(unfolded, prices, limit)
    rows = np.random.default_rng(seed).normal(size=[2, *shape[1:]])
    expected = answers(unfolded, rows)
    bound = EXACT_AT_HUGE_MEANS if trained else EXACT
    assert apart(expected, answers(folded, rows)) < bound

    declined = [site for site in sites if site.status == "declined"]
    assert len(sites) == len(list(batchnorms(unfolded)))
    assert len(declined) == len(list(batchnorms(folded)))
    assert all(site.reason for site in declined)
    onnx.checker.check_model(ir.to_proto(folded), full_check=True)
    assert Price.THRESHOLD in prices or num_bounds(folded) == num_bounds(unfolded)

    plain, better, chains = fold_per_channel(unfolded, folded, sites, prices, limit)
    assert apart(expected, answers(plain, rows)) < bound
    assert sum(site.status == "declined" for site in better) == len(list(batchnorms(plain))) <= len(declined)
    assert len(plain.graph) <= len(folded.graph) or prices, "no op is added where none is paid"
    assert all(site.reason or site.how for site in chains)
    onnx.checker.check_model(ir.to_proto(plain), full_check=True)

    again, more = fold(folded, prices, limit)
    assert len(more) == len(declined) >= len(list(batchnorms(again)))
    assert apart(expected, answers(again, rows)) < bound
    if trained:
        theirs = left_by_onnx_runtime(unfolded, rows, expected)
        assert theirs is None or len(list(batchnorms(plain))) <= theirs, f"ONNX Runtime leaves {theirs}"
    if runtime:
        run = load(serialize(in_float32(plain)), optimised=True)
        run({"x": rows.astype(np.float32)})
    return len(sites) - len(declined)


def main() -> None:
    """Check graphs, each at one of the prices by turns; prints those that fail, and a line at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    gc.freeze()  # graphs are cycles: looking for them in the libraries was a tenth of the time
    begin, gone, bad = time.monotonic(), 0, 0
    for done, seed in enumerate(range(options.first, options.first + options.count), start=1):
        try:
            gone += check(seed, PRICES[seed % len(PRICES)], trained=True)
        except (AssertionError, ExportError, RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            bad += 1
            print(f"graph {seed}: {type(error).__name__}: {str(error)[:200]!r}", flush=True)
        if done % 500 == 0:
            minutes = (time.monotonic() - begin) / 60
            print(f"{done} from {options.first}, {bad} bad, {gone} gone, {minutes:.1f} min", flush=True)


if __name__ == "__main__":
    main()
