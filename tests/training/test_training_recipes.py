"""What a recipe may choose: optimizer, schedule, penalties and the balance of classes."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from fit_kit import few_digits, fresh_net
from training.loop.balance import balanced_order, class_weights, settle_class_weights
from training.loop.diagnosis import DivergedError
from training.loop.evaluate import cross_entropy
from training.loop.fit import Start, fit
from training.loop.optimize import build_optimizer, schedule, set_learning_rate
from training.settings.config import OPTIMIZERS, ConfigError, FitConfig, new_config

FEW = few_digits()
LABELS = FEW.facts.labels


def test_step_falls_to_a_tenth_at_half_and_to_a_hundredth_at_three_quarters():
    rates = [schedule(step, 100, 0.4, "step") for step in range(100)]
    assert rates == pytest.approx([0.4] * 50 + [0.04] * 25 + [0.004] * 25)
    assert {schedule(step, 100, 0.4, "constant") for step in range(100)} == {0.4}


def test_a_warmup_climbs_evenly_and_then_leaves_the_schedule_alone():
    rates = [schedule(step, 100, 0.4, "constant", 10) for step in range(100)]
    assert rates[:9] == pytest.approx([0.04 * (step + 1) for step in range(9)])
    assert set(rates[9:]) == {0.4}


def linear_net() -> nn.Module:
    """No BatchNorm, float64: what a batch does is the sum of what its rows do."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double()
    with torch.no_grad():
        net[1].weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
        net[1].bias.zero_()
    return net


