"""The loop: learns, repeats itself, goes on where it stopped, and stops where numbers end."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training import fit as fit_module
from training.config import ConfigError, FitConfig
from training.data import Split, load_split, normalize
from training.errors import TrainingError
from training.fit import (
    DivergedError,
    EpochFacts,
    Start,
    build_optimizer,
    evaluate,
    fit,
    schedule,
    seeded_generator,
)
from training.nets import build_net, initialize, settings_for


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits")


@pytest.fixture(scope="module")
def few_digits(digits) -> Split:
    return replace(
        digits,
        train_pixels=digits.train_pixels[::12],
        train_labels=digits.train_labels[::12],
        held_out_pixels=digits.held_out_pixels[::10],
        held_out_labels=digits.held_out_labels[::10],
    )


def fresh_net(split: Split, seed: int = 0) -> nn.Module:
    net = build_net("cnn", settings_for("cnn", split.facts) | {"channels": (4, 8), "hidden": 16})
    initialize(net, seeded_generator(seed, "weights"))
    return net


def nearest_mean_accuracy(split: Split) -> float:
    """What a ruler learns: the class whose mean picture is nearest."""
    train, held_out = (
        normalize(pixels, split.facts).flatten(1) for pixels in (split.train_pixels, split.held_out_pixels)
    )
    means = torch.stack([train[split.train_labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(held_out, means).argmin(1)
    return (nearest == split.held_out_labels).double().mean().item()


def test_two_epochs_beat_the_nearest_mean_by_far(digits):
    digits = replace(digits, train_pixels=digits.train_pixels[::2], train_labels=digits.train_labels[::2])
    net = build_net("cnn", settings_for("cnn", digits.facts))
    initialize(net, seeded_generator(0, "weights"))
    first, last = (epoch.facts for epoch in fit(net, digits, FitConfig(epochs=2)))
    floor = nearest_mean_accuracy(digits)
    assert 0.7 < floor < 0.9
    # At least half of what the ruler gets wrong.
    assert last.held_out_accuracy > (1 + floor) / 2
    assert last.held_out_loss < first.held_out_loss
    assert (first.epoch, first.step, last.epoch, last.step) == (1, 31, 2, 62)
    assert evaluate(net, digits.held_out_pixels, digits.held_out_labels, digits.facts) == (
        last.held_out_loss,
        last.held_out_accuracy,
    )


def run_of(split: Split, config: FitConfig) -> tuple[dict[str, Tensor], list[EpochFacts]]:
    net = fresh_net(split, config.seed)
    history = [epoch.facts for epoch in fit(net, split, config)]
    return net.state_dict(), history


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(few_digits):
    config = FitConfig(epochs=2, batch_size=32)
    weights, history = run_of(few_digits, config)
    torch.rand(7)  # the global generator has no say
    again, same_history = run_of(few_digits, config)
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert history == same_history
    _, other_history = run_of(few_digits, replace(config, seed=1))
    assert other_history != history


@pytest.mark.parametrize("forgotten", [None, "optimizer", "generators"])
def test_a_run_goes_on_to_the_same_bits_and_only_with_everything(few_digits, forgotten):
    config = FitConfig(epochs=3, batch_size=32)
    weights, history = run_of(few_digits, config)
    net = fresh_net(few_digits)
    epoch = next(fit(net, few_digits, config))
    untouched = Start(
        epochs_done=0,
        optimizer=build_optimizer(net, config).state_dict(),
        generators={name: seeded_generator(0, name).get_state() for name in fit_module.STREAMS},
    )
    start = Start(
        epochs_done=1,
        optimizer=(untouched if forgotten == "optimizer" else epoch).optimizer,
        generators=(untouched if forgotten == "generators" else epoch).generators,
    )
    rest = [epoch.facts for epoch in fit(net, few_digits, config, start)]
    is_same = all(torch.equal(weights[key], value) for key, value in net.state_dict().items())
    assert is_same == (rest == history[1:]) == (forgotten is None)


@pytest.mark.parametrize("lost", ["optimizer", "generators"])
def test_a_start_that_lacks_something_is_one_sentence(few_digits, lost):
    net, config = fresh_net(few_digits), FitConfig(batch_size=20, epochs=2)
    epoch = next(fit(net, few_digits, config))
    start = Start(epochs_done=1, optimizer=epoch.optimizer, generators=epoch.generators)
    with pytest.raises(TrainingError, match="does not hold what this run needs to go on"):
        next(fit(net, few_digits, config, replace(start, **{lost: {}})))


def test_a_loss_that_is_no_number_stops_at_its_step(few_digits):
    class Breaks(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.calls = net, 0

        def forward(self, rows: Tensor) -> Tensor:
            self.calls += self.training
            return self.net(rows) * (math.inf if self.calls == 13 else 1)

    # 334 rows make 10 steps of 32: the 13th call is step 12, in the second epoch.
    net = Breaks(fresh_net(few_digits))
    epochs = fit(net, few_digits, FitConfig(epochs=3, batch_size=32))
    assert next(epochs).facts.epoch == 1
    with pytest.raises(
        DivergedError, match=r"the loss became (nan|inf) at step 12; try a learning rate below 0\.1"
    ):
        next(epochs)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_a_far_too_large_learning_rate_diverges_for_real(few_digits):
    with pytest.raises(DivergedError, match="step"):
        list(fit(fresh_net(few_digits), few_digits, FitConfig(epochs=2, batch_size=32, learning_rate=1e30)))


def test_the_schedule_climbs_to_its_peak_and_comes_down_to_nothing():
    rates = [schedule(step, 1000, 0.4) for step in range(1000)]
    top = rates.index(max(rates))
    assert 249 <= top <= 250
    assert 0.99 * 0.4 < max(rates) <= 0.4
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] < 0.4 / 250
    assert 0 < rates[-1] < 0.4 / 1e5


def test_weight_decay_spares_biases_and_what_batchnorm_learns(digits):
    net = fresh_net(digits)
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


def test_evaluation_leaves_the_running_statistics_alone(few_digits):
    net = fresh_net(few_digits)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    evaluate(net, few_digits.held_out_pixels, few_digits.held_out_labels, few_digits.facts)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_each_use_of_chance_has_a_stream_of_its_own():
    drawn = {
        torch.rand(1, generator=seeded_generator(seed, name)).item()
        for seed in (0, 1, 2**63 - 1)
        for name in ("weights", *fit_module.STREAMS)
    }
    assert len(drawn) == 9


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_a_setting_out_of_range_is_named(key, value):
    with pytest.raises(ConfigError, match=f"{key} must"):
        FitConfig(**{key: value})


def test_a_batch_larger_than_the_train_half_is_refused(few_digits):
    with pytest.raises(ConfigError, match="batch_size must be at most 334"):
        next(fit(fresh_net(few_digits), few_digits, FitConfig(batch_size=335)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch has no CUDA device")
def test_on_a_gpu_bf16_learns_and_statistics_stay_float32(digits):
    split = digits.to(torch.device("cuda"))
    net = build_net("cnn", settings_for("cnn", digits.facts))
    initialize(net, seeded_generator(0, "weights"))
    dtypes: set[torch.dtype] = set()
    net.blocks[0].register_forward_hook(
        lambda module, args, out: dtypes.add(out.dtype) if module.training else None
    )
    *_, last = fit(net.cuda(), split, FitConfig(epochs=2))
    assert dtypes == {torch.bfloat16}
    assert {value.dtype for key, value in net.state_dict().items() if "running" in key} == {torch.float32}
    assert last.facts.held_out_accuracy > (1 + nearest_mean_accuracy(digits)) / 2
