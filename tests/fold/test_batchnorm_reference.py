"""The NumPy reference beside torch in float64, and the fold beside the reference."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from torch import nn

from batchnorm_reference import BatchNorm, Running, axes_of, population, spread
from export.compute.reference import reference
from export.fold.batchnorm import BatchNorm as Read
from export.fold.batchnorm import read_batchnorm
from export.fold.stages import fold
from export.graph.edit import batchnorms
from export.graph.prepare import prepare
from onnx_graphs import batchnorm, graph

EXACT = 1e-12
MODULES = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
many = settings(max_examples=60)


@dataclass
class Case:
    """Batches of one shape, and a BatchNorm in both worlds."""

    batches: list[np.ndarray]
    dy: np.ndarray
    ours: BatchNorm
    torchs: nn.Module
    momentum: float | None

    @property
    def channels(self) -> int:
        return self.dy.shape[1]


@st.composite
def cases(draw: Callable) -> Case:
    rank = draw(st.integers(2, 4))
    shape = (
        draw(st.integers(1, 6)),
        draw(st.integers(1, 5)),
        *[draw(st.integers(1, 4)) for _ in range(rank - 2)],
    )
    if shape[0] * int(np.prod(shape[2:])) < 2:
        shape = (2, *shape[1:])  # one value has no variance: torch refuses it, see below
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    eps = draw(st.sampled_from([1e-5, 1e-3, 0.1]))
    momentum = draw(st.sampled_from([None, 0.0, 0.01, 0.1, 0.5, 1.0]))
    affine, channels = draw(st.booleans()), shape[1]
    centre, width = random.normal(size=channels), random.uniform(0.1, 3, size=channels)
    batches = [
        spread(centre, np.empty(shape)) + spread(width, np.empty(shape)) * random.normal(size=shape)
        for _ in range(draw(st.integers(1, 4)))
    ]
    module = MODULES[rank](channels, eps=eps, momentum=momentum, affine=affine).double()
    gamma, beta = random.normal(size=(2, channels))
    if affine:
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(gamma))
            module.bias.copy_(torch.from_numpy(beta))
    ours = BatchNorm(eps, gamma, beta) if affine else BatchNorm(eps)
    return Case(batches, random.normal(size=shape), ours, module, momentum)


def train_both(case: Case) -> tuple[Running, list[np.ndarray], list[np.ndarray]]:
    """Feed all batches in train mode; running averages, our answers, torch's answers."""
    running = Running(np.zeros(case.channels), np.ones(case.channels))
    ours, torchs = [], []
    case.torchs.train()
    for x in case.batches:
        ours.append(case.ours.forward(x, *population(x)))
        torchs.append(case.torchs(torch.from_numpy(x)).detach().numpy())
        running = running.after(x, case.momentum)
    return running, ours, torchs


def assert_close(found: np.ndarray, expected: np.ndarray, size: float = 1.0) -> None:
    """Within 1e-12 of `size`, the largest number that went into it."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= EXACT * max(size, 1.0)


def gradients(case: Case, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Torch's dx, dγ, dβ in the mode in which the module is."""
    rows = torch.from_numpy(x).requires_grad_()
    case.torchs.zero_grad()
    case.torchs(rows).backward(torch.from_numpy(case.dy))
    learnt = [parameter.grad.numpy() for parameter in case.torchs.parameters()]
    return rows.grad.numpy(), *learnt


@many
@given(cases())
def test_train_mode_and_the_running_averages_are_torchs(case):
    running, ours, torchs = train_both(case)
    for found, expected in zip(ours, torchs, strict=True):
        assert_close(found, expected)
    assert_close(running.mean, case.torchs.running_mean.numpy())
    assert_close(running.variance, case.torchs.running_var.numpy())
    assert running.steps == case.torchs.num_batches_tracked


@many
@given(cases())
def test_the_gradients_of_train_mode_are_torchs(case):
    x = case.batches[0]
    ours = case.ours.backward_train(x, case.dy)
    torchs = gradients(case, x)
    largest = np.abs(
        case.ours.scale_and_shift(np.zeros(case.channels), x.var((0, *range(2, x.ndim))))[0]
    ).max()
    assert_close(ours[0], torchs[0], size=float(largest * np.abs(case.dy).max()))
    for found, expected in zip(ours[1:], torchs[1:], strict=False):
        assert_close(found, expected, size=float(np.abs(case.dy).sum()))
    assert len(torchs) == (3 if case.ours.gamma is not None else 1)


