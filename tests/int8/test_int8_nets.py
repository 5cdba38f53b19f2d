"""Nets of each kind in int8 without data: near float32, small, the same bits however they are run."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.compute.runtime import load
from export.fold.stages import fold
from export.graph.file import serialize
from export.graph.prepare import prepare
from export.int8.layers import kept_float, last_linear
from export.int8.measure import compare
from export.int8.moments import carry_moments
from export.int8.observe import observe
from export.int8.quantize import Recipe, corrected, quantize
from export.int8.ranges import from_statistics
from export.int8.rows import of_arrays
from export.sources.trace import trace
from lively_nets import lively_net
from service.contract.parity import BUCKETS
from service.contract.tensors import TensorSpec

ROWS = np.random.default_rng(1).normal(size=(32, 3, 16, 16)).astype(np.float32).clip(-4, 4)
SMALL = {
    "keras-cnn": {},
    "vgg": {},
    "nin": {"channels": (16, 24, 24)},
    "resnet": {"depth": 8, "width": 8},
    "preact-resnet": {"depth": 8, "width": 8},
    "mobilenet": {"channels": (8, 16), "repeats": (1, 2), "strides": (1, 2), "last": 64},
    "densenet": {"growth": 6, "layers": (2, 2)},
    "repvgg": {"channels": (8, 16), "repeats": (1, 2)},
}
MAX_SIZE = 0.35  # of float32, where that is over 1 MB


def quantized(name: str) -> tuple[bytes, bytes]:
    """Float32 folded, and int8 with ranges from the BatchNorms' statistics alone."""
    unfolded = prepare(trace(lively_net(name, ROWS, **SMALL[name]), ROWS.shape[1:]))
    carry_moments(unfolded)
    folded, _ = fold(unfolded)
    model = onnx.load_from_string(serialize(folded))
    spec = TensorSpec(
        name=model.graph.input[0].name, dtype="float32", shape=[None, 3, 16, 16], minimum=-4.0, maximum=4.0
    )
    shown = observe(model, lambda: [{spec.name: ROWS[:8]}], with_bins=False)
    ranges = from_statistics(folded, shown, [spec], "golden rows")
    recipe = Recipe(ranges=ranges.ranges, floats=frozenset(kept_float(model)), last=last_linear(model))
    int8 = quantize(corrected(model, quantize(model, recipe), ranges.means), recipe)
    return model.SerializeToString(), int8.SerializeToString()


@pytest.mark.parametrize("name", SMALL)
def test_in_int8_without_data(name):
    float32, int8 = quantized(name)
    rows = of_arrays({onnx.load_from_string(float32).graph.input[0].name: ROWS}, None, "rows")
    graphs = [load(graph, optimised=True) for graph in (float32, int8)]
    (found,) = compare(graphs[0], graphs[1:], rows.read(), None)
    assert found.worst_db > 18
    assert len(float32) > 1e6 or name != "vgg", "one is large enough to tell"
    if len(float32) > 1e6:
        assert len(int8) <= MAX_SIZE * len(float32)
    same_bits(int8)


def same_bits(int8: bytes) -> None:
    """In every bucket, with one thread and three, and in two sessions at once, as two lanes run."""
    answers: dict[int, set[bytes]] = {row: set() for row in range(len(ROWS))}

    def run(threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(int8, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for bucket in (size for size in BUCKETS if size <= len(ROWS)):
            first = (7 * bucket) % (len(ROWS) - bucket + 1)
            for row, answer in enumerate(session.run(None, {name: ROWS[first : first + bucket]})[0], first):
                answers[row].add(answer.tobytes())
        for row, answer in enumerate(session.run(None, {name: ROWS})[0]):
            answers[row].add(answer.tobytes())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (1, 3)))
    assert {len(found) for found in answers.values()} == {1}