def by_hand(name: str, value: torch.Tensor, grads: list[torch.Tensor], rate: float, mu: float) -> None:
    """Adam (Kingma & Ba), AdamW (Loshchilov & Hutter), RMSprop (Hinton), SGD with plain momentum."""
    decay, m, v = 0.01, torch.zeros_like(value), torch.zeros_like(value)
    for step, grad in enumerate(grads, start=1):
        if name == "adamw":
            value.mul_(1 - rate * decay)
        else:
            grad = grad + decay * value
        if name == "sgd":
            m = mu * m + grad
            value.sub_(rate * m)
        elif name == "rmsprop":
            v = 0.99 * v + 0.01 * grad**2
            m = mu * m + grad / (v.sqrt() + 1e-8)
            value.sub_(rate * m)
        else:
            m, v = mu * m + (1 - mu) * grad, 0.999 * v + 0.001 * grad**2
            value.sub_(rate * (m / (1 - mu**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("mu", [0.0, 0.8])
def test_steps_follow_the_formulas(name, mu):
    net = linear_net()
    config = FitConfig(optimizer=name, momentum=mu, nesterov=False, weight_decay=0.01)
    optimizer, weight = build_optimizer(net, config), net[1].weight
    chance = torch.Generator().manual_seed(1)
    grads = [torch.randn(weight.shape, dtype=torch.float64, generator=chance) for _ in range(4)]
    expected = weight.detach().clone()
    by_hand(name, expected, grads, 0.02, mu)
    for grad in grads:
        weight.grad = grad.clone()
        set_learning_rate(optimizer, 0.02)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_an_optimizer_has_its_own_usual_rate_unless_one_is_given():
    assert new_config({}) == FitConfig()
    assert new_config({"optimizer": "adam"}).learning_rate == 0.001
    assert new_config({"optimizer": "adam", "learning_rate": 0.5}).learning_rate == 0.5
    assert new_config({"optimizer": "rmsprop"}).momentum == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_optimizer_no_step_is_taken_after_a_non_finite_loss(name):
    class BreaksAt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = fresh_net(FEW), 0

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            if self.calls == 7:
                self.before = {key: value.clone() for key, value in self.net.named_parameters()}
            return self.net(rows) * (math.inf if self.calls == 7 else 1)

    net = BreaksAt()
    with pytest.raises(DivergedError, match="at step 6: "):
        next(fit(net, FEW, new_config({"optimizer": name, "batch_size": 32})))
    assert all(torch.equal(net.before[key], value) for key, value in net.net.named_parameters())


RECIPES = {
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw", "schedule": "step", "warmup": 0.5},
    "rmsprop": {"optimizer": "rmsprop", "schedule": "constant"},
    "plain": {"nesterov": False, "learning_rate": 0.01, "schedule": "constant", "l1": 1e-5},
    "balanced": {"sampling": "balanced", "accumulate": 3, "momentum": 0.0},
    "weighted": {"class_weights": "balanced", "keep": "best", "recalibrate_bn": 2},
    "best average": {"keep": "best", "ema": 0.6, "recalibrate_bn": 2},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_and_a_resumed_run_comes_to_the_same_bits(recipe):
    config = new_config({"epochs": 3, "batch_size": 32, **RECIPES[recipe]})
    *_, whole = fit(fresh_net(FEW), FEW, config)
    first = next(fit(fresh_net(FEW), FEW, config))
    resumed = fresh_net(FEW)
    resumed.load_state_dict(first.net.state_dict())
    start = Start(epochs_done=1, state=first.state, history=[first.facts])
    *_, last = fit(resumed, FEW, config, start)
    assert (last.facts, last.metrics, last.batchnorm) == (whole.facts, whole.metrics, whole.batchnorm)
    expected = whole.net.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in last.net.state_dict().items())
    assert last.facts.train_loss < first.facts.train_loss


def test_accumulated_batches_move_the_weights_as_one_large_batch_does():
    split = replace(FEW, train_pixels=FEW.train_pixels[:320], train_labels=FEW.train_labels[:320])
    ends = []
    for batch_size, accumulate in ((32, 1), (16, 2)):
        net = linear_net()
        config = FitConfig(
            epochs=2,
            batch_size=batch_size,
            accumulate=accumulate,
            schedule="constant",
            augment="none",
            l1=1e-3,
        )
        list(fit(net, split, config))
        ends.append(net[1].weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)


def test_a_last_group_of_fewer_batches_is_a_mean_too():
    """334 rows make 10 batches of 32: with groups of 4, the last one has 2."""
    moved = []
    net = linear_net()
    config = FitConfig(epochs=1, batch_size=32, accumulate=4, schedule="constant", augment="none")

    def note(facts: object) -> None:
        moved.append(net[1].weight.detach().clone())

    list(fit(net, FEW, config, on_step=note))
    changes = [not torch.equal(one, other) for one, other in pairwise(moved)]
    assert changes == [False, False, True, False, False, False, True, False, True]


def test_l1_pulls_every_weight_towards_zero_and_no_bias():
    still = replace(FEW, train_pixels=torch.zeros_like(FEW.train_pixels))
    config = FitConfig(
        epochs=1, batch_size=334, l1=0.5, weight_decay=0, momentum=0, schedule="constant", augment="none"
    )
    nets = [linear_net(), linear_net()]
    for net, one in zip(nets, (config, replace(config, l1=0.0)), strict=True):
        list(fit(net, still, one))
    before = linear_net()[1].weight
    torch.testing.assert_close(nets[0][1].weight - nets[1][1].weight, -0.1 * 0.5 * before.sign())
    torch.testing.assert_close(nets[0][1].bias, nets[1][1].bias)


def test_balanced_weights_and_a_weighted_loss_are_those_of_the_formulas():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    weights = class_weights("balanced", labels, 3)
    assert weights.tolist() == pytest.approx([6 / 9, 6 / 6, 6 / 3])
    assert weights[labels].mean() == pytest.approx(1)
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels, 0.0, weights), (weights[labels] * each).mean())
    assert class_weights("", labels, 3) is None
    assert class_weights("1,0,2.5", labels, 3).tolist() == [1, 0, 2.5]


@pytest.mark.parametrize("text", ["1,2", "1,2,-1", "0,0,0", "1,2,nan", "1,2,inf"])
def test_weights_that_cannot_be_are_refused(text):
    with pytest.raises(ConfigError, match="class_weights must be 3 numbers"):
        class_weights(text, torch.tensor([0, 1, 2]), 3)


def test_a_file_of_weights_is_written_out_and_no_longer_needed(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"cat": 0.5, "dog": 2}))
    config = settle_class_weights(FitConfig(class_weights=str(path)), ["dog", "cat"])
    assert config.class_weights == "2.0,0.5"
    with pytest.raises(ConfigError, match="has no weight for class 'cow'"):
        settle_class_weights(FitConfig(class_weights=str(path)), ["dog", "cow"])
    path.write_text("[1")
    with pytest.raises(ConfigError, match="must be JSON with a number for each class"):
        settle_class_weights(FitConfig(class_weights=str(path)), ["dog", "cat"])


def test_a_balanced_order_has_every_class_equally_often():
    labels = torch.tensor([0] * 900 + [2] * 90 + [3] * 10)
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    counts = torch.bincount(labels[order], minlength=4)
    assert counts[1] == 0, "a class without rows is not drawn"
    # 1,000 draws with p = 1/3: a standard deviation of 15
    assert all(abs(count - 1000 / 3) < 5 * 15 for count in counts[[0, 2, 3]].tolist())
    assert len(set(order[labels[order] == 3].tolist())) == 10, "every row of a rare class comes"