@many
@given(cases())
def test_eval_mode_forward_and_backward_are_torchs(case):
    running, _, _ = train_both(case)
    case.torchs.eval()
    x = case.batches[0]
    size = float(np.abs(case.ours.scale_and_shift(running.mean, running.variance)[0]).max() * 10)
    y = case.ours.forward(x, running.mean, running.variance)
    assert_close(y, case.torchs(torch.from_numpy(x)).detach().numpy(), size)
    torchs = gradients(case, x)
    ours = case.ours.backward_eval(x, case.dy, running.mean, running.variance)
    for found, expected in zip(ours, torchs, strict=False):
        assert_close(found, expected, size=size * float(np.abs(case.dy).sum()))
    scale, shift = case.ours.scale_and_shift(running.mean, running.variance)
    assert_close(spread(scale, x) * x + spread(shift, x), y, size)


@many
@given(cases())
def test_in_train_mode_no_gradient_reaches_the_mean_or_the_size_of_a_channel(case):
    """Σ dx = 0, and Σ dx·x̂ = 0 but for ε: what the batch's own statistics take away again."""
    x = case.batches[0]
    mean, variance = population(x)
    dx, dgamma, _ = case.ours.backward_train(x, case.dy)
    scale, _ = case.ours.scale_and_shift(mean, variance)
    size = float(np.abs(scale).max() * np.abs(case.dy).sum())
    assert_close(dx.sum(axes_of(x)), np.zeros(case.channels), size)
    of_eps = scale * dgamma * case.ours.eps / (variance + case.ours.eps)
    assert_close((dx * case.ours.normalise(x, mean, variance)).sum(axes_of(x)), of_eps, size)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
def test_one_value_a_channel_has_no_variance(shape):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        MODULES[len(shape)](3).train()(torch.zeros(shape))
    ours = BatchNorm(1e-5)
    x = np.random.default_rng(0).normal(size=shape)
    assert not ours.forward(x, *population(x)).any(), "whatever comes in, 0"


def trained(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[BatchNorm, Running]:
    """Some steps of training in NumPy alone: γ of both signs."""
    channels = shape[1]
    eps = float(np.float32(1e-5))  # as an ONNX file holds it
    norm = BatchNorm(eps, random.normal(size=channels), random.normal(size=channels))
    running = Running(np.zeros(channels), np.ones(channels))
    for _ in range(5):
        running = running.after(random.normal(1, 2, size=shape), momentum=0.3)
    return norm, running


def as_arrays(norm: BatchNorm, running: Running) -> dict[str, np.ndarray]:
    return {
        "bn.gamma": norm.gamma,
        "bn.beta": norm.beta,
        "bn.mean": running.mean,
        "bn.var": running.variance,
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_scale_and_shift_that_folds_use_are_the_references(seed):
    norm, running = trained(np.random.default_rng(seed), (8, 5, 3))
    proto = graph([batchnorm("x", "y")], as_arrays(norm, running), ["rows", 5, 3])
    (node,) = batchnorms(prepare(ir.from_proto(proto)))
    read = read_batchnorm(node)
    assert isinstance(read, Read)
    scale, shift = norm.scale_and_shift(running.mean, running.variance)
    assert_close(read.scale, scale)
    assert_close(read.shift, shift)


@pytest.mark.parametrize("order", ["conv, bn", "bn, conv"])
@pytest.mark.parametrize("seed", range(3))
def test_a_folded_conv_answers_as_the_reference_does(order, seed):
    """The oracle is NumPy's: a 1×1 Conv is a matrix product, and BatchNorm is this file's."""
    random = np.random.default_rng(seed)
    x, weight, bias = random.normal(size=(4, 6, 3, 2)), random.normal(size=(5, 6)), random.normal(size=5)
    channels = 5 if order == "conv, bn" else 6
    norm, running = trained(random, (8, channels, 3, 2))

    def conv(rows: np.ndarray) -> np.ndarray:
        return np.einsum("oc,nchw->nohw", weight, rows) + spread(bias, rows)

    def normalise(rows: np.ndarray) -> np.ndarray:
        return norm.forward(rows, running.mean, running.variance)

    if order == "conv, bn":
        truth = normalise(conv(x))
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv"), batchnorm("h", "y")]
    else:
        truth = conv(normalise(x))
        nodes = [batchnorm("x", "h"), helper.make_node("Conv", ["h", "w", "b"], ["y"], name="conv")]
    arrays = {"w": weight[:, :, None, None], "b": bias, **as_arrays(norm, running)}
    folded, (site,) = fold(prepare(ir.from_proto(graph(nodes, arrays, ["rows", 6, 3, 2]))))
    assert site.status == "folded"
    assert [node.op_type for node in folded.graph] == ["Conv"]
    (answer,) = reference(folded).run(None, {"x": x})
    assert_close(answer, truth, size=float(np.abs(truth).max()))
