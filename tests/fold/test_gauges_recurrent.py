"""A BatchNorm in front of an LSTM, GRU or RNN goes into its input weights, exactly and in every direction."""

import io

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.prepare import prepare
from export.sources.trace import trace
from gauge_kit import Net, assert_gone, assert_stays

C, H, STEPS = 4, 3, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SHAPE = ("rows", C, STEPS)
# Float32 sums in another order, relative to answers of size 1.
TOLERANCE = 1e-5


def recurrent(
    net: Net, kind: str, x: str, *, directions: int = 1, bias: bool = True, **attributes: object
) -> str:
    """Steps first, as ONNX has it; returns Y (steps, directions, rows, H)."""
    gates = GATES[kind] * H
    weights = [net.weight(directions, gates, C), net.weight(directions, gates, H)]
    if bias:
        weights.append(net.weight(directions, 2 * gates))
    steps = net.op("Transpose", x, perm=[2, 0, 1])
    more = {"hidden_size": H, **({"direction": "bidirectional"} if directions == 2 else {}), **attributes}
    return net.op(kind, steps, *weights, **more)


def compare(net: Net, *outputs: str) -> None:
    """Before and after in ONNX Runtime, float32: the directions that ONNX's reference lacks are in it."""
    unfolded = prepare(ir.from_proto(as_float32(net, *outputs)))
    model, sites = fold(unfolded)
    assert [site.status for site in sites] == ["folded"], sites
    assert not list(batchnorms(model))
    rows = np.random.default_rng(0).normal(size=(3, C, STEPS)).astype(np.float32)
    before, after = (run(each, rows) for each in (unfolded, model))
    for expected, found in zip(before, after, strict=True):
        assert np.abs(expected - found).max() < TOLERANCE
        assert np.abs(expected).max() > 0.01


def as_float32(net: Net, *outputs: str) -> onnx.ModelProto:
    proto = net.model(SHAPE, *outputs)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float64:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name=tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return proto


def run(model: ir.Model, rows: np.ndarray) -> list[np.ndarray]:
    buffer = io.BytesIO(ir.to_proto(model).SerializeToString())
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: rows})


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_one_direction_is_exact_in_float64(kind, bias):
    net = Net(seed=3)
    assert_gone(net, SHAPE, recurrent(net, kind, net.norm("x", C), bias=bias))


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_every_direction(kind, directions, bias):
    net = Net(seed=5)
    compare(net, recurrent(net, kind, net.norm("x", C), directions=directions, bias=bias))


def test_backwards_and_a_gru_that_resets_before_or_after():
    net = Net(seed=6)
    compare(net, recurrent(net, "LSTM", net.norm("x", C), direction="reverse"))
    for flag in (0, 1):
        net = Net(seed=7)
        compare(net, recurrent(net, "GRU", net.norm("x", C), linear_before_reset=flag))


def test_lengths_and_an_initial_state_change_nothing():
    net = Net(seed=8)
    steps = net.op("Transpose", net.norm("x", C), perm=[2, 0, 1])
    weights = [net.weight(1, 4 * H, C), net.weight(1, 4 * H, H), net.weight(1, 8 * H)]
    lengths = net.constant(np.array([6, 2, 4], np.int32))
    states = [net.weight(1, 3, H), net.weight(1, 3, H)]
    outputs = net.ops("LSTM", 3, steps, *weights, lengths, *states, hidden_size=H)
    compare(net, *outputs)


def test_a_state_that_a_batchnorm_makes_stays_what_it_is():
    """Its input could take a scale, its state cannot."""
    net = Net(seed=9)
    steps = net.op("Transpose", "x", perm=[2, 0, 1])
    first = net.slice(net.norm(net.slice("x", [0], [H], [1]), H), [0], [1], [2])
    state = net.op("Transpose", first, perm=[2, 0, 1])
    weights = [net.weight(1, H, C), net.weight(1, H, H), net.weight(1, 2 * H)]
    found = net.op("RNN", steps, *weights, "", state, hidden_size=H)
    assert_stays(net, SHAPE, found, because="needs its state as it is")


def test_a_batchnorm_after_one_stays():
    net = Net(seed=10)
    found = net.op("Transpose", net.squeeze(recurrent(net, "GRU", "x"), 1), perm=[1, 2, 0])
    assert_stays(net, SHAPE, net.norm(found, H), because="cannot absorb a scale or shift")


class Sequences(nn.Module):
    """As an article has it: BatchNorm over the features, then a recurrent net over the steps."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(C)
        self.net = kind(C, H, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, steps) to the last step's (N, 2·H)."""
        return self.net(self.norm(x).transpose(1, 2))[0][:, -1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_net_of_torch_folds(kind):
    """torch traces its RNN as MatMuls, whose bias is the Add after them."""
    torch.manual_seed(0)
    net = Sequences(kind).eval()
    with torch.no_grad():
        net.norm.weight.uniform_(-1.5, 1.5)
        net.norm.bias.normal_()
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    unfolded = prepare(trace(net, (C, STEPS)))
    model, sites = fold(unfolded)
    assert [site.status for site in sites] == ["folded"], sites
    rows = torch.randn(3, C, STEPS)
    with torch.no_grad():
        expected = net(rows).numpy()
    (found,) = run(model, rows.numpy())
    assert np.abs(expected - found).max() < TOLERANCE
