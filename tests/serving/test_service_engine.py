"""The engine alone: padding stays inside, the proof catches what it must, errors are sentences."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from service.contract.bundle import open_bundle
from service.engine.engine import EngineConfig, load_engine
from service.engine.session import EngineError, has_cuda
from service.errors import ModelFailed
from tiny_nets import TinyNet, busy_net, digits_net, echo_net, log_net, nudged, pair_net, write_bundle

CPU = EngineConfig(device="cpu", buckets=(1, 4, 16))


def engine_of(folder: Path, net: TinyNet, graph: bytes | None = None, config: EngineConfig = CPU):
    return load_engine(open_bundle(write_bundle(folder / "bundle", net, graph=graph)), config)


def test_a_graph_with_a_loop_never_runs_on_the_event_loop(tmp_path: Path) -> None:
    """What its run takes depends on the rows: 400 quick ones say nothing of the next."""
    assert not engine_of(tmp_path / "busy", busy_net()).may_run_inline
    assert engine_of(tmp_path / "digits", digits_net()).may_run_inline


@pytest.mark.parametrize("num_rows", [1, 2, 4, 5, 16])
def test_case_19_padded_rows_never_come_back(tmp_path: Path, num_rows: int) -> None:
    net = digits_net()
    engine = engine_of(tmp_path, net)
    engine.run(0, [net.rows(16, seed=9)])  # leaves its rows in the buffer
    rows = net.rows(num_rows, seed=1)
    singly = [{"input": rows["input"][index : index + 1]} for index in range(num_rows)]
    for jobs in ([rows], singly):
        answers = engine.run(0, jobs).answers
        assert answers["logits"].shape == (num_rows, 10)
        np.testing.assert_allclose(answers["logits"], net.truth(rows)["logits"], atol=1e-4)


def test_a_bucket_is_the_smallest_that_holds(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, digits_net())
    assert [engine.bucket(num_rows) for num_rows in (1, 2, 4, 5, 16)] == [1, 4, 4, 16, 16]


def test_answers_do_not_change_when_the_buffers_are_used_again(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, echo_net("float32"))
    first = engine.run(0, [{"x": np.ones((2, 3), np.float32)}]).answers["y"]
    engine.run(0, [{"x": np.zeros((2, 3), np.float32)}])
    assert first.tolist() == [[1, 1, 1]] * 2


def test_padding_is_zeros_not_somebody_elses_rows(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, echo_net("float32"))
    engine.run(0, [{"x": np.full((16, 3), 7, np.float32)}])
    engine.run(0, [{"x": np.ones((2, 3), np.float32)}])
    assert engine._buffers[0]._inputs["x"][:4, 0].tolist() == [1, 1, 0, 0]


def test_two_inputs_are_gathered_in_step(tmp_path: Path) -> None:
    net = pair_net()
    rows = net.rows(3, seed=1)
    engine = engine_of(tmp_path, net)
    jobs = [{name: array[index : index + 1] for name, array in rows.items()} for index in range(3)]
    np.testing.assert_allclose(engine.run(0, jobs).answers["product"], net.truth(rows)["product"], rtol=1e-6)


def test_the_proof_covers_every_bucket(tmp_path: Path) -> None:
    parity = engine_of(tmp_path, digits_net()).parity
    assert parity is not None
    assert list(parity.buckets) == [1, 4, 16]
    assert 0 < parity.worst["logits"] < 1e-4


def test_one_weight_nudged_by_one_percent_fails_the_proof(tmp_path: Path) -> None:
    net = digits_net()
    with pytest.raises(EngineError, match="output 'logits' differs from its golden answers by"):
        engine_of(tmp_path, net, nudged(net))


def test_rows_that_depend_on_their_neighbours_fail_the_proof(tmp_path: Path) -> None:
    net = echo_net("float32")
    net.nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    net.weights = {"axes": np.array([0])}
    net.truth = lambda rows: {"y": rows["x"] - rows["x"].astype(np.float64).mean(axis=0)}
    with pytest.raises(EngineError, match="differs"):
        engine_of(tmp_path, net)


def test_answers_that_are_not_finite_fail_the_proof(tmp_path: Path) -> None:
    net = log_net()
    net.nodes = [helper.make_node("Log", ["minus"], ["y"]), helper.make_node("Neg", ["x"], ["minus"])][::-1]
    with pytest.raises(EngineError, match="by inf"):
        engine_of(tmp_path, net)


def renamed(net: TinyNet, change: str) -> bytes:
    model = onnx.load_from_string(net.graph())
    value = model.graph.input[0]
    if change == "name":
        value.name = model.graph.node[0].input[0] = "other"
    elif change == "fixed rows":
        value.type.tensor_type.shape.dim[0].dim_value = 4
    elif change == "dtype":
        for tensor in (value, model.graph.output[0]):
            tensor.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    else:
        for tensor in (value, model.graph.output[0]):
            tensor.type.tensor_type.shape.dim[1].dim_value = 5
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name", r"inputs are \['other'\], the manifest says \['x'\]"),
        ("fixed rows", r"input 'x' is float32 \[4, 3\]"),
        ("dtype", "input 'x' is float64"),
        ("shape", r"\['rows', 5\], the manifest says float32 \[None, 3\]"),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(tmp_path: Path, change: str, message: str) -> None:
    net = echo_net("float32")
    with pytest.raises(EngineError, match=message):
        engine_of(tmp_path, net, renamed(net, change))


def test_case_26_garbage_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot load model.onnx") as refused:
        engine_of(tmp_path, digits_net(), b"garbage" * 1000)
    assert "\n" not in str(refused.value)


def test_a_run_that_fails_is_one_sentence(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, digits_net())
    engine._buffers[0]._inputs["input"] = np.zeros((16, 1, 28, 27), np.float32)
    engine._buffers[0]._bindings.clear()
    with pytest.raises(ModelFailed, match="the model failed: ") as failed:
        engine.run(0, [{"input": np.zeros((1, 1, 28, 27), np.float32)}])
    assert "\n" not in str(failed.value)


@pytest.mark.skipif(has_cuda(), reason="this build of ONNX Runtime has a CUDA provider")
def test_case_37_cuda_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="device cuda was asked for, but"):
        engine_of(tmp_path, digits_net(), config=EngineConfig(device="cuda"))
    assert (
        engine_of(tmp_path / "auto", digits_net(), config=EngineConfig()).provider == "CPUExecutionProvider"
    )


@pytest.mark.parametrize("buckets", [(), (0, 1), (2, 1), (1, 1)])
def test_wrong_buckets_are_refused(buckets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="buckets must be ascending"):
        EngineConfig(buckets=buckets)
