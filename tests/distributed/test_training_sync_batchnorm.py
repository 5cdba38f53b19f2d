"""BatchNorm over processes: what one process computes on the whole batch, forward, backward and running."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.nn import functional

from batchnorm_reference import BatchNorm, Running
from distributed_kit import Everywhere
from training.batchnorm.sync import synchronised

EXACT = 1e-12
KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def step(net: nn.Module, shares: list[tuple[Tensor, Tensor]], device: str = "cpu") -> dict[str, Tensor]:
    """One process's part: y and dx of its own share (x, dy), its gradients, and the buffers it ends with."""
    x, dy = (part.to(device) for part in shares[distributed.get_rank()])
    net.to(device)
    x.requires_grad_()
    with synchronised(net):
        y = net(x)
        y.backward(dy)
    found = {
        "y": y.detach(),
        "dx": x.grad,
        **{f"d{name}": parameter.grad for name, parameter in net.named_parameters()},
        **dict(net.named_buffers()),
    }
    return {name: value.cpu() for name, value in found.items()}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm_of(x: Tensor, **options: Any) -> nn.Module:
    norm = KINDS[x.ndim](x.shape[1], dtype=x.dtype, **options)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(draw(x.shape[1], seed=1))
            norm.bias.copy_(draw(x.shape[1], seed=2))
    return norm


def cut(rows: list[int], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Each process's share of every tensor."""
    return list(zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True))


def close(found: Tensor, expected: np.ndarray, bound: float = EXACT) -> bool:
    return bool(np.abs(found.numpy() - expected).max() <= bound * max(1, np.abs(expected).max()))


def check(everywhere: Everywhere, x: Tensor, rows: list[int], device: str = "cpu", **options: Any) -> None:
    """Every process's answers against the reference on the whole batch."""
    norm, dy = norm_of(x, **options), draw(*x.shape, seed=3)
    answers = everywhere(step, norm, cut(rows, x, dy), device)
    affine = norm.affine
    reference = BatchNorm(
        eps=norm.eps,
        gamma=norm.weight.detach().numpy() if affine else None,
        beta=norm.bias.detach().numpy() if affine else None,
    )
    whole = x.numpy()
    axes = (0, *range(2, x.ndim))
    y = reference.forward(whole, whole.mean(axes), whole.var(axes))
    dx, dgamma, dbeta = reference.backward_train(whole, dy.numpy())
    assert close(torch.cat([answer["y"] for answer in answers]), y)
    assert close(torch.cat([answer["dx"] for answer in answers]), dx)
    if affine:
        assert close(sum(answer["dweight"] for answer in answers), dgamma)
        assert close(sum(answer["dbias"] for answer in answers), dbeta)
    if norm.track_running_stats:
        channels = x.shape[1]
        running = Running(np.zeros(channels), np.ones(channels)).after(whole, norm.momentum)
        for answer in answers:
            assert close(answer["running_mean"], running.mean)
            assert close(answer["running_var"], running.variance)
            assert answer["num_batches_tracked"] == 1


@pytest.mark.parametrize("inner", [(), (5,), (3, 4), (2, 3, 2)], ids=["NC", "NCL", "NCHW", "NCDHW"])
@pytest.mark.parametrize("rows", [[4, 4], [1, 6]], ids=["equal", "unequal"])
def test_two_processes_compute_what_one_does(two, inner, rows):
    check(two, draw(sum(rows), 3, *inner) * 2 + 5, rows)


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}], ids=str
)
def test_with_every_option_of_a_batchnorm(two, options):
    check(two, draw(7, 3, 4, 4) + 1, [2, 5], **options)


@settings(max_examples=40)
@given(
    rows=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    channels=st.integers(1, 4),
    inner=st.lists(st.integers(1, 4), max_size=3),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 1.0, -30.0]),
)
def test_three_processes_with_shares_of_any_size(three, rows, channels, inner, seed, offset):
    check(three, draw(sum(rows), channels, *inner, seed=seed) + offset, rows)


def test_each_process_alone_would_normalise_otherwise(two):
    """The negative control: without `synchronised` these tests would fail."""
    x = draw(8, 3, 4, 4)
    answers = two(step, norm_of(x), cut([4, 4], x, x))
    assert (answers[0]["y"] - norm_of(x)(x[:4]).detach()).abs().max() > 0.1


