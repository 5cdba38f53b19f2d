"""Training in several processes: step by step, and bit by bit, what one process does with the same batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distributed_kit import here
from training.batchnorm.statistics import keep_gamma_positive
from training.data import Split
from training.loop.diagnosis import DivergedError
from training.loop.facts import EpochFacts
from training.loop.fit import fit
from training.loop.published import WeightAverage
from training.nets import new_net, read_net_settings, settings_for
from training.settings.config import FitConfig
from training_kit import FACTS, SMALLEST, tiny_split


def net_of(name: str) -> nn.Module:
    settings = settings_for(name, FACTS, read_net_settings(name, SMALLEST[name]))
    return new_net(name, settings, torch.Generator().manual_seed(1)).double()


def draw_rows(num: int, seed: int) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randn(num, *FACTS.input_shape, dtype=torch.float64, generator=chance)
    return rows, torch.randint(0, 10, (num,), generator=chance)


def twenty_steps(name: str, batch_size: int, together: bool = True) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of each of 20 steps with all that the loop may do, and the net's state at the end."""
    group, net = here(), net_of(name)
    forward = group.wrap(net, draw_rows(1, 0)[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    average = WeightAverage(net, 0.9)
    losses = []
    batches = [draw_rows(batch_size, step) for step in range(20)]
    for step, (rows, labels) in enumerate(group.synchronised(net, batches) if together else batches):
        own = group.share(torch.arange(batch_size))
        loss = functional.cross_entropy(forward(rows[own]), labels[own], label_smoothing=0.1)
        loss = group.weigh(loss, len(own), batch_size)
        losses.append(group.mean(loss.detach()).item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        keep_gamma_positive(net)
        average.update(net, step)
    average_state = {f"average {key}": value for key, value in average.net.state_dict().items()}
    return losses, {**net.state_dict(), **average_state}


# 25 rows are shares of 13 and 12. float64 rounds otherwise in other sums, and that grows from step to step.
@pytest.mark.parametrize(("name", "batch_size"), [("small-cnn", 24), ("resnet", 25), ("densenet", 25)])
def test_two_processes_train_as_one_with_the_same_batch(two, name, batch_size):
    losses, state = twenty_steps(name, batch_size)
    for found, found_state in two(twenty_steps, name, batch_size):
        assert max(abs(a - b) for a, b in zip(found, losses, strict=True)) <= 1e-9
        assert found_state.keys() == state.keys()
        assert all((found_state[key] - value).abs().max() <= 1e-9 for key, value in state.items())


def test_in_two_processes_the_weights_are_the_same_bits(two):
    (_, first), (_, second) = two(twenty_steps, "resnet", 25)
    assert all(torch.equal(second[key], value) for key, value in first.items())


def test_without_synchronised_batchnorms_the_curve_is_another(two):
    losses, _ = twenty_steps("resnet", 24)
    found, _ = two(twenty_steps, "resnet", 24, False)[0]
    assert max(abs(a - b) for a, b in zip(found, losses, strict=True)) > 1e-2


def six_steps(stops: bool) -> dict[str, Tensor]:
    """In float32; where it `stops`, the net is wrapped again halfway, as in a resumed run."""
    group, net = here(), net_of("resnet").float()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    batches = [draw_rows(24, step) for step in range(6)]
    for part in (batches[:3], batches[3:]) if stops else (batches,):
        forward = group.wrap(net, batches[0][0][:1].float())
        for rows, labels in group.synchronised(net, part):
            loss = functional.cross_entropy(forward(group.share(rows).float()), group.share(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.state_dict()


def test_three_processes_go_on_to_the_same_bits(three):
    whole, *others = three(six_steps, False)
    for state in (*others, *three(six_steps, True)):
        assert all(torch.equal(state[key], value) for key, value in whole.items())


def fitted(name: str, config: FitConfig, split: Split) -> tuple[list[EpochFacts], dict[str, Tensor]]:
    net = net_of(name)
    facts = [epoch.facts for epoch in fit(net, split, config, group=here())]
    return facts, net.state_dict()


def test_the_loop_in_three_processes_tells_the_facts_of_one(three):
    """Held-out rows are one batch of evaluation, so two of the processes have nothing to evaluate."""
    assert_three_are_one(three, FitConfig(epochs=2, batch_size=49, recalibrate_bn=2))


def test_three_processes_skip_the_rows_that_one_skips(three):
    """Each sees the losses of its own share only; the fourth epoch takes rows by what all of them saw."""
    assert_three_are_one(three, FitConfig(epochs=5, batch_size=25, skip_easy=0.5))


def assert_three_are_one(three, config: FitConfig) -> None:
    split = tiny_split()
    facts, state = fitted("keras-cnn", config, split)
    for found, found_state in three(fitted, "keras-cnn", config, split):
        for ours, theirs in zip(found, facts, strict=True):
            assert ours == replace(
                theirs,
                train_loss=pytest.approx(theirs.train_loss, abs=1e-9),
                held_out_loss=pytest.approx(theirs.held_out_loss, abs=1e-9),
            )
        assert all((found_state[key] - value).abs().max() <= 1e-9 for key, value in state.items())


def why_not(config: FitConfig, split: Split) -> str:
    with pytest.raises(DivergedError) as caught:
        fitted("resnet", config, split)
    return str(caught.value)


def test_a_loss_that_is_no_number_stops_all_at_its_step_in_the_same_words(two):
    config, split = FitConfig(batch_size=50, learning_rate=1e200), tiny_split()
    assert two(why_not, config, split) == [why_not(config, split)] * 2


class Dropping(nn.Module):
    """Tells which of its inputs it dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.masks = nn.Linear(256, 10), []

    def forward(self, rows: Tensor) -> Tensor:
        kept = functional.dropout(torch.ones_like(rows), 0.5, self.training).flatten(1)
        if self.training:
            self.masks.append(kept)
        return self.head(rows.flatten(1) * kept)


def masks_of(split: Split) -> list[Tensor]:
    torch.manual_seed(0)
    net = Dropping()
    for _ in fit(net, split, FitConfig(epochs=1, batch_size=100), group=here()):
        pass
    return net.masks


def test_each_process_drops_other_inputs_and_the_same_again(two):
    first, second = two(masks_of, tiny_split())
    assert len(first) == len(second) == 2
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    repeated = [mask for masks in two(masks_of, tiny_split()) for mask in masks]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first + second, repeated, strict=True))
