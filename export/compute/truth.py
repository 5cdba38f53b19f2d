"""The true answers of an ONNX file, and how far its own weights' precision lets answers be from them.

In: an unfolded graph.  Out: a `GraphTruth`.

The truth is the graph in ONNX's reference implementation, float64.  Where that lacks an operator, or fails,
it is the graph in ONNX Runtime, float32: then the folded graph is compared with the unfolded one, and no
longer with what the net means.

A fold writes new weights, and rounds them anew to their own dtype.  A graph whose weights are float16
computes in float32 on a CPU, so its own error does not show what such a rounding does.  That is measured:
the weights of the unfolded graph are moved by half a unit in their last place, each up or down by chance,
and

    noise = max |answers with moved weights − answers|

Where the graph quantizes what it computes, some numbers become a neighbouring integer too (`flips`).

It is the same measure that the folded graph's weights differ by.  Against a float32 truth it is taken of
float32 weights too, because such a truth has no error of its own to measure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.compute.comparable import check_comparable
from export.compute.flips import with_flips
from export.compute.reference import Arrays, Evaluate, graph_evaluator
from export.compute.runtime import load
from export.compute.texts import without_texts
from export.errors import ProofError
from service.contract.parity import difference, in_batches

EXACT_TRUTH = "the unfolded graph in ONNX's reference implementation, float64"
NUM_DRAWS = 2
LARGEST_FLIP = 0.05
"""What flips may move an output by, relative to its range: beyond that, a proof would say nothing."""
INDEPENDENT_FLOAT32 = 1e-3
"""Largest relative difference between a row alone and in a batch, where answers are computed in float32."""

_HALF_ULP = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}
# Ops whose constants a fold may write.  Other constants are parts of formulas: an exponent must stay 2.
_WRITTEN = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Add", "Sub", "Mul", "Div"}
_WRITTEN |= {
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "DeformConv",
}
_SCALED = {"DequantizeLinear"}  # its one scale for a tensor is a weight too


@dataclass(frozen=True, kw_only=True)
class GraphTruth:
    """The true answers of one graph.

    Args:
        evaluate: computes them.
        words: with what, for the manifest and for the user.
        is_exact: whether in float64.
    """

    model: ir.Model
    evaluate: Evaluate
    words: str
    is_exact: bool

    def noise(
        self, rows: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], max_rows: int | None = None
    ) -> dict[str, float]:
        """How far each output is moved by rounding the weights once; 0 where the measured error shows that.

        `answers` are the true answers to `rows`, `max_rows` is the maximum of a batch.
        """
        noise = dict.fromkeys(answers, 0.0)
        for seed in range(NUM_DRAWS):
            random = np.random.default_rng(seed)
            moved = _moved(self.model, _by_half_an_ulp if self.is_exact else _to_a_neighbour, random)
            for changed in (moved, with_flips(self.model, random)):
                if changed is None:
                    continue
                evaluate = graph_evaluator(changed) if self.is_exact else _in_float32(changed)
                for name, answer in in_batches(evaluate, rows, max_rows).items():
                    found = difference(answer, answers[name])
                    if changed is not moved and np.isfinite(found):
                        found = min(found, LARGEST_FLIP * float(np.abs(answers[name]).max(initial=0.0)))
                    noise[name] = max(noise[name], found)
        return noise


def graph_truth(model: ir.Model, rows: Mapping[str, np.ndarray]) -> GraphTruth:
    """The truth of a graph; float64 is tried on `rows`, whose answers are kept: they take most of the time.

    Where others are asked for, a few rows are enough.
    Raises ProofError where nothing can be compared with it.
    """
    check_comparable(model := without_texts(model))
    try:
        evaluate = _remembering(graph_evaluator(model))
        evaluate(rows)
        return GraphTruth(model=model, evaluate=evaluate, words=EXACT_TRUTH, is_exact=True)
    except ProofError as error:
        words = f"the unfolded graph in ONNX Runtime, float32; {error}"
        return GraphTruth(model=model, evaluate=_in_float32(model), words=words, is_exact=False)


def _remembering(evaluate: Evaluate) -> Evaluate:
    """The same, but the rows that it was given last are not computed again."""
    last: tuple[Arrays, Arrays] = {}, {}  # read and written whole, by whatever thread

    def remembering(rows: Mapping[str, np.ndarray]) -> Arrays:
        nonlocal last
        inputs, answers = last
        if inputs.keys() != rows.keys() or not all(_is_same(rows[name], inputs[name]) for name in rows):
            answers = evaluate(rows)
            last = {name: np.array(array) for name, array in rows.items()}, answers
        return dict(answers)

    return remembering


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """The same numbers in the same type; NaN is never the same."""
    return one.dtype == other.dtype and np.array_equal(one, other)


def _in_float32(model: ir.Model) -> Evaluate:
    run = load(ir.to_proto(model).SerializeToString(), optimised=False)

    def evaluate(inputs: Mapping[str, np.ndarray]) -> Arrays:
        return {name: np.asarray(answer, dtype=np.float64) for name, answer in run(inputs).items()}

    return evaluate


Move = Callable[[ir.TensorProtocol, np.random.Generator], np.ndarray | None]


def _moved(model: ir.Model, move: Move, random: np.random.Generator) -> ir.Model | None:
    """A copy whose weights are moved; None if none is."""
    arrays = {
        (place, value.name): array
        for place, graph in enumerate(model.graphs())
        for value in graph.initializers.values()
        if value.const_value is not None and _is_weight(value)
        if (array := move(value.const_value, random)) is not None
    }
    if not arrays:
        return None  # without a copy, which takes as long as the answers of a small net
    model = model.clone()
    for place, graph in enumerate(model.graphs()):
        for name, value in graph.initializers.items():
            if (array := arrays.get((place, name))) is not None:
                value.const_value = ir.tensor(array, name=name)
    return model


def _by_half_an_ulp(tensor: ir.TensorProtocol, random: np.random.Generator) -> np.ndarray | None:
    """Weights narrower than float32, in float64: between two numbers of their dtype."""
    if tensor.dtype not in _HALF_ULP:
        return None
    array = tensor.numpy().astype(np.float64)
    return array * (1 + _HALF_ULP[tensor.dtype] * random.choice([-1.0, 1.0], size=array.shape))


def _to_a_neighbour(tensor: ir.TensorProtocol, random: np.random.Generator) -> np.ndarray | None:
    """Weights in float32 or float16, each replaced by the next number of its dtype, up or down."""
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    array = tensor.numpy()
    ends = random.choice([-np.inf, np.inf], size=array.shape).astype(array.dtype)
    return np.asarray(np.nextafter(array, ends))


def _is_weight(value: ir.Value) -> bool:
    readers = {reader.op_type for reader in value.consumers()}
    if readers and readers <= _SCALED:
        return True
    return bool(value.shape) and readers <= _WRITTEN | _SCALED
