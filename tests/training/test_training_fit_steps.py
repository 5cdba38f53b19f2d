"""What a step is made of: its learning rate, decay, clipping; and the average of the weights."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fit_kit import few_digits, fresh_net
from training.batchnorm.statistics import SMALLEST_GAMMA, find_batchnorms
from training.loop.evaluate import cross_entropy
from training.loop.fit import fit
from training.loop.optimize import build_optimizer, restore_optimizer, schedule, set_learning_rate
from training.loop.precision import Precision
from training.loop.published import WeightAverage
from training.settings.config import SCHEDULES, ConfigError, FitConfig

CPU = torch.device("cpu")
FEW = few_digits()


def test_one_cycle_climbs_to_its_peak_and_comes_down_to_nothing():
    rates = [schedule(step, 1000, 0.4) for step in range(1000)]
    top = rates.index(max(rates))
    assert 249 <= top <= 250
    assert 0.99 * 0.4 < max(rates) <= 0.4
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    # No jump: the climb, 0.4 in 250 steps, is its steepest part.
    assert max(abs(later - earlier) for earlier, later in pairwise(rates)) < 0.4 / 250 + 1e-12
    assert rates[0] < 0.4 / 250
    assert 0 < rates[-1] < 0.4 / 1e5


def test_cosine_comes_down_from_its_peak_and_its_halves_mirror_each_other():
    rates = [schedule(step, 1000, 0.4, "cosine") for step in range(1000)]
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[0] == pytest.approx(0.4, rel=1e-5)
    assert all(
        early + late == pytest.approx(0.4, abs=1e-15)
        for early, late in zip(rates, reversed(rates), strict=True)
    )


def test_each_schedule_has_its_name_and_is_what_the_loop_runs():
    last = {}
    for name in SCHEDULES:
        config = FitConfig(epochs=2, batch_size=32, learning_rate=0.05, schedule=name)
        *_, epoch = fit(fresh_net(FEW), FEW, config)
        last[name] = epoch.facts
        assert epoch.facts.learning_rate == schedule(19, 20, 0.05, name)
    assert last["cosine"].train_loss != last["one-cycle"].train_loss


def test_weight_decay_spares_biases_and_what_batchnorm_learns():
    net = fresh_net(FEW)
    decayed, spared = build_optimizer(net, FitConfig(weight_decay=0.01)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "blocks.0.weight",
        "blocks.4.weight",
        "head.0.weight",
        "head.3.weight",
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def plain_nesterov(values: list[Tensor], grads: list[list[Tensor]], config: FitConfig, rate: float) -> None:
    """The formulas of optimize.py, by hand."""
    velocities = [torch.zeros_like(value) for value in values]
    for step in grads:
        for value, velocity, grad in zip(values, velocities, step, strict=True):
            g = grad + (config.weight_decay if value.ndim > 1 else 0.0) * value
            velocity.mul_(config.momentum).add_(g)
            value.sub_(rate * (g + config.momentum * velocity))


def test_steps_follow_the_formulas_and_go_on_from_saved_momenta():
    chance = torch.Generator().manual_seed(0)
    config = FitConfig(momentum=0.8, weight_decay=0.05)
    net = fresh_net(FEW).double().to(memory_format=torch.channels_last)
    expected = [value.detach().clone() for value in net.parameters()]
    grads = [
        [torch.randn(value.shape, dtype=torch.float64, generator=chance) for value in expected]
        for _ in range(4)
    ]
    plain_nesterov(expected, grads, config, 0.3)
    optimizer = build_optimizer(net, config)
    for index, step in enumerate(grads):
        if index == 2:  # saved and loaded in another layout, as a checkpoint does
            state = optimizer.state_dict()
            for entry in state["state"].values():
                entry["momentum_buffer"] = entry["momentum_buffer"].contiguous()
            optimizer = build_optimizer(net, config)
            restore_optimizer(optimizer, state)
        for parameter, grad in zip(net.parameters(), step, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(grad)
        set_learning_rate(optimizer, 0.3)
        optimizer.step()
    for parameter, value in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, value, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("clip", [0.0, 0.01, 1e9])
def test_a_gradient_is_clipped_over_all_weights_at_once(clip):
    net = fresh_net(FEW)
    moved = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, fused=True)
    rows = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    loss = cross_entropy(net(rows), torch.arange(20) % 10)
    precision = Precision("float32", CPU)
    precision.backward(loss)
    precision.step(optimizer, torch.zeros(()), net, clip)
    steps = [
        (before - after).detach().flatten()
        for before, after in zip(moved.parameters(), net.parameters(), strict=True)
    ]
    length = torch.cat(steps).norm().item()
    if clip == 0.01:
        assert length == pytest.approx(clip, rel=1e-3)
    else:
        assert length > 0.1


def test_stop_holds_every_weight_where_it_is():
    net = fresh_net(FEW)
    optimizer = build_optimizer(net, FitConfig())
    before = copy.deepcopy(net.state_dict())
    for stop in (1.0, 0.0):
        loss = net(torch.ones(4, 1, 28, 28)).sum()
        names = [name for name, _ in net.named_parameters()]
        precision = Precision("float32", CPU)
        optimizer.zero_grad()
        precision.backward(loss)
        precision.step(optimizer, torch.tensor(stop), net, 0.0)
        after = net.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in names) == (stop == 1.0)


@given(
    logits=st.lists(st.floats(-30, 30), min_size=4, max_size=4),
    label=st.integers(0, 3),
    smoothing=st.floats(0, 0.99),
)
@settings(max_examples=50)
def test_label_smoothing_is_a_mixture_with_the_mean_over_classes(logits, label, smoothing):
    row = torch.tensor([logits], dtype=torch.float64)
    log_p = functional.log_softmax(row, 1)[0]
    expected = -((1 - smoothing) * log_p[label] + smoothing * log_p.mean()).item()
    # 64-bit sums of numbers up to 60, with 4 terms
    assert cross_entropy(row, torch.tensor([label]), smoothing).item() == pytest.approx(expected, abs=1e-13)


def test_losses_are_computed_in_float32_at_least():
    logits = torch.tensor([[8.0, -8.0]])
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert cross_entropy(logits.to(dtype), torch.tensor([0])).dtype == expected


def test_the_average_is_that_of_the_formula_and_forgets_its_beginning():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average, expected = WeightAverage(net, 0.95), net[0].weight.detach().clone()
    chance = torch.Generator().manual_seed(0)
    for step in range(300):
        with torch.no_grad():
            net[0].weight.normal_(5, 1, generator=chance)
            net[1].running_var.fill_(5.0)
            net[1].num_batches_tracked.fill_(step)
        average.update(net, step)
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[0].weight.detach()
    torch.testing.assert_close(average.net[0].weight, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(average.net[1].running_var, torch.full((2,), 5.0).double())
    assert average.net[1].num_batches_tracked == 299
    assert not average.net.training
    assert not any(parameter.requires_grad for parameter in average.net.parameters())


def test_the_average_is_what_is_measured_and_published_and_is_steadier():
    config = FitConfig(epochs=3, batch_size=32, learning_rate=0.3, schedule="cosine")
    averaged = replace(config, ema=0.95)
    nets = [fresh_net(FEW), fresh_net(FEW)]
    plain, ours = (list(fit(net, FEW, one)) for net, one in zip(nets, (config, averaged), strict=True))
    assert plain[-1].net is nets[0]
    assert ours[-1].net is not nets[1]
    assert [epoch.facts.train_loss for epoch in ours] == [epoch.facts.train_loss for epoch in plain]
    assert ours[-1].facts.held_out_loss != plain[-1].facts.held_out_loss
    assert all(torch.equal(nets[0].state_dict()[key], value) for key, value in ours[-1].state.weights.items())
    assert plain[-1].state.weights == {}


def test_an_average_of_positive_gammas_is_positive():
    net = fresh_net(FEW)
    for norm in find_batchnorms(net):
        nn.init.constant_(norm.weight, 0.03)
    config = FitConfig(epochs=2, batch_size=32, learning_rate=0.3, positive_gamma=True, ema=0.9)
    *_, last = fit(net, FEW, config)
    smallest = min(norm.weight.min().item() for norm in find_batchnorms(last.net))
    assert smallest >= SMALLEST_GAMMA


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("epochs", 0, "epochs must"),
        ("batch_size", 1, "batch_size must"),
        ("learning_rate", 0.0, "learning_rate must"),
        ("learning_rate", math.nan, "learning_rate must"),
        ("learning_rate", math.inf, "learning_rate must"),
        ("momentum", 1.0, "momentum must"),
        ("weight_decay", -0.1, "weight_decay must"),
        ("seed", -1, "seed must"),
        ("seed", 2**63, "seed must"),
        ("label_smoothing", 1.0, "label_smoothing must"),
        ("label_smoothing", math.nan, "label_smoothing must"),
        ("clip_gradient", -1.0, "clip_gradient must"),
        ("clip_gradient", math.inf, "clip_gradient must"),
        ("ema", 1.0, "ema must"),
        ("ema", -0.5, "ema must"),
        ("schedule", "cosin", "did you mean cosine"),
        ("precision", "bfloat", "did you mean bfloat16"),
    ],
)
def test_a_setting_out_of_range_is_named(key, value, told):
    with pytest.raises(ConfigError, match=told):
        FitConfig(**{key: value})