# float32: sums of 8 · 16 = 128 terms, each rounded by half an ulp: 128 · 6e-8 < 1e-5, for values of order 1.
# bfloat16 keeps 8 bits: y and dx, up to 8, are rounded by half an ulp at most, 2⁻⁶ = 0.016.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.016)], ids=str)
def test_in_other_number_formats(two, dtype, bound):
    x, dy = draw(8, 3, 4, 4, dtype=dtype), draw(8, 3, 4, 4, seed=3, dtype=dtype)
    answers = two(step, norm_of(x.float()), cut([3, 5], x, dy))
    plain, wide = norm_of(x.double()), x.double().requires_grad_()
    y = plain(wide)
    y.backward(dy.double())
    for name, expected in (("y", y.detach()), ("dx", wide.grad)):
        found = torch.cat([answer[name] for answer in answers])
        assert found.dtype == dtype
        assert (found.double() - expected).abs().max() <= bound
    assert answers[0]["running_var"].dtype == torch.float32
    assert close(answers[0]["running_var"], plain.running_var.numpy(), 1e-5)


class BatchNormAct(nn.BatchNorm2d):
    """A subclass with a forward of its own, in the way of timm's."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.3, self.eps
        )
        return functional.leaky_relu(y, 0.1)


def test_what_a_subclass_adds_stays(two):
    x = draw(6, 3, 2, 2)
    norm = BatchNormAct(3, dtype=torch.float64)
    answers = two(step, norm, cut([2, 4], x, x))
    assert close(torch.cat([answer["y"] for answer in answers]), norm(x).detach().numpy())
    assert close(answers[0]["running_var"], norm.running_var.numpy())


def test_one_value_in_each_process_is_enough_but_not_one_in_all(two):
    check(two, draw(2, 3), [1, 1])
    with pytest.raises(ValueError, match="BatchNorm needs more than 1 value per channel"):
        two(step, nn.BatchNorm1d(3).double(), cut([1, 0], draw(1, 3), draw(1, 3)))


def first_layer(rows: Tensor) -> Tensor:
    """γ's gradient where nothing before the BatchNorm wants one, so that no message goes back."""
    norm, own = norm_of(rows), rows[distributed.get_rank() :: 2]
    with synchronised(norm):
        (norm(own) * own).sum().backward()
    return norm.weight.grad


def test_a_batchnorm_as_first_layer_learns(two):
    rows = draw(8, 3)
    plain = norm_of(rows)
    (plain(rows) * rows).sum().backward()
    assert close(sum(two(first_layer, rows)), plain.weight.grad.numpy())


def answers_of(net: nn.Module, rows: Tensor) -> dict[str, Any]:
    own, found = rows[distributed.get_rank() :: 2], {}
    with synchronised(net):
        found["keys"], found["repr"] = list(net.state_dict()), repr(net)
        found["eval"] = net.eval()(own)
        net.train()[0].eval()
        found["frozen"] = net[0](own)
    found["after"] = net.train()[1](own)
    found["classes"] = [type(module) for module in net.modules()]
    return found


def test_only_train_mode_is_exchanged_and_only_while_it_lasts(two):
    without_running = nn.BatchNorm1d(3, track_running_stats=False)  # normalises by its rows in eval mode too
    net, rows = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), without_running).double(), draw(8, 3)
    net(rows * 3 + 1)  # statistics worth keeping
    for rank, found in enumerate(two(answers_of, net, rows)):
        own = rows[rank::2]
        assert found["keys"] == list(net.state_dict())
        assert found["repr"] == repr(net)
        assert found["classes"] == [type(module) for module in net.modules()]
        assert close(found["eval"].detach(), net.eval()(own).detach().numpy())
        assert torch.equal(found["frozen"], net[0](own))
        assert torch.equal(found["after"], nn.BatchNorm1d(3).double()(own))


def compiled_step(net: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
    own = rows[distributed.get_rank() :: 2]
    with synchronised(net):
        y = torch.compile(net, backend="eager")(own)
        (y * own).sum().backward()
    return y.detach(), net[0].weight.grad


def test_a_compiled_net_is_synchronised_too(two):
    rows = draw(8, 3)
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()).double()
    y = net(rows)
    (y * rows).sum().backward()
    expected, net[0].weight.grad = net[0].weight.grad, None
    answers = two(compiled_step, net, rows)
    for rank, (found, _) in enumerate(answers):
        assert close(found, y[rank::2].detach().numpy())
    assert close(sum(gradient for _, gradient in answers), expected.numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch has no CUDA device")
@pytest.mark.parametrize("inner", [(), (5,), (3, 4)], ids=["NC", "NCL", "NCHW"])
def test_two_processes_on_a_gpu_compute_what_one_does(two, inner):
    """They share one GPU, over gloo: NCCL wants a GPU for each."""
    check(two, draw(7, 3, *inner) * 2 + 5, [1, 6], device="cuda")
