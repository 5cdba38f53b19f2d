"""The int8 graph: what is rounded, what is not, which biases it gets, and what another CPU would do."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from export.compute.runtime import load
from export.errors import Int8Error
from export.graph.prepare import prepare
from export.int8.gate import Limits, check_accuracy, check_speed
from export.int8.layers import costliest, kept_float, last_linear, layers_of
from export.int8.measure import MAX_DB, Comparison, Noise, compare, layer_noise, measure_speed
from export.int8.observe import Seen, observe
from export.int8.quantize import Recipe, corrected, quantize, rounded_weights, with_opset
from export.int8.ranges import from_rows, least_squared_error
from export.int8.replay import golden_answers, last_step
from export.int8.rounding import adapted
from export.int8.rows import of_arrays
from onnx_graphs import graph
from saturation_kit import saturating
from service.contract.bundle import Golden
from service.contract.int8 import Int8Layer
from service.contract.parity import measure

CHANCE = np.random.default_rng(0)
ROWS = {"x": CHANCE.uniform(0, 4, (40, 3, 8, 8)).astype(np.float32)}


def small(*, limits: tuple[float, float] = (0.0, 6.0), opset: int = 17) -> onnx.ModelProto:
    """Conv → Clip → Conv (depthwise) → Relu → average → Gemm."""
    chance = np.random.default_rng(1)
    arrays = {
        "w": chance.normal(size=(8, 3, 3, 3)),
        "b": chance.normal(size=8),
        "low": np.array(limits[0]),
        "high": np.array(limits[1]),
        "d": chance.normal(size=(8, 1, 3, 3)),
        "h": chance.normal(size=(8, 5)),
        "c": chance.normal(size=5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["t"], name="first"),
        helper.make_node("Clip", ["t", "low", "high"], ["u"], name="clip"),
        helper.make_node("Conv", ["u", "d"], ["v"], name="depthwise", group=8),
        helper.make_node("Relu", ["v"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "h", "c"], ["y"], name="head"),
    ]
    model = prepare(ir.from_proto(graph(nodes, arrays, ["rows", 3, 8, 8], dtype=np.float32, opset=opset)))
    return onnx.load_from_string(ir.to_proto(model).SerializeToString())


def made(model: onnx.ModelProto, *, reduce_range: bool = False, correct: bool = False):
    """The int8 graph with the extremes of ROWS."""
    seen = observe(model, lambda: [ROWS], with_bins=False)
    found = from_rows(seen, squared_error=False)
    reasons = kept_float(model)
    recipe = Recipe(
        ranges=found.ranges, floats=frozenset(reasons), last=last_linear(model), reduce_range=reduce_range
    )
    written = quantize(model, recipe)
    if correct:
        written = quantize(corrected(model, written, found.means), recipe)
    return written, found, reasons


def answers(model: onnx.ModelProto) -> np.ndarray:
    (output,) = load(model.SerializeToString(), optimised=True)(ROWS).values()
    return output


def test_weights_have_a_scale_for_each_channel_and_answers_stay_float():
    model = small()
    written, _, _ = made(model)
    rounded = rounded_weights(written)
    assert set(rounded) == {"w", "d", "h"}
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, axes in (("w", (1, 2, 3)), ("h", (0,))):
        step = np.abs(exact[name]).max(axis=axes, keepdims=True) / 127
        assert (np.abs(rounded[name] - exact[name]) <= 0.5001 * step).all()
    assert [node.op_type for node in written.graph.node if "y" in node.output] == ["Gemm"]
    assert {opset.domain: opset.version for opset in written.opset_import}[""] == 17


def test_relu6_is_kept():
    """Numbers beyond 6 that rows did not show must not come through."""
    model = small()
    written, found, _ = made(model)
    assert found.ranges["u"] == (0.0, 6.0)
    wide = {"x": 5 * ROWS["x"]}
    clipped, unclipped, int8 = (
        load(each.SerializeToString(), optimised=True)(wide)["y"]
        for each in (model, small(limits=(0.0, 1e9)), written)
    )
    kept, lost = Noise(), Noise()
    kept.add(clipped, int8)
    lost.add(unclipped, int8)
    assert kept.db > lost.db + 3


def test_a_clip_that_cuts_zero_off_stays():
    model = small(limits=(1.0, 3.0))
    written, _, reasons = made(model)
    assert reasons["clip"] == "its limits leave out 0"
    assert "Clip" in [node.op_type for node in written.graph.node]
    noise = Noise()
    noise.add(answers(model), answers(written))
    assert noise.db > 20


def test_corrected_biases_bring_the_mean_back():
    model = small()
    plain, unbiased = made(model)[0], made(model, correct=True)[0]
    exact = answers(model)
    bias = [np.abs((answers(each) - exact).mean(axis=0)).max() for each in (plain, unbiased)]
    assert bias[1] < bias[0]


@pytest.mark.parametrize("reduce_range", [False, True])
def test_adapted_weights_are_nearer_and_on_the_same_steps(reduce_range):
    """Smooth rows: neighbours are alike, so that errors of one weight can be made up for by the next."""
    smooth = CHANCE.normal(size=(64, 1, 8, 8)).cumsum(axis=2).cumsum(axis=3)
    sizes = np.array([4, 1, 1]).reshape(1, 3, 1, 1)  # what is moved to small inputs is moved far
    rows = {"x": (sizes * smooth + CHANCE.normal(size=(64, 3, 8, 8)) / 20).astype(np.float32)}
    model = small(limits=(0.0, 1e9))
    full = next(tensor for tensor in model.graph.initializer if tensor.name == "w")  # all near the limit
    full.CopyFrom(numpy_helper.from_array(CHANCE.uniform(0.9, 1, (8, 3, 3, 3)).astype(np.float32), "w"))
    seen = observe(model, lambda: [rows], with_bins=False)
    found = from_rows(seen, squared_error=False)
    floats = frozenset(kept_float(model))
    recipe = Recipe(ranges=found.ranges, floats=floats, last=last_linear(model), reduce_range=reduce_range)
    plain = quantize(model, recipe)
    integers = adapted(model, plain, [rows])
    assert set(integers) == {"w", "d", "h"}
    better = replace(recipe, integers=integers)
    exact = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer
    }
    nearest, moved = rounded_weights(plain), rounded_weights(quantize(model, better))
    limit = 64 if reduce_range else 127
    patches = np.lib.stride_tricks.sliding_window_view(rows["x"], (3, 3), axis=(2, 3))
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)
    assert max(np.abs(array.astype(int)).max() for array in integers.values()) <= limit
    errors = [((patches - patches.mean(axis=0)) @ (each["w"] - exact["w"]).reshape(8, -1).T).std()
              for each in (nearest, moved)]  # fmt: skip
    assert errors[1] < errors[0] / 1.5
    for name, array in integers.items():
        step = np.abs(exact[name]).max(axis=tuple(range(1, 4)) if name != "h" else 0, keepdims=True) / limit
        assert np.allclose(moved[name], array * step, rtol=1e-5)


def test_weights_stay_where_rows_tell_nothing():
    model = small()
    plain, _, _ = made(model)
    assert set(adapted(model, plain, [{"x": np.full_like(ROWS["x"], np.nan)}])) == set()


def test_an_older_opset_is_raised():
    model = with_opset(small(opset=11))
    assert model.opset_import[0].version == 13
    written, _, _ = made(model)
    noise = Noise()
    noise.add(answers(model), answers(written))
    assert noise.db > 20


def test_every_layer_says_what_it_costs():
    model = small()
    written, found, reasons = made(model)
    noise = layer_noise(model, written, [ROWS])
    layers = layers_of(model, written, reasons, found, noise)
    assert [layer.name for layer in layers] == ["first", "depthwise", "pool", "flatten", "head"]
    assert all(layer.status == "int8" for layer in layers)
    assert (layers[0].low, layers[0].high, layers[0].range_source) == (0.0, 6.0, "rows")
    assert layers[-1].range_source is None, "answers are float"
    assert all(layer.sqnr_db is not None and layer.sqnr_db > 15 for layer in layers)
    assert len(costliest(model, layers, noise)) == 3


def test_golden_answers_and_their_tolerance():
    written, _, _ = made(small())
    outputs, tolerances = golden_answers(written, ROWS, None)
    tolerance = tolerances["y"]
    assert tolerance.step == pytest.approx(last_step(written, "y"))
    assert 0 < tolerance.max_abs < 0.1 * tolerance.output_range
    assert outputs["y"].dtype == np.float32


def test_the_replay_catches_a_cpu_whose_sums_saturate():
    """The negative control: exact sums pass, pairs in 16 bits do not; with weights of 7 bits they do."""
    model = small()
    for reduce_range, passes in ((False, False), (True, True)):
        written, _, _ = made(model, reduce_range=reduce_range)
        outputs, tolerances = golden_answers(written, ROWS, None)
        golden = Golden(inputs=ROWS, outputs={"y": outputs["y"].astype(np.float64)})
        exact, cut = (saturating(written.SerializeToString(), bits) for bits in (32, 16))
        assert measure(exact, golden, ()).excess(tolerances) is None
        assert (measure(cut, golden, ()).excess(tolerances) is None) == passes


def test_the_best_ends_of_a_long_tail_are_inside_of_it():
    seen = Seen()
    numbers = np.concatenate([np.abs(CHANCE.normal(size=20_000)), [40.0]]).reshape(-1, 1)
    for see in (seen.see, seen.spread):
        see(numbers)
    low, high = least_squared_error(seen)
    assert low == 0
    assert high < 40


def comparison(*, same: int, rows: int = 1000, **labelled: int) -> Comparison:
    found = Comparison(classes="y", rows=rows, same=same, **labelled)
    found.noise["y"] = Noise(signal=100.0, error=1.0)
    return found


WORST = [Int8Layer(name="a", op_type="Conv", status="int8", sqnr_db=9.0)]


def test_the_gate_counts_right_answers_where_rows_are_labelled():
    lossy = comparison(same=900, labelled=1000, both=900, only_float32=20, only_int8=10)
    with pytest.raises(Int8Error, match=r"loses 1\.00 points of accuracy, 92\.00 % to 91\.00 % .*'a'"):
        check_accuracy(lossy, Limits(), WORST, is_real=True)
    check_accuracy(lossy, Limits(max_accuracy_drop=1.0), WORST, is_real=True)


def test_the_gate_counts_labels_where_rows_are_real():
    with pytest.raises(Int8Error, match="changes the label of 11 of 1000 rows"):
        check_accuracy(comparison(same=989), Limits(), WORST, is_real=True)
    check_accuracy(comparison(same=990), Limits(), WORST, is_real=True)
    check_accuracy(comparison(same=39, rows=40), Limits(), WORST, is_real=True)  # one row is allowed
    check_accuracy(comparison(same=500), Limits(), WORST, is_real=False)


def test_the_gate_asks_for_15_db_of_made_rows():
    found = comparison(same=1000)
    found.noise["y"] = Noise(signal=10.0, error=1.0)
    with pytest.raises(Int8Error, match=r"SQNR of 10\.0 dB, at least 15"):
        check_accuracy(found, Limits(), WORST, is_real=False)


def test_speed_is_measured_in_turns_and_gated():
    model = small()
    speed = measure_speed(model.SerializeToString(), made(model)[0].SerializeToString(), ROWS, 1)
    assert [one.batch for one in speed] == [1]
    with pytest.raises(Int8Error, match="at least 1000 × is asked"):
        check_speed(speed, Limits(min_speed=1000), [])


def test_what_is_exactly_alike_has_a_finite_sqnr():
    run = load(small().SerializeToString(), optimised=True)
    (found,) = compare(run, [run], of_arrays(ROWS, None, "rows").read(), "y")
    assert found.worst_db == MAX_DB
    assert found.agreement is not None
    assert found.agreement.share == 1


def test_several_graphs_are_compared_in_one_pass_each_with_its_own_noise():
    model = small()
    answer = load(model.SerializeToString(), optimised=True)
    graphs = [made(model, reduce_range=reduced)[0] for reduced in (False, True)]
    batches = list(of_arrays(ROWS, None, "rows").read())
    calls = []

    def exact(rows):
        calls.append(rows)
        return answer(rows)

    runs = [load(graph.SerializeToString(), optimised=True) for graph in graphs]
    both = compare(exact, runs, iter(batches), "y")
    assert len(calls) == len(batches), "float32 answers once"
    apart = [compare(answer, [run], batches, "y")[0] for run in runs]
    assert [one.sqnr_db for one in both] == [one.sqnr_db for one in apart]
    assert both[0].sqnr_db != both[1].sqnr_db
