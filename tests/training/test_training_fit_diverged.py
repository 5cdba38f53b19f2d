"""A non-finite loss: no step is taken after it, and the sentence says where it came from."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fit_kit import few_digits, fresh_net
from training.loop.diagnosis import DivergedError, check_published, describe_origin
from training.loop.fit import fit
from training.loop.loss_watch import CHECK_EVERY, LossWatch
from training.loop.precision import Precision
from training.settings.config import FitConfig

FEW = few_digits()  # 334 rows make 10 steps of 32, or 41 of 8


class BreaksAt(nn.Module):
    """Answers with inf in one call of train mode, and remembers its weights from before each call."""

    def __init__(self, net: nn.Module, call: int) -> None:
        super().__init__()
        self.net, self.call, self.calls = net, call, 0
        self.before: list[dict[str, Tensor]] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.calls += self.training
        self.before.append({name: value.detach().clone() for name, value in self.net.named_parameters()})
        return self.net(rows) * (math.inf if self.calls == self.call else 1)


@pytest.mark.parametrize(("batch_size", "call"), [(32, 13), (8, 1), (8, CHECK_EVERY), (8, 20), (8, 41)])
def test_no_step_is_taken_after_a_non_finite_loss(batch_size, call):
    net = BreaksAt(fresh_net(FEW), call)
    epochs = fit(net, FEW, FitConfig(epochs=2, batch_size=batch_size))
    with pytest.raises(DivergedError, match=rf"the loss became (nan|inf) at step {call - 1}: "):
        list(epochs)
    # Steps after it were begun, for the host checks every few steps only; none of them moved a weight.
    evaluations = 1 if call > 10 and batch_size == 32 else 0
    at_fault = net.before[call - 1 + evaluations]
    for name, parameter in net.net.named_parameters():
        assert torch.equal(parameter, at_fault[name]), name
    moved = net.before[0] if call > 1 else None
    assert moved is None or any(not torch.equal(moved[name], value) for name, value in at_fault.items())


def test_the_first_non_finite_loss_is_found_wherever_it_is():
    for lost in (math.nan, math.inf, -math.inf):
        watch = LossWatch(5, torch.device("cpu"))
        logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
        stops = [
            watch.add(index, torch.tensor(loss), logits, labels).item()
            for index, loss in enumerate([1.0, 2.0, lost, math.inf, 1.0])
        ]
        assert stops == [0, 0, 1, 1, 1]
        found = watch.find_non_finite()
        assert found is not None
        assert (found.index, str(found.loss)) == (2, str(lost))
        assert (watch.num_right, watch.num_rows) == (10, 15)


def test_a_watch_that_saw_only_finite_losses_finds_nothing():
    watch = LossWatch(2, torch.device("cpu"))
    for index, loss in enumerate((1e38, 3e38)):
        assert watch.add(index, torch.tensor(loss), torch.eye(2), torch.tensor([0, 0])) == 0
    assert watch.find_non_finite() is None
    assert watch.mean_loss() == pytest.approx(2e38)


def sentence_of(net: nn.Module, split=FEW, **settings) -> str:
    with pytest.raises(DivergedError) as caught:
        list(fit(net, split, FitConfig(epochs=2, batch_size=32, **settings)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_exploding_layer_is_named_by_the_statistic_that_it_ruins():
    net = fresh_net(FEW)
    with torch.no_grad():
        net.blocks[4].weight.mul_(1e38)
    told = sentence_of(net)
    assert "at step 0: the first non-finite statistic is the batch" in told
    assert "of blocks.5 (BatchNorm2d)" in told


def test_a_variance_that_overflows_is_named_where_the_mean_does_not():
    """2⁸⁰ is a number in float32, its square is none; float64 sums of a float32 BatchNorm would hide it."""
    net = fresh_net(FEW)
    with torch.no_grad():
        net.head[0].weight.mul_(2.0**80)
    rows = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    told = describe_origin(net, rows, Precision("float32", torch.device("cpu")))
    assert told == "the first non-finite statistic is the batch variance of head.1 (BatchNorm1d), inf"


def test_without_batchnorm_the_first_layer_with_a_non_finite_output_is_named():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))
    with torch.no_grad():
        net[1].weight.fill_(3e38)
    told = sentence_of(net)
    assert "the first layer with a non-finite output is 1 (Linear), " in told
    assert "try a learning rate below 0.1 or --clip-gradient 1" in told


def test_a_far_too_large_learning_rate_says_what_to_try():
    told = sentence_of(fresh_net(FEW), learning_rate=1e30)
    assert "try a learning rate below 1e+30 or --clip-gradient 1" in told
    assert "--clip-gradient" not in sentence_of(fresh_net(FEW), learning_rate=1e30, clip_gradient=1e30)


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_non_finite_pixels_are_said_to_come_from_the_data(lost):
    pixels = FEW.train_pixels.float()
    pixels[17, 0, 3, 3] = lost
    told = sentence_of(fresh_net(FEW), replace(FEW, train_pixels=pixels), augment="none")
    assert f"the rows of its batch already hold {lost}, so the cause is in the data" in told


def test_non_finite_weights_are_named_before_any_layer():
    net = fresh_net(FEW)
    with torch.no_grad():
        net.head[3].bias[2] = math.nan
    assert "at step 0: the step before left nan in head.3.bias" in sentence_of(net)


def test_the_rows_run_once_more_as_in_training():
    """In eval mode nothing would have shrunk the first block's answers, and the second's would overflow."""
    net = fresh_net(FEW)
    with torch.no_grad():
        for layer in (net.blocks[0], net.blocks[4]):
            layer.weight.mul_(1e15)
    rows = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    told = describe_origin(net.eval(), rows, Precision("float32", torch.device("cpu")))
    assert told == "the output of every layer is finite, but too large for a loss"


def test_a_net_that_is_fine_but_for_its_size_is_said_to_be_so():
    rows = torch.zeros(4, 1, 28, 28)
    told = describe_origin(fresh_net(FEW), rows, Precision("float32", torch.device("cpu")))
    assert told == "the output of every layer is finite, but too large for a loss"


def test_nothing_is_published_that_holds_non_finite_values():
    net = fresh_net(FEW)
    check_published(net, 1.0, 9)
    with pytest.raises(DivergedError, match="after step 9 the held-out loss is nan"):
        check_published(net, math.nan, 9)
    for name in ("head.3.weight", "blocks.1.running_var"):
        broken = copy.deepcopy(net)
        broken.state_dict()[name].view(-1)[0] = math.inf
        with pytest.raises(DivergedError, match=f"step 9 left inf in {name}"):
            check_published(broken, 1.0, 9)


def test_a_last_step_that_ruins_the_weights_is_not_published():
    """Its own loss was finite, and no other loss follows."""

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad * math.inf

    class RuinsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = fresh_net(FEW), 0

        def forward(self, rows: Tensor) -> Tensor:
            self.calls += self.training
            answers = self.net(rows)
            return Overflow.apply(answers) if self.calls == 10 else answers

    with pytest.raises(DivergedError, match="step 9 left nan in net"):
        next(fit(RuinsLast(), FEW, FitConfig(epochs=1, batch_size=32)))
