"""The loop: learns, repeats itself, and resumes where it stopped."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fit_kit import few_digits, fresh_net
from training.data import Split, load_split, normalize
from training.errors import TrainingError
from training.loop.batches import default_batch_size
from training.loop.chance import STREAMS, seeded_generator
from training.loop.evaluate import evaluate
from training.loop.facts import EpochFacts
from training.loop.fit import Start, fit
from training.loop.optimize import build_optimizer
from training.loop.partial import Saving
from training.loop.state import PartialEpoch, State
from training.nets import build_net, initialize, settings_for
from training.settings.config import ConfigError, FitConfig

FEW = few_digits()


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits")


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


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    config = FitConfig(epochs=2, batch_size=32)
    weights, history = run_of(FEW, config)
    torch.rand(7)  # the global generator has no say
    again, same_history = run_of(FEW, config)
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert history == same_history
    _, other_history = run_of(FEW, replace(config, seed=1))
    assert other_history != history


def test_chance_inside_the_net_is_seeded_too_and_goes_on():
    def fresh() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))

    config = FitConfig(epochs=3, batch_size=32, learning_rate=0.01)
    weights = fresh().state_dict()

    def history(seed: int) -> list[EpochFacts]:
        net = fresh()
        net.load_state_dict(weights)
        torch.rand(7)
        return [epoch.facts for epoch in fit(net, FEW, replace(config, seed=seed))]

    assert history(0) == history(0) != history(1)
    net = fresh()
    net.load_state_dict(weights)
    first = next(fit(net, FEW, config))
    torch.rand(7)
    rest = [epoch.facts for epoch in fit(net, FEW, config, Start(epochs_done=1, state=first.state))]
    assert [first.facts, *rest] == history(0)


WAYS = {
    "plain": {},
    "averaged": {"ema": 0.9, "recalibrate_bn": 3},
    "bfloat16": {"precision": "bfloat16"},
    "careful": {"positive_gamma": True, "clip_gradient": 0.5, "label_smoothing": 0.1, "schedule": "cosine"},
}
FORGOTTEN = [
    *((way, None) for way in WAYS),
    ("plain", "optimizer"),
    ("plain", "generators"),
    ("averaged", "weights"),
]


@pytest.mark.parametrize(("way", "forgotten"), FORGOTTEN)
def test_a_run_goes_on_to_the_same_bits_and_only_with_everything(way, forgotten):
    config = FitConfig(epochs=3, batch_size=32, **WAYS[way])
    *_, whole = fit(fresh_net(FEW), FEW, config)
    net = fresh_net(FEW)
    first = next(fit(net, FEW, config))
    untouched = {
        "optimizer": build_optimizer(net, config).state_dict(),
        "generators": {name: seeded_generator(0, name).get_state() for name in STREAMS},
        "weights": {},
    }
    state = replace(first.state, **{forgotten: untouched[forgotten]} if forgotten else {})
    # As a checkpoint does it: the resumed net begins with what was published.
    resumed = fresh_net(FEW)
    resumed.load_state_dict(first.net.state_dict())
    *_, last = fit(resumed, FEW, config, Start(epochs_done=1, state=state))
    weights, expected = last.net.state_dict(), whole.net.state_dict()
    is_same = all(torch.equal(expected[key], value) for key, value in weights.items())
    assert is_same == (last.facts == whole.facts) == (last.batchnorm == whole.batchnorm) == (not forgotten)


WITHIN = {
    "plain": {},
    "averaged": {"ema": 0.9, "recalibrate_bn": 3},
    "accumulated": {"accumulate": 3},
    "best kept": {"keep": "best", "augment": "crop,mixup", "sampling": "balanced"},
    "rmsprop": {"optimizer": "rmsprop", "learning_rate": 1e-3, "momentum": 0.0},
}


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    ("way", "forgotten"),
    [*((way, None) for way in WITHIN), *(("plain", name) for name in ("losses", "chance"))],
)
def test_a_run_goes_on_within_an_epoch_to_the_same_bits_and_only_with_everything(way, forgotten, epoch):
    """The net has a Dropout, so that chance within it has to go on too."""
    config = FitConfig(epochs=2, batch_size=32, **WITHIN[way])

    def fresh() -> nn.Module:
        net = fresh_net(FEW)
        net.head.insert(3, nn.Dropout(0.3))
        return net

    saved = []

    def save(net: nn.Module, state: State) -> None:
        saved.append(copy.deepcopy((net.state_dict(), state)))

    *_, whole = history = list(fit(fresh(), FEW, config, saving=Saving(every=4, save=save)))
    *_, unsaved = fit(fresh(), FEW, config)
    assert unsaved.facts == whole.facts, "saving changes nothing"
    # 10 batches: after 4 and 8, or, three of them together, after 6 and 9.
    weights, state = saved[2 * epoch]
    assert state.partial.num_steps == (6 if way == "accumulated" else 4)
    untouched = {"losses": torch.zeros(4).double(), "chance": []}
    if forgotten:
        state = replace(state, partial=replace(state.partial, **{forgotten: untouched[forgotten]}))
    resumed = fresh()
    resumed.load_state_dict(weights)
    torch.rand(7)
    start = Start(epochs_done=epoch, state=state, history=[done.facts for done in history[:epoch]])
    *rest, last = fit(resumed, FEW, config, start)
    assert len(rest) == 1 - epoch
    is_same = all(
        torch.equal(whole.net.state_dict()[key], value) for key, value in last.net.state_dict().items()
    )
    has_same_facts = [done.facts for done in (*rest, last)] == [done.facts for done in history[epoch:]]
    assert has_same_facts == (not forgotten)
    assert is_same == (forgotten != "chance")


@pytest.mark.parametrize("num_steps", [0, 3, 10])
def test_a_partial_epoch_that_is_not_of_this_data_is_one_sentence(num_steps):
    net, config = fresh_net(FEW), FitConfig(batch_size=32, epochs=2)
    state = next(fit(net, FEW, config)).state
    partial = PartialEpoch(num_steps=num_steps, losses=torch.zeros(4), num_right=0, chance=[])
    with pytest.raises(TrainingError, match="lacks what this run needs to resume"):
        next(fit(net, FEW, config, Start(epochs_done=1, state=replace(state, partial=partial))))


@pytest.mark.parametrize("lost", ["optimizer", "generators"])
def test_a_start_that_lacks_something_is_one_sentence(lost):
    net, config = fresh_net(FEW), FitConfig(batch_size=20, epochs=2)
    epoch = next(fit(net, FEW, config))
    start = Start(epochs_done=1, state=replace(epoch.state, **{lost: {}}))
    with pytest.raises(TrainingError, match="lacks what this run needs to resume"):
        next(fit(net, FEW, config, start))


@pytest.mark.parametrize(("rows", "size"), [(10, 10), (40, 16), (100, 25), (255, 63), (256, 64), (60000, 64)])
def test_a_small_train_half_has_smaller_batches_by_default(rows, size):
    assert default_batch_size(rows) == size


def test_evaluation_leaves_the_running_statistics_alone():
    net = fresh_net(FEW)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    evaluate(net, FEW.held_out_pixels, FEW.held_out_labels, FEW.facts)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_each_use_of_chance_has_a_stream_of_its_own():
    drawn = {
        torch.rand(1, generator=seeded_generator(seed, name)).item()
        for seed in (0, 1, 2**63 - 1)
        for name in ("weights", *STREAMS)
    }
    assert len(drawn) == 9


def test_a_batch_larger_than_the_train_half_is_refused():
    with pytest.raises(ConfigError, match="batch_size must be at most 334"):
        next(fit(fresh_net(FEW), FEW, FitConfig(batch_size=335)))


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
